"""The device mesh and the shardings on it. The only file that names mesh axes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

REPLICA, SHARD = 'replica', 'shard'
BATCH = (REPLICA, SHARD)


def make_mesh(shard: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Makes a mesh with axes ('replica', 'shard') of `devices`, by default all.

  The batch is sharded over both axes, the state at most over `shard`.

  Raises:
    ValueError: if `shard` does not divide the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  if count % shard:
    raise ValueError(f'mesh.shard={shard} does not divide the {count} devices')
  # Auto, not Explicit: the per-video frame gather and the embedding lookup do not type-check under Explicit.
  return jax.make_mesh((count // shard, shard), (REPLICA, SHARD), axis_types=(AxisType.Auto,) * 2, devices=devices)


def abstract_mesh(count: int, shard: int) -> AbstractMesh:
  """An abstract mesh, for shape computations without devices."""
  return AbstractMesh((count // shard, shard), (REPLICA, SHARD), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding with one copy on every device."""
  return NamedSharding(mesh, P())


def batch(mesh: Mesh) -> NamedSharding:
  """Sharding of the leading axis B over all devices."""
  return NamedSharding(mesh, P(BATCH))


def train_batch(mesh: Mesh) -> NamedSharding:
  """Sharding of [d_steps, B, ...] with B over all devices."""
  return NamedSharding(mesh, P(None, BATCH))


def state(mesh: Mesh, tree: Any) -> Any:
  """Shardings of the leaves of a TrainState: optimizer state and EMA over `shard`, all else replicated.

  Each device of a shard group then computes only its part of the update (Xu et al. 2020, weight-update sharding).
  """
  everywhere = jax.tree.map(lambda _: replicated(mesh), tree)
  if mesh.shape[SHARD] == 1:
    return everywhere

  def split(part):
    return jax.tree.map(functools.partial(_over_shard, mesh), part)

  nets = {
    name: getattr(everywhere, name)._replace(opt_state=split(getattr(tree, name).opt_state)) for name in ('gen', 'disc')
  }
  return everywhere._replace(ema_params=split(tree.ema_params), **nets)


def keep_replicated(mesh: Mesh) -> Callable[[Any], Any]:
  """Returns a function that constrains a tree to be replicated; the identity if the axis `shard` has size 1.

  Gradients are all-reduced, the update is sharded, and the weights are all-gathered. Without the constraint XLA would
  propagate the update's sharding into the convolutions.
  """
  if mesh.shape[SHARD] == 1:
    return lambda tree: tree
  return lambda tree: jax.lax.with_sharding_constraint(tree, replicated(mesh))


def gathered(tree: Any) -> Any:
  """The tree replicated over its mesh; a tree that is on no mesh is returned unchanged."""
  place = getattr(jax.tree.leaves(tree)[0], 'sharding', None)
  if not isinstance(place, NamedSharding):
    return tree
  return jax.device_put(tree, replicated(place.mesh))


def placed(shapes: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs with `shardings` attached."""
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
  )


def _over_shard(mesh: Mesh, leaf: Any) -> NamedSharding:
  """Sharding of the longest axis whose size `shard` divides; a leaf without such an axis is replicated."""
  axes = [axis for axis, size in enumerate(leaf.shape) if size and size % mesh.shape[SHARD] == 0]
  if not axes:
    return replicated(mesh)
  longest = max(axes, key=lambda axis: leaf.shape[axis])
  return NamedSharding(mesh, P(*(SHARD if axis == longest else None for axis in range(len(leaf.shape)))))


def host_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Rows of a global batch that this process loads for its devices: int [B_host], ascending."""
  held = batch(mesh).addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))
