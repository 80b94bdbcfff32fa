"""Separable self-attention: over height, then width, then time."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models.ops import layers

AXES = {'height': 2, 'width': 3, 'time': 1}


class AxisAttention(nn.Module):
  """softmax(XQ (XK)^T) XV along one axis, multiplied by a gain that starts at zero, plus X.

  No scaling of the logits and no mask, as in the paper's formula; Q and K have C / 8 channels, V has C.

  Attributes:
    axis: axis of [B, T, H, W, C] to attend along.
  """

  axis: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, T, H, W, C] -> the same shape."""
    channels = x.shape[-1]

    def project(features, name):
      # Dense on [..., C] is a 1x1 convolution.
      return layers.Dense(features, use_bias=False, dtype=self.dtype, name=name)(
        jnp.moveaxis(x, self.axis, 3)
      )  # [..., L, features], L the attended axis

    query = project(max(channels // 8, 1), 'query')
    key = project(max(channels // 8, 1), 'key')
    value = project(channels, 'value')
    logits = jnp.einsum('...qc,...kc->...qk', query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    attended = jnp.moveaxis(jnp.einsum('...qk,...kc->...qc', weights, value), 3, self.axis)
    gain = self.param('gain', nn.initializers.zeros_init(), ())
    return x + layers.scale(attended, gain)


class SeparableAttention(nn.Module):
  """AxisAttention over each of `axes` in turn; the identity at initialisation (paper, section 3)."""

  axes: tuple[str, ...] = ('height', 'width', 'time')
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, T, H, W, C] -> the same shape."""
    for name in self.axes:
      x = AxisAttention(AXES[name], self.dtype, name=name)(x)
    return x
