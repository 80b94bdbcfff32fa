"""Convolutions and linear maps whose parameters' gradients are float32, whatever the computation's dtype.

Under jit a parameter's gradient is all-reduced over the devices in the dtype in which its convolution returns it. With
bfloat16 compute that would be bfloat16, which has about three significant digits, in a sum over up to 512 replicas.
Here the products are accumulated and returned in float32. Parameters keep Flax's names, `kernel` and `bias`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models.ops import resampling
from dvd_gan.models.ops.convolution import conv2d


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x [..., in] times kernel [in, out] f32, in x's dtype."""
  return x @ kernel.astype(x.dtype)


def _matmul_forward(x, kernel):
  return matmul(x, kernel), (x, kernel)


def _matmul_backward(saved, d_out):
  x, kernel = saved
  leading = tuple(range(x.ndim - 1))
  d_kernel = jax.lax.dot_general(x, d_out, ((leading, leading), ((), ())), preferred_element_type=jnp.float32)
  return d_out @ kernel.astype(d_out.dtype).T, d_kernel


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """x [..., C] plus bias [C] f32, in x's dtype."""
  return x + bias.astype(x.dtype)


def _add_bias_backward(_, d_out):
  return d_out, d_out.astype(jnp.float32).sum(tuple(range(d_out.ndim - 1)))


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_backward)


@jax.custom_vjp
def scale(x: jax.Array, gain: jax.Array) -> jax.Array:
  """x times a scalar gain, f32, in x's dtype."""
  return x * gain.astype(x.dtype)


def _scale_backward(saved, d_out):
  x, gain = saved
  return d_out * gain.astype(d_out.dtype), jnp.sum(x.astype(jnp.float32) * d_out.astype(jnp.float32))


scale.defvjp(lambda x, gain: (scale(x, gain), (x, gain)), _scale_backward)


class Conv(nn.Module):
  """'Same' 2-D convolution on [..., H, W, C], with bias.

  Attributes:
    features: output channels.
    size: height and width of the kernel, odd.
    dtype: of the computation; parameters and their gradients are f32.
    pool: average the output over 2x2 windows, within the same convolution; size must be 3.
    upsampling: '', or upsample the input by 'bilinear' or 'nearest', within the same convolution; size must be 3.
  """

  features: int
  size: int
  dtype: jnp.dtype = jnp.float32
  pool: bool = False
  upsampling: str = ''

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [..., H, W, C] -> [..., H, W, features], H and W halved with `pool`, doubled with `upsampling`."""
    zeros = nn.initializers.zeros_init()  # drawn by models/initialisation.py
    kernel = self.param('kernel', zeros, (self.size, self.size, x.shape[-1], self.features))
    bias = self.param('bias', zeros, (self.features,))
    x = x.astype(self.dtype)
    if self.pool:
      out = resampling.pooled_conv2d(x, kernel)
    elif self.upsampling:
      out = resampling.upsampled_conv2d(x, kernel, self.upsampling)
    else:
      out = matmul(x, kernel[0, 0]) if self.size == 1 else conv2d(x, kernel)
    return add_bias(out, bias)


class Dense(nn.Module):
  """Linear map of the last axis.

  Attributes:
    features: output channels.
    use_bias: whether to add a bias.
    dtype: of the computation; parameters and their gradients are f32.
  """

  features: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [..., C] -> [..., features]."""
    zeros = nn.initializers.zeros_init()
    x = matmul(x.astype(self.dtype), self.param('kernel', zeros, (x.shape[-1], self.features)))
    return add_bias(x, self.param('bias', zeros, (self.features,))) if self.use_bias else x
