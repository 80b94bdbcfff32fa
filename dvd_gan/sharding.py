"""The device mesh and what lies where on it. The only file that names mesh axes."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

REPLICA, SHARD = 'replica', 'shard'
BATCH = (REPLICA, SHARD)
GRADIENTS_SENT_TOGETHER = 32 << 20  # bytes; a full-width kernel is 37 MB, so most go alone


def make_mesh(shard: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Devices, all by default, as ('replica', 'shard'): the batch is split over both, state at most over `shard`.

  Raises:
    ValueError: if `shard` does not divide the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  if count % shard:
    raise ValueError(f'mesh.shard={shard} does not divide the {count} devices')
  # Auto, not Explicit: the per-video frame gather and the embedding lookup do not type-check under Explicit.
  return jax.make_mesh((count // shard, shard), (REPLICA, SHARD), axis_types=(AxisType.Auto,) * 2, devices=devices)


def platform(mesh: Mesh) -> str:
  """'cpu', 'gpu' or 'tpu'."""
  return mesh.devices.flat[0].platform


def abstract_mesh(count: int, shard: int) -> AbstractMesh:
  """A mesh of devices that are not there, to reckon with."""
  return AbstractMesh((count // shard, shard), (REPLICA, SHARD), axis_types=(AxisType.Auto,) * 2)


def resamples_in_kernel(choice: str) -> bool:
  """Whether a convolution and the average after it, or the upsampling before it, are computed as one.

  The same numbers from 4/9 of that convolution's arithmetic (8/27 where it is 3-D). On a CPU that is time saved
  (results/performance); on the other backends, which it has not been measured on, it has to be asked for
  (`mesh.resampling`).
  """
  return jax.default_backend() == 'cpu' if choice == 'auto' else choice == 'in_kernel'


def forms(mesh_config: Any) -> dict[str, bool]:
  """The forms in which the backend here computes a step, for train_step.make_recipe, from `config.mesh`."""
  in_kernel = resamples_in_kernel(mesh_config.resampling)
  return {'unroll': mesh_config.loops == 'unroll', 'resample_in_kernel': in_kernel}


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
  """Options of XLA's for every jit of a program with convolutions, by platform ('cpu', 'gpu', 'tpu').

  On a CPU jaxlib 0.10 hands convolutions to YNNPACK, which runs most of ours on one core, half as fast as XLA's own
  kernels on two; its reductions and matrix products are the faster ones. The schedule that frees memory early takes a
  quarter less of it at 0.98 to 1.04 times the time. LLVM's first level of optimisation compiles in three quarters of the
  time to steps as fast as its third's (all: results/performance). What a jaxlib does not know, or XLA_FLAGS already say, is
  left out.
  """
  if platform != 'cpu':
    return {}
  kinds = ('REDUCE', 'INDIVIDUAL_DOT')
  options = {
    'xla_cpu_experimental_ynn_fusion_type': ','.join(f'LIBRARY_FUSION_TYPE_{kind}' for kind in kinds),
    'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
    'xla_backend_optimization_level': '1',
  }
  flags = os.environ.get('XLA_FLAGS', '')
  return {name: value for name, value in options.items() if name not in flags and _is_known({name: value})}


def _is_known(option: dict[str, str]) -> bool:
  try:
    jax.jit(lambda: 0, compiler_options=option).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True


def replicated(mesh: Mesh) -> NamedSharding:
  """One copy on every device."""
  return NamedSharding(mesh, P())


def batch(mesh: Mesh) -> NamedSharding:
  """Leading axis B over all devices."""
  return NamedSharding(mesh, P(BATCH))


def train_batch(mesh: Mesh) -> NamedSharding:
  """[d_steps, B, ...] with B over all devices."""
  return NamedSharding(mesh, P(None, BATCH))


def state(mesh: Mesh, tree: Any) -> Any:
  """Where each leaf of a TrainState lies: optimizer state and EMA over `shard`, all else whole on every device.

  Each device of a shard group then updates its part of the weights alone (Xu et al. 2020, weight-update sharding).
  """
  whole = jax.tree.map(lambda _: replicated(mesh), tree)
  if mesh.shape[SHARD] == 1:
    return whole

  def split(part):
    return jax.tree.map(functools.partial(_over_shard, mesh), part)

  nets = {
    name: getattr(whole, name)._replace(opt_state=split(getattr(tree, name).opt_state)) for name in ('gen', 'disc')
  }
  return whole._replace(ema_params=split(tree.ema_params), **nets)


def overlap_options(platform: str) -> dict[str, str]:
  """Options of XLA's with which a TPU sends finished gradients while it computes the next ones; elsewhere none.

  Without them the compiler joins all gradients into a few all-reduces and waits for each. The first two limit how much
  is joined and let an all-reduce be split in time; the others let it run inside the fusions that follow it.
  """
  if platform != 'tpu':
    return {}
  return {
    'xla_jf_crs_combiner_threshold_in_bytes': str(GRADIENTS_SENT_TOGETHER),
    'xla_enable_async_all_reduce': 'true',
    'xla_tpu_enable_async_collective_fusion': 'true',
    'xla_tpu_enable_async_collective_fusion_fuse_all_reduce': 'true',
  }


def keep_whole(mesh: Mesh) -> Callable[[Any], Any]:
  """Constrains a tree to lie whole on every device, where there is a choice.

  Gradients are all-reduced, the update is computed in parts, the weights are gathered: without this XLA would carry the
  parts back into the convolutions.
  """
  if mesh.shape[SHARD] == 1:
    return lambda tree: tree
  return lambda tree: jax.lax.with_sharding_constraint(tree, replicated(mesh))


def gathered(tree: Any) -> Any:
  """The tree whole on every device of its mesh; a tree that lies on none stays as it is."""
  place = getattr(jax.tree.leaves(tree)[0], 'sharding', None)
  if not isinstance(place, NamedSharding):
    return tree
  return jax.jit(lambda tree: tree, out_shardings=replicated(place.mesh))(tree)


def placed(shapes: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs with their places."""
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
  )


def _over_shard(mesh: Mesh, leaf: Any) -> NamedSharding:
  """The longest axis that `shard` divides, over it; a leaf without one stays whole."""
  axes = [axis for axis, size in enumerate(leaf.shape) if size and size % mesh.shape[SHARD] == 0]
  if not axes:
    return replicated(mesh)
  longest = max(axes, key=lambda axis: leaf.shape[axis])
  return NamedSharding(mesh, P(*(SHARD if axis == longest else None for axis in range(len(leaf.shape)))))


def host_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """The rows of a global batch that this process loads, int [B_host], ascending: those that its devices hold."""
  held = batch(mesh).addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))
