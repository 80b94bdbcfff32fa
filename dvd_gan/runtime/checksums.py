"""Checksums of the arrays in a pytree, independent of their sharding."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def of(tree: Any) -> dict[str, int]:
  """A checksum of each leaf, by path. Any flipped bit changes it; the leaf's sharding does not."""
  paths = [name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
  return dict(zip(paths, np.asarray(_leaves(jax.tree.leaves(tree))).tolist(), strict=True))


def digest(tree: Any) -> str:
  """A hash of the values in a pytree, as 16 hexadecimal digits."""
  return hashlib.sha256(json.dumps(of(tree), sort_keys=True).encode()).hexdigest()[:16]


def name(path: tuple) -> str:
  """A pytree path as text, a/b/0; equal for a NamedTuple and for the dict that orbax restores in its place."""
  return '/'.join(str(getattr(key, 'key', getattr(key, 'idx', getattr(key, 'name', key)))) for key in path)


@jax.jit
def _leaves(leaves: list[jax.Array]) -> jax.Array:
  return jnp.stack([_leaf(leaf) for leaf in leaves])


def _leaf(leaf: jax.Array) -> jax.Array:
  """Sum of the elements' bits, each multiplied by an odd number that depends on its index, modulo 2^32.

  Integer addition is exact in any order, so the sum is computed on the devices and does not depend on the sharding. A
  flipped bit changes it by an odd multiple of a power of two below 2^32.
  """
  bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize])
  number, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
  for axis in reversed(range(leaf.ndim)):
    number += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride)
    stride *= leaf.shape[axis]
  return jnp.sum(bits.astype(jnp.uint32) * (2 * number + 1), dtype=jnp.uint32)
