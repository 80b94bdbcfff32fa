"""The convolutional GRU that unrolls a feature map over frames."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models.ops.convolution import conv2d, kernel_gradient, transposed
from dvd_gan.models.ops.layers import add_bias

# The candidate's activation, and its derivative as a function of the activation's output.
ACTIVATIONS = {'relu': (jax.nn.relu, lambda c: (c > 0).astype(c.dtype)), 'tanh': (jnp.tanh, lambda c: 1 - c * c)}


class ConvGRU(nn.Module):
  """r, u = sigmoid(W * [h; x] + b);  c = act(W_c * [r . h; x] + b_c);  h' = u . h + (1 - u) . c  (paper, section 3).

  Each gate has one kernel on [h; x], so that its spectral norm is that of W. The part of the kernel that acts on x is
  applied to all frames at once, outside the recurrence.

  Attributes:
    features: width of the state.
    frames: length of the output.
    activation: of the candidate, 'relu' (paper) or 'tanh'.
    dtype: of the computation.
  """

  features: int
  frames: int
  activation: str = 'relu'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, state: jax.Array | None = None) -> jax.Array:
    """Unrolls over frames.

    Args:
      x: [B, T, H, W, C], or [B, 1, H, W, C] for the same input at every frame.
      state: initial state [B, H, W, features]; None for zeros.

    Returns:
      The states after each frame, [B, T, H, W, features].
    """
    width = self.features
    gates = [_Gate(width, x.shape[-1], name=name)() for name in ('reset', 'update', 'candidate')]
    kernels = [kernel for kernel, _ in gates]
    bias = jnp.concatenate([bias for _, bias in gates])
    on_input = jnp.concatenate([kernel[:, :, width:] for kernel in kernels], axis=-1)
    on_state = jnp.concatenate([kernel[:, :, :width] for kernel in kernels[:2]], axis=-1)
    on_reset_state = kernels[2][:, :, :width]

    driven = add_bias(conv2d(x.astype(self.dtype), on_input), bias)  # [B, T or 1, H, W, 3 * features]
    driven = jnp.broadcast_to(driven, (x.shape[0], self.frames, *driven.shape[2:]))
    driven = jnp.moveaxis(driven, 1, 0)  # [T, B, H, W, 3 * features]
    if state is None:
      # With a zero state the first step needs no convolution of the state.
      _, u, c = jnp.split(driven[0], 3, axis=-1)
      state = (1 - jax.nn.sigmoid(u)) * ACTIVATIONS[self.activation][0](c)
      later = _recur(self.activation, driven[1:], state, on_state, on_reset_state)
      states = jnp.concatenate([state[None], later])
    else:
      states = _recur(self.activation, driven, state.astype(self.dtype), on_state, on_reset_state)
    return jnp.moveaxis(states, 0, 1)  # [B, T, H, W, features]


class _Gate(nn.Module):
  """Holds one gate's kernel [3, 3, state + input, features], acting on [h; x], and its bias."""

  features: int
  inputs: int

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    zeros = nn.initializers.zeros_init()
    kernel = self.param('kernel', zeros, (3, 3, self.features + self.inputs, self.features))
    return kernel, self.param('bias', zeros, (self.features,))


# The gradient of the recurrence is written out for two reasons. First, the gradient of each kernel is one convolution
# over all frames; autodiff would sum one convolution for each frame. Second, the flipped kernels of the backward
# convolutions are computed once, outside the loop; inside a loop XLA's CPU backend runs a convolution's gradient up to
# 50 times slower.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recur(activation, driven, state, on_state, on_reset_state):
  """States [T, B, H, W, C]; `driven` [T, B, H, W, 3C] is W * x + b of the reset and update gates and the candidate."""
  return _recur_forward(activation, driven, state, on_state, on_reset_state)[0]


def _recur_forward(activation, driven, state, on_state, on_reset_state):
  act, _ = ACTIVATIONS[activation]
  width = state.shape[-1]
  on_state_now, on_reset_state_now = (kernel.astype(state.dtype) for kernel in (on_state, on_reset_state))

  def step(h, from_input):
    r, u = jnp.split(jax.nn.sigmoid(conv2d(h, on_state_now) + from_input[..., : 2 * width]), 2, axis=-1)
    c = act(conv2d(r * h, on_reset_state_now) + from_input[..., 2 * width :])
    new = u * h + (1 - u) * c
    return new, (new, r, u, c)

  _, (states, r, u, c) = jax.lax.scan(step, state, driven)
  return states, (state, states, r, u, c, on_state, on_reset_state)


def _recur_backward(activation, saved, d_states):
  _, derivative = ACTIVATIONS[activation]
  state, states, r, u, c, on_state, on_reset_state = saved
  before = jnp.concatenate([state[None], states[:-1]])  # the state before each step
  back_state, back_reset_state = (transposed(k).astype(state.dtype) for k in (on_state, on_reset_state))

  def step(d_next, at):
    d_new, h, r, u, c = at
    d_new = d_new + d_next
    d_candidate = d_new * (1 - u) * derivative(c)
    d_reset_state = conv2d(d_candidate, back_reset_state)
    d_gates = jnp.concatenate([d_reset_state * h * r * (1 - r), d_new * (h - c) * u * (1 - u)], axis=-1)
    d_h = d_new * u + d_reset_state * r + conv2d(d_gates, back_state)
    return d_h, (d_gates, d_candidate)

  d_state, (d_gates, d_candidate) = jax.lax.scan(step, jnp.zeros_like(state), (d_states, before, r, u, c), reverse=True)
  d_driven = jnp.concatenate([d_gates, d_candidate], axis=-1)
  # Batch first: merging the axes [T, B] would all-gather a batch that is sharded over devices.
  d_on_state = kernel_gradient(*_batch_first(before, d_gates), on_state.shape)
  d_on_reset_state = kernel_gradient(*_batch_first(r * before, d_candidate), on_reset_state.shape)
  return d_driven, d_state, d_on_state, d_on_reset_state


_recur.defvjp(_recur_forward, _recur_backward)


def _batch_first(*arrays: jax.Array) -> list[jax.Array]:
  return [jnp.moveaxis(array, 0, 1) for array in arrays]
