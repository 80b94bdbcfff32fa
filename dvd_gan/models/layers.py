"""Convolutions and matrix products whose parameters' gradients are float32, whatever the computation's dtype.

Under jit a parameter's gradient is all-reduced over the devices in the dtype in which it leaves its convolution. With
bfloat16 compute that would be bfloat16, three digits, summed over up to 512 replicas; here the products are accumulated
and handed over in float32. Parameters keep flax's names, `kernel` and `bias`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


@jax.custom_vjp
def conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """'Same' convolution in x's dtype of x [..., H, W, in] with kernel [h, w, in, out] f32, odd h and w.

  Leading axes are folded into the batch.
  """
  folded, kernel = x.reshape(-1, *x.shape[-3:]), kernel.astype(x.dtype)
  if all(side <= size // 2 + 1 for side, size in zip(x.shape[-3:-1], kernel.shape[:2], strict=True)):
    # On a CPU XLA runs a convolution of a map smaller than its kernel 60 times slower than this (results/performance).
    out = jax.lax.platform_dependent(folded, kernel, cpu=_small_convolution, default=_convolution)
  else:
    out = _convolution(folded, kernel)
  return out.reshape(*x.shape[:-1], kernel.shape[-1])


def _convolution(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _small_convolution(x, kernel):
  """The same where every pixel sees every other: one matrix product of all pixels and channels."""
  n, height, width, channels = x.shape
  top, left = (size // 2 for size in kernel.shape[:2])
  # Output pixel (i, j) takes input pixel (k, l) through the tap (k - i + top, l - j + left).
  taps = [kernel[top - i :, left - j :][:height, :width] for i in range(height) for j in range(width)]
  dense = jnp.stack(taps, axis=3).reshape(height * width * channels, -1)  # [H, W, in, H * W, out] before
  return (x.reshape(n, -1) @ dense).reshape(n, height, width, -1)


def transposed(kernel: jax.Array) -> jax.Array:
  """The kernel whose convolution is the input gradient of `conv2d` with `kernel`."""
  return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def kernel_gradient(x: jax.Array, d_out: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Gradient, f32 of that shape, of the kernel in conv2d(x, kernel); x and d_out [..., H, W, C] of one dtype."""
  x, d_out = (array.reshape(-1, *array.shape[-3:]) for array in (x, d_out))
  padding = [(size // 2, size // 2) for size in shape[:2]]

  def correlate(image, window):
    return jax.lax.conv_general_dilated(
      image,
      window,
      (1, 1),
      padding,
      dimension_numbers=('CHWN', 'IHWO', 'HWNC'),  # the batch is what is summed over
      preferred_element_type=jnp.float32,
    )

  if shape[2] <= shape[3]:
    return correlate(x, d_out)
  # On a CPU XLA copies the image once for every tap: let that be the one of fewer channels (results/performance).
  return jax.lax.platform_dependent(x, d_out, cpu=lambda x, d_out: transposed(correlate(d_out, x)), default=correlate)


def _conv2d_forward(x, kernel):
  return conv2d(x, kernel), (x, kernel)


def _conv2d_backward(saved, d_out):
  x, kernel = saved
  return conv2d(d_out, transposed(kernel)), kernel_gradient(x, d_out, kernel.shape)


conv2d.defvjp(_conv2d_forward, _conv2d_backward)


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
  """

  features: int
  size: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [..., H, W, C] -> [..., H, W, features]."""
    zeros = nn.initializers.zeros_init()  # drawn by models/initialisation.py
    kernel = self.param('kernel', zeros, (self.size, self.size, x.shape[-1], self.features))
    bias = self.param('bias', zeros, (self.features,))
    x = x.astype(self.dtype)
    return add_bias(matmul(x, kernel[0, 0]) if self.size == 1 else conv2d(x, kernel), bias)


class Dense(nn.Module):
  """Linear map of the last axis.

  Attributes:
    features: output channels.
    use_bias: add one.
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
