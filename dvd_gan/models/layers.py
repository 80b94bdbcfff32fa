"""Convolutions and matrix products whose parameters' gradients are float32, whatever the computation's dtype.

Under jit a parameter's gradient is all-reduced over the devices in the dtype in which it leaves its convolution. With
bfloat16 compute that would be bfloat16, three digits, summed over up to 512 replicas; here the products are accumulated
and handed over in float32. Parameters keep flax's names, `kernel` and `bias`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


def conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """'Same' convolution in x's dtype of x [..., H, W, in] with kernel [h, w, in, out] f32, odd h and w.

  Leading axes are folded into the batch.
  """
  return _convolve(_same(kernel.shape), x, kernel)


def pooled_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The means over 2x2 windows of `conv2d(x, kernel)`, as one convolution; H and W even, kernel [3, 3, in, out] f32.

  The mean of four neighbouring outputs is one output of stride 2 of the 4x4 kernel that is the mean of the four shifted
  ones: 16 products where there were 36. Written with stride 1, on pixels gathered 2x2 into channels, as its gradients
  would otherwise be dilated convolutions.

  Returns:
    [..., H / 2, W / 2, out] in x's dtype.
  """
  *leading, height, width, channels = x.shape
  inputs, features = kernel.shape[2:]
  x = x.reshape(-1, height, width, channels)
  # Gathered windows begin at pixel -1, the first that the 4x4 kernel sees.
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, height // 2 + 1, 2, width // 2 + 1, 2, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height // 2 + 1, width // 2 + 1, 4 * channels)
  for axis in (0, 1):
    kernel = mean_of_shifted(kernel, axis)
  kernel = kernel.reshape(2, 2, 2, 2, inputs, features).transpose(0, 2, 1, 3, 4, 5)
  out = _convolve((0, 0), x, kernel.reshape(2, 2, 4 * inputs, features))
  return out.reshape(*leading, height // 2, width // 2, features)


def mean_of_shifted(kernel: jax.Array, axis: int) -> jax.Array:
  """The kernel, one longer along `axis`, whose outputs of stride 2 are the means of pairs of the kernel's outputs."""
  ahead, behind = ([(0, 0)] * kernel.ndim for _ in range(2))
  ahead[axis], behind[axis] = (1, 0), (0, 1)
  return (jnp.pad(kernel, ahead) + jnp.pad(kernel, behind)) / 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(padding: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution of stride 1 of x [..., H, W, in] with kernel [h, w, in, out] f32, so many zeros around x."""
  folded, kernel = x.reshape(-1, *x.shape[-3:]), kernel.astype(x.dtype)
  convolution, product = (functools.partial(form, padding) for form in (_convolution, _product))
  if all(side + pad <= size for side, pad, size in zip(x.shape[-3:-1], padding, kernel.shape[:2], strict=True)):
    # On a CPU XLA runs a convolution of a map smaller than its kernel 60 times slower than this (results/performance).
    out = jax.lax.platform_dependent(folded, kernel, cpu=product, default=convolution)
  else:
    out = convolution(folded, kernel)
  return out.reshape(*x.shape[:-3], *out.shape[1:])


def _convolution(padding, x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), [(pad, pad) for pad in padding], dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _product(padding, x, kernel):
  """The same where every output pixel sees every input pixel: one matrix product of all pixels and channels."""
  n, height, width, channels = x.shape
  rows, columns = (
    side + 2 * pad - size + 1 for side, pad, size in zip((height, width), padding, kernel.shape[:2], strict=True)
  )
  top, left = padding
  # Output pixel (i, j) takes input pixel (k, l) through the tap (k - i + top, l - j + left).
  taps = [kernel[top - i :, left - j :][:height, :width] for i in range(rows) for j in range(columns)]
  dense = jnp.stack(taps, axis=3).reshape(height * width * channels, -1)  # [H, W, in, rows * columns, out] before
  return (x.reshape(n, -1) @ dense).reshape(n, rows, columns, -1)


def transposed(kernel: jax.Array) -> jax.Array:
  """The kernel whose convolution is the input gradient of `conv2d` with `kernel`."""
  return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def kernel_gradient(
  x: jax.Array, d_out: jax.Array, shape: tuple[int, ...], padding: tuple[int, int] | None = None
) -> jax.Array:
  """Gradient, f32 of that shape, of the kernel in conv2d(x, kernel); x and d_out [..., H, W, C] of one dtype.

  `padding`: so many zeros around x in place of conv2d's.
  """
  padding = _same(shape) if padding is None else padding
  x, d_out = (array.reshape(-1, *array.shape[-3:]) for array in (x, d_out))

  def correlate(image, window, padding):
    return jax.lax.conv_general_dilated(
      image,
      window,
      (1, 1),
      [(pad, pad) for pad in padding],
      dimension_numbers=('CHWN', 'IHWO', 'HWNC'),  # the batch is what is summed over
      preferred_element_type=jnp.float32,
    )

  def mirrored(x, d_out):
    around = [(pad, pad) for pad in _around(padding, shape)]
    # Padded beforehand: XLA's slow form for maps smaller than their kernels again, d_out may be smaller than x.
    return transposed(correlate(jnp.pad(d_out, ((0, 0), *around, (0, 0))), x, (0, 0)))

  plain = functools.partial(correlate, padding=padding)
  if shape[2] <= shape[3]:
    return plain(x, d_out)
  # On a CPU XLA copies the image once for every tap: let that be the one of fewer channels (results/performance).
  return jax.lax.platform_dependent(x, d_out, cpu=mirrored, default=plain)


def _same(shape):
  """The zeros around x with which a convolution keeps its size."""
  return shape[0] // 2, shape[1] // 2


def _around(padding, shape):
  """The zeros around the output with which a convolution's gradients are convolutions too."""
  return tuple(size - 1 - pad for size, pad in zip(shape[:2], padding, strict=True))


def _convolve_forward(padding, x, kernel):
  return _convolve(padding, x, kernel), (x, kernel)


def _convolve_backward(padding, saved, d_out):
  x, kernel = saved
  d_x = _convolve(_around(padding, kernel.shape), d_out, transposed(kernel))
  return d_x, kernel_gradient(x, d_out, kernel.shape, padding)


_convolve.defvjp(_convolve_forward, _convolve_backward)


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
    pool: average the output over 2x2 windows, in the same convolution; size is 3 then.
  """

  features: int
  size: int
  dtype: jnp.dtype = jnp.float32
  pool: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [..., H, W, C] -> [..., H, W, features], or half of H and W."""
    zeros = nn.initializers.zeros_init()  # drawn by models/initialisation.py
    kernel = self.param('kernel', zeros, (self.size, self.size, x.shape[-1], self.features))
    bias = self.param('bias', zeros, (self.features,))
    x = x.astype(self.dtype)
    if self.pool:
      out = pooled_conv2d(x, kernel)
    else:
      out = matmul(x, kernel[0, 0]) if self.size == 1 else conv2d(x, kernel)
    return add_bias(out, bias)


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
