"""A batch in parts, one after another: less memory for the same batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def mean(fn: Callable[[Tree], Tree], batch: Tree, count: int, *, unroll: bool, group: int = 1) -> Tree:
  """The mean of `fn` over the parts of a batch.

  Args:
    fn: of a part, to a tree of float arrays that are means over the part's rows, gradients say.
    batch: arrays [B, ...]; `count` divides the rows of each device.
    count: of parts.
    unroll: compile the parts one by one, without a loop.
    group: neighbouring rows that stay in one part.
  """
  if count == 1:
    return fn(batch)

  def parted(x):
    # Every count-th group of rows, not the first B / count rows: no row then changes its device.
    rows, *rest = x.shape
    groups = x.reshape(rows // (count * group), count, group, *rest).swapaxes(0, 1)
    return groups.reshape(count, rows // count, *rest)

  parts = jax.tree.map(parted, batch)
  shapes = jax.eval_shape(fn, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(
    lambda total, part: (jax.tree.map(jnp.add, total, fn(part)), None), zeros, parts, unroll=0 if unroll else 1
  )
  return jax.tree.map(lambda x: x / count, total)
