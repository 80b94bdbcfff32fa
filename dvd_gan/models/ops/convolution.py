"""Convolutions whose kernel gradients are float32 for every dtype of the computation (see layers.py)."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import xla_metadata

FEW = 4  # most output channels for `_planes`: RGB
NARROW = 9  # most input channels for `_paired`: RGB of three frames


def conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """'Same' convolution in x's dtype of x [..., H, W, in] with kernel [h, w, in, out] f32, odd h and w.

  Leading axes are folded into the batch.
  """
  return convolve(_same(kernel.shape), x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve(padding: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution of stride 1 of x [..., H, W, in], zero-padded by `padding` (H, W), with kernel [h, w, in, out] f32."""
  folded, kernel = x.reshape(-1, *x.shape[-3:]), kernel.astype(x.dtype)
  form, plain = _cpu_form(x.shape, kernel.shape, padding), functools.partial(_convolution, padding)
  if form is _convolution:
    out = plain(folded, kernel)
  else:
    out = jax.lax.platform_dependent(folded, kernel, cpu=functools.partial(form, padding), default=plain)
  return out.reshape(*x.shape[:-3], *out.shape[1:])


def as_2d(x: jax.Array, kernel: jax.Array, padding: tuple[int, int], stride: int = 1) -> tuple[jax.Array, jax.Array]:
  """Input and kernel of the 2-D convolution over height and width that computes a 3-D one, with the same arithmetic.

  The t input frames of each output frame are concatenated along channels.

  Args:
    x: [N, T, H, W, in].
    kernel: [t, h, w, in, out].
    padding: number of zero frames before the first frame and after the last one.
    stride: in time.

  Returns:
    [N, T', H, W, t * in] and [h, w, t * in, out].
  """
  x = jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0), (0, 0)))
  window, height, width, channels, features = kernel.shape
  starts = x.shape[1] - window + 1
  seen = jnp.concatenate([x[:, i : i + starts : stride] for i in range(window)], axis=-1)
  return seen, jnp.moveaxis(kernel, 0, 2).reshape(height, width, window * channels, features)


def conv3d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """3-D convolution with TensorFlow's 'SAME' padding, which may be uneven, computed as a 2-D convolution.

  With XLA's own 3-D convolutions I3D takes 1.9 times as long on a CPU (results/performance). Most of that time is spent
  in its first convolution, whose input has three channels.

  Args:
    x: f32 [N, T, H, W, in].
    kernel: f32 [t, h, w, in, out].
    stride: in time, height and width.

  Returns:
    f32 [N, T', H', W', out], where T' = ceil(T / stride), and H' and W' likewise.
  """
  n, frames = x.shape[:2]
  out = -(-frames // stride)
  missing = max((out - 1) * stride + kernel.shape[0] - frames, 0)
  x, kernel = as_2d(x, kernel, (missing // 2, missing - missing // 2), stride)
  y = jax.lax.conv_general_dilated(
    x.reshape(n * out, *x.shape[2:]),
    kernel,
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,  # by default TPUs and GPUs keep about three digits
  )
  return y.reshape(n, out, *y.shape[1:])


def _cpu_form(shape, kernel, padding):
  """Function for a convolution on a CPU; for three kinds of shapes XLA's own is several times slower than ours."""
  if all(side + pad <= size for side, pad, size in zip(shape[-3:-1], padding, kernel[:2], strict=True)):
    return _product
  if kernel[3] <= FEW:
    return _planes
  if kernel[2] <= NARROW and kernel[1] == 3 and padding[1] == 1 and shape[-2] % 2 == 0:
    return _paired
  return _convolution


def _convolution(padding, x, kernel, dtype=None):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    [(pad, pad) for pad in padding],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    preferred_element_type=dtype,
  )


def _product(padding, x, kernel):
  """`_convolution` if every output pixel depends on every input pixel: one product over all pixels and channels."""
  n, height, width, channels = x.shape
  rows, columns = (
    side + 2 * pad - size + 1 for side, pad, size in zip((height, width), padding, kernel.shape[:2], strict=True)
  )
  top, left = padding
  # Output pixel (i, j) takes input pixel (k, l) through the tap (k - i + top, l - j + left).
  taps = [kernel[top - i :, left - j :][:height, :width] for i in range(rows) for j in range(columns)]
  dense = jnp.stack(taps, axis=3).reshape(height * width * channels, -1)  # from [H, W, in, rows * columns, out]
  return (x.reshape(n, -1) @ dense).reshape(n, rows, columns, -1)


def _planes(padding, x, kernel):
  """`_convolution` for few output channels: the products of each tap, a plane per channel, are shifted and summed."""
  top, left = padding
  rows, columns = kernel.shape[:2]
  height, width = x.shape[1] + 2 * top - rows + 1, x.shape[2] + 2 * left - columns + 1
  products = jnp.einsum('hwio,nyxi->hwonyx', kernel, x)
  out = 0
  for i in range(rows):
    for j in range(columns):
      plane = jnp.pad(products[i, j], ((0, 0), (0, 0), (top, top), (left, left)))
      out += plane[:, :, i : i + height, j : j + width]
  return jnp.moveaxis(out, 0, -1)


def _paired(padding, x, kernel):
  """`_convolution` for few input channels, kernel width 3 and an even image width: two output columns at once.

  Each pair of input columns becomes one column with twice the channels, and each pair of output columns depends on two
  of these. This takes 4/3 of the multiplications, but in matrix products with fewer and longer rows.
  """
  n, height, width, channels = x.shape
  x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))).reshape(n, height, width // 2 + 1, 2 * channels)
  first, second = (jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in range(2))  # [h, 4, in, out]
  taps = jnp.stack([first, second], axis=3).reshape(kernel.shape[0], 2, 2 * channels, -1)
  return _convolution((padding[0], 0), x, taps).reshape(n, -1, width, kernel.shape[3])


def transposed(kernel: jax.Array) -> jax.Array:
  """The kernel whose convolution is the input gradient of `conv2d` with `kernel`."""
  return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


def kernel_gradient(
  x: jax.Array, d_out: jax.Array, shape: tuple[int, ...], padding: tuple[int, int] | None = None
) -> jax.Array:
  """Gradient, f32 of `shape`, of the kernel in conv2d(x, kernel); x and d_out are [..., H, W, C] of the same dtype.

  `padding`: zeros around x in H and W, instead of conv2d's.
  """
  padding = _same(shape) if padding is None else padding
  x, d_out = (array.reshape(-1, *array.shape[-3:]) for array in (x, d_out))

  on_cpu, plain = functools.partial(_gradient_on_cpu, padding, shape), functools.partial(_correlation, padding)
  return jax.lax.platform_dependent(x, d_out, cpu=on_cpu, default=plain)


def _correlation(padding, image, window):
  """Sums of image [N, H, W, in] times window [N, h, w, out], shifted, over N, h and w: [rows, columns, in, out] f32."""
  return jax.lax.conv_general_dilated(
    image,
    window,
    (1, 1),
    [(pad, pad) for pad in padding],
    dimension_numbers=('CHWN', 'IHWO', 'HWNC'),  # the sum runs over the batch: it takes the place of the channels
    preferred_element_type=jnp.float32,
  )


def _gradient_on_cpu(padding, shape, x, d_out):
  if shape[2] <= shape[3]:
    return _correlation_on_cpu(padding, x, d_out)
  # XLA copies the image once for every tap, so the image is the array with fewer channels (results/performance). It is
  # padded beforehand: d_out may be smaller than x, and XLA is slow on images smaller than their kernel.
  around = [(pad, pad) for pad in _around(padding, shape)]
  return transposed(_correlation_on_cpu((0, 0), jnp.pad(d_out, ((0, 0), *around, (0, 0))), x))


def _correlation_on_cpu(padding, image, window):
  """`_correlation` with explicit transposes; XLA inserts them itself in the entry computation, but not in loops."""
  image, window = transpose_apart(image, (3, 1, 2, 0)), transpose_apart(window, (1, 2, 0, 3))
  return _convolution(padding, image, window, jnp.float32).transpose(1, 2, 0, 3)


def transpose_apart(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """`x.transpose(axes)`, not fused by XLA: on CPUs a transpose fused with its input takes up to ten times as long."""
  with xla_metadata.set_xla_metadata(inlineable='false'):
    return _transpose(x, axes)


_transpose = jax.jit(jnp.transpose, static_argnums=1)


def _same(shape):
  """The padding (H, W) of a 'same' convolution."""
  return shape[0] // 2, shape[1] // 2


def _around(padding, shape):
  """The padding of the output with which a convolution's gradients are convolutions too."""
  return tuple(size - 1 - pad for size, pad in zip(shape[:2], padding, strict=True))


def _convolve_forward(padding, x, kernel):
  return convolve(padding, x, kernel), (x, kernel)


def _convolve_backward(padding, saved, d_out):
  x, kernel = saved
  d_x = convolve(_around(padding, kernel.shape), d_out, transposed(kernel))
  return d_x, kernel_gradient(x, d_out, kernel.shape, padding)


convolve.defvjp(_convolve_forward, _convolve_backward)
