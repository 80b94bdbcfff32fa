"""Processes a batch as microbatches, one after another, to save memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def mean(fn: Callable[[Tree], Tree], batch: Tree, count: int, *, unroll: bool, group: int = 1) -> Tree:
  """Mean of `fn` over the microbatches of a batch.

  Args:
    fn: maps a microbatch to a pytree of float arrays that are means over its rows, e.g. gradients.
    batch: arrays [B, ...]; `count * group` divides the number of rows on each device.
    count: number of microbatches.
    unroll: compile every microbatch separately, without a loop.
    group: number of neighbouring rows that stay in one microbatch.
  """
  if count == 1:
    return fn(batch)

  def parted(x):
    # A microbatch takes every count-th group of rows, not B / count consecutive rows: each row stays on its device.
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
