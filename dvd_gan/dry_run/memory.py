"""Estimates the temporary memory of a train step without compiling.

The residuals of the backward pass come from the step's own loss function. Factors fitted to the compiled rows in
results/dry_run give the share that XLA holds at once, and the memory needed for the weights.
"""

import copy
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dvd_gan import augment, train_step

GIB = 2**30


class Factors(NamedTuple):
  """GiB of temporaries per GiB of each quantity; `sizes` returns the quantities in the same form."""

  kept: float  # residuals with the config's remat
  plain: float  # residuals without remat
  weights: float  # parameters


# Fitted by results/dry_run/table.py, which also prints their errors.
PLAIN = Factors(0.0, 0.74, 0.40)
REMAT = Factors(1.0, 0.13, 2.07)


def temporaries(config: Any, batch_size: int) -> float:
  """Estimated GiB of temporaries of a train step on a device with `batch_size` videos."""
  return combine(sizes(config, batch_size), config.gen.remat)  # most of the memory is G's, so its remat selects


def combine(sizes: Factors, remat: bool) -> float:
  """GiB of temporaries from the result of `sizes`."""
  return sum(factor * size for factor, size in zip(REMAT if remat else PLAIN, sizes, strict=True))


def sizes(config: Any, batch_size: int) -> Factors:
  """The quantities that the factors multiply, in GiB."""
  plain = copy.deepcopy(config)
  plain.gen.remat = plain.disc.remat = False
  return Factors(kept(config, batch_size) / GIB, kept(plain, batch_size) / GIB, weights(config) / GIB)


def kept(config: Any, batch_size: int) -> int:
  """Bytes of activations that the G step keeps for its backward pass; D's steps keep less."""
  spec, data = train_step.make_spec(config, unroll=False), config.data
  state = train_step.state_shapes(config)
  weights, frame = (state.disc.params, state.gen.params), (data.resolution, data.resolution, 3)
  inputs = {
    'z': jax.ShapeDtypeStruct((batch_size, config.gen.z_dim), jnp.float32),
    'label': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    'context': jax.ShapeDtypeStruct((batch_size, data.context, *frame), jnp.float32),
    'truth': jax.ShapeDtypeStruct((batch_size, data.frames - data.context, *frame), jnp.float32),
    'chosen': jax.ShapeDtypeStruct((batch_size, config.disc.frames_k), jnp.int32),
    'corners': jax.ShapeDtypeStruct((batch_size, 2), jnp.int32),
    'draws': jax.eval_shape(lambda: augment.draw(jax.random.key(0), batch_size, data.resolution, spec.augment)),
  }

  def backward(disc_weights, weights, inputs):
    loss_fn = functools.partial(train_step.gen_loss, spec, disc_weights)
    return jax.vjp(lambda weights: loss_fn(weights, inputs)[0], weights)[1]

  # The pullback is a pytree of residuals. It includes the weights, which are excluded by shape.
  leaves = jax.tree.leaves(jax.eval_shape(backward, *weights, inputs))
  of_weights = {leaf.shape for leaf in jax.tree.leaves(weights)}
  return sum(_bytes(leaf) for leaf in leaves if leaf.shape not in of_weights)


def weights(config: Any) -> int:
  """Bytes of both networks' parameters in float32."""
  state = train_step.state_shapes(config)
  return sum(_bytes(leaf) for leaf in jax.tree.leaves((state.gen.params, state.disc.params)))


def _bytes(leaf: Any) -> int:
  return math.prod(leaf.shape) * leaf.dtype.itemsize
