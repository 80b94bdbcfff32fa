"""Checksums of the arrays in a tree, the same on one device and on a pod."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def of(tree: Any) -> dict[str, int]:
  """A number for each leaf that any flipped bit changes, whatever the leaf's placement."""
  paths = [name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
  return dict(zip(paths, np.asarray(_leaves(jax.tree.leaves(tree))).tolist(), strict=True))


def digest(tree: Any) -> str:
  """A name for the numbers in a tree, by their checksums."""
  return hashlib.sha256(json.dumps(of(tree), sort_keys=True).encode()).hexdigest()[:16]


def name(path: tuple) -> str:
  """a/b/0: the same for a NamedTuple's fields as for the dict that orbax makes of them."""
  return '/'.join(str(getattr(key, 'key', getattr(key, 'idx', getattr(key, 'name', key)))) for key in path)


@jax.jit
def _leaves(leaves: list[jax.Array]) -> jax.Array:
  return jnp.stack([_leaf(leaf) for leaf in leaves])


def _leaf(leaf: jax.Array) -> jax.Array:
  """Sum of the elements' bits, each times its own odd number, modulo 2^32.

  Exact in any order, so it needs no copy on the host and is the same on one device and on a pod. A flipped bit changes
  it by an odd multiple of a power of two below 2^32.
  """
  bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize])
  number, stride = jnp.zeros(leaf.shape, jnp.uint32), 1
  for axis in reversed(range(leaf.ndim)):
    number += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(stride)
    stride *= leaf.shape[axis]
  return jnp.sum(bits.astype(jnp.uint32) * (2 * number + 1), dtype=jnp.uint32)
