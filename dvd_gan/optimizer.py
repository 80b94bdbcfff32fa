"""Adam for both networks: without a first moment at b1 = 0, and with an optional linear decay of the learning rate."""

import jax
import jax.numpy as jnp
import optax


def adam(
  learning_rate: float, b1: float, b2: float, decay_from: int = 0, decay_to: int = 0
) -> optax.GradientTransformationExtraArgs:
  """Adam, whose `update` takes the keyword argument `step`, int32, the number of generator updates so far.

  At b1 = 0 the first moment equals the gradient and is not stored.

  Args:
    learning_rate: constant until step `decay_from`, then linear to 0 at step `decay_to`.
    b1, b2: as in Adam.
    decay_from, decay_to: first and last step of the decay; without decay unless decay_from < decay_to.
  """
  if b1:
    scale = optax.scale_by_adam(b1=b1, b2=b2)
  else:
    scale = optax.scale_by_rms(decay=b2, eps=1e-8, eps_in_sqrt=False, bias_correction=True)
  return optax.chain(scale, _decaying(learning_rate, decay_from, decay_to))


def linear_decay(step: jax.Array, start: int, end: int) -> jax.Array | float:
  """A factor that is 1 until step `start`, then linear to 0 at step `end`; always 1 unless start < end."""
  return jnp.clip((end - step) / (end - start), 0.0, 1.0) if start < end else 1.0


def _decaying(learning_rate: float, decay_from: int, decay_to: int) -> optax.GradientTransformationExtraArgs:
  """`optax.scale_by_learning_rate` with a rate that depends on the caller's `step`.

  An optax schedule would add a count to the optimizer state, and a checkpoint from a run without decay would not fit.
  """

  def update(updates, state, params=None, *, step, **_):
    factor = linear_decay(step, decay_from, decay_to)
    return jax.tree.map(lambda one: -learning_rate * factor * one, updates), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
