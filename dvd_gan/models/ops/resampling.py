"""Upsampling and average pooling, as separate operations or merged into the kernel of the adjacent convolution."""

import jax
import jax.numpy as jnp

from dvd_gan.models.ops.convolution import convolve, transpose_apart

# Pixels a side. On smaller maps the computation at the edges costs as much as the merged kernel saves
# (results/performance).
SMALLEST_UPSAMPLED_IN_KERNEL = 8


def upsample(x: jax.Array, method: str) -> jax.Array:
  """x [..., H, W, C] -> [..., 2H, 2W, C]; method 'bilinear' (half-pixel centres, edges clamped) or 'nearest'."""
  for axis in (x.ndim - 3, x.ndim - 2):
    x = _upsample_axis(x, method, axis)
  return x


def _upsample_axis(x, method, axis):
  size = x.shape[axis]
  if method == 'bilinear':
    # Slices instead of jax.image.resize, whose matrix products take three times as long forward on a CPU. A test checks
    # that the two are equal.
    first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, size - 1))
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
    pair = (0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after)
  else:
    pair = (x, x)
  return jnp.stack(pair, axis + 1).reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])


def pool_space(x: jax.Array, factor: int = 2) -> jax.Array:
  """Averages over factor x factor windows of [B, T, H, W, C]."""
  b, t, h, w, c = x.shape
  return _mean(x.reshape(b, t, h // factor, factor, w // factor, factor, c), (3, 5))


def pool_time(x: jax.Array) -> jax.Array:
  """Averages pairs of frames of [B, T, ...]; if T is odd, the last frame is kept as it is (ours)."""
  if x.shape[1] % 2:
    x = jnp.concatenate([x, x[:, -1:]], axis=1)
  return _mean(x.reshape(x.shape[0], -1, 2, *x.shape[2:]), (2,))


def _mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """Mean over short axes."""

  def by_slices(x):
    # On a CPU a sum of slices is fused with the element-wise operations around it. With a reduction, XLA would compute
    # the preceding convolution with the slower of its kernels (results/performance).
    slices = [x]
    for axis in reversed(axes):
      slices = [jax.lax.index_in_dim(one, i, axis, keepdims=False) for one in slices for i in range(one.shape[axis])]
    return sum(slices[1:], slices[0]) / len(slices)

  return jax.lax.platform_dependent(x, cpu=by_slices, default=lambda x: x.mean(axes))


def pooled_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Average over 2x2 windows of `conv2d(x, kernel)`, as one convolution; H and W even, kernel [3, 3, in, out] f32.

  The mean of four neighbouring outputs is one output, at stride 2, of a 4x4 kernel: the mean of the 3x3 kernel's four
  shifted copies. It takes 16 products instead of 36. It is computed with stride 1 after a space-to-depth of 2x2 pixels,
  because the gradients of a convolution with stride 2 are dilated convolutions.

  Returns:
    [..., H / 2, W / 2, out] in x's dtype.
  """
  *leading, height, width, channels = x.shape
  x = x.reshape(-1, height, width, channels)
  # The space-to-depth windows begin at pixel -1, the first one under the 4x4 kernel.
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, height // 2 + 1, 2, width // 2 + 1, 2, channels)
  x = _swapped(x).reshape(-1, height // 2 + 1, width // 2 + 1, 4 * channels)
  taps = _four_by_four(kernel).transpose(0, 2, 1, 3, 4, 5)
  out = convolve((0, 0), x, taps.reshape(2, 2, 4 * channels, -1))
  return out.reshape(*leading, height // 2, width // 2, -1)


def _swapped(x):
  """Swaps axes 2 and 3 of six, the transpose within space-to-depth and depth-to-space."""
  axes = (0, 1, 3, 2, 4, 5)
  return jax.lax.platform_dependent(x, cpu=lambda x: transpose_apart(x, axes), default=lambda x: x.transpose(axes))


def upsampled_conv2d(x: jax.Array, kernel: jax.Array, method: str) -> jax.Array:
  """`conv2d(upsample(x, method), kernel)` computed at the resolution of x; kernel [3, 3, in, out] f32.

  After 'nearest' a 3x3 kernel covers 2x2 pixels of x. Four 2x2 kernels, one for each pixel of a 2x2 output window, take
  16 products instead of 36. 'bilinear' equals 'nearest' followed by the blur (1, 2, 1) / 4 in each direction. The blur
  commutes with the convolution and is applied after it, where there are fewer channels. The result is that of a map
  whose edge pixels are repeated beyond the edge, whereas conv2d pads with zeros; `_without_ring` subtracts the
  difference, a 1-D convolution along each edge.

  Returns:
    [..., 2H, 2W, out] in x's dtype.
  """
  *leading, height, width, channels = x.shape
  x, bilinear = x.reshape(-1, height, width, channels), method == 'bilinear'
  # Pixels i - 1 and i of x give outputs 2i - 1 and 2i. Two of the kernel's three taps fall on pixel i - 1 for output
  # 2i - 1, but only one for output 2i, hence the reversed order.
  taps = 4 * _four_by_four(kernel)[:, ::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='edge' if bilinear else 'constant')
  out = convolve((0, 0), padded, taps.reshape(2, 2, channels, -1))  # [N, H + 1, W + 1, 4 * out]
  out = _swapped(out.reshape(-1, height + 1, width + 1, 2, 2, kernel.shape[3]))
  out = out.reshape(-1, 2 * height + 2, 2 * width + 2, kernel.shape[3])  # outputs -1 to 2H and -1 to 2W
  out = _without_ring(_blur(out), x, kernel) if bilinear else out[:, 1:-1, 1:-1]
  return out.reshape(*leading, *out.shape[1:])


def _four_by_four(kernel):
  """The mean of a 3x3 kernel's four shifted copies; its 4x4 taps have the shape [2, 2, 2, 2, in, out], rows first."""
  for axis in (0, 1):
    kernel = mean_of_shifted(kernel, axis)
  return kernel.reshape(2, 2, 2, 2, *kernel.shape[2:])


def mean_of_shifted(kernel: jax.Array, axis: int) -> jax.Array:
  """The kernel, longer by one along `axis`, whose outputs at stride 2 are the means of pairs of `kernel`'s outputs."""
  ahead, behind = ([(0, 0)] * kernel.ndim for _ in range(2))
  ahead[axis], behind[axis] = (1, 0), (0, 1)
  return (jnp.pad(kernel, ahead) + jnp.pad(kernel, behind)) / 2


@jax.custom_vjp
def _blur(x):
  """(1, 2, 1) / 4 along both axes of [N, H, W, C], without padding: [N, H - 2, W - 2, C]."""
  for axis in (1, 2):
    size = x.shape[axis] - 2
    before, at, after = (jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(3))
    x = 0.5 * at + 0.25 * (before + after)
  return x


# The blur is its own transpose, except at the edges; autodiff would sum padded slices.
_blur.defvjp(lambda x: (_blur(x), None), lambda _, d_out: (_blur(jnp.pad(d_out, ((0, 0), (2, 2), (2, 2), (0, 0)))),))


def _without_ring(out, x, kernel):
  """`out` [N, 2H, 2W, out] minus the contribution of the ring of repeated edge pixels around the upsampled x."""
  for axis, along in ((1, 2), (2, 1)):
    last = x.shape[axis] - 1
    for tap, at, edge in ((0, 0, 0), (2, last, 2 * last + 1)):
      line = _upsample_axis(jax.lax.slice_in_dim(x, at, at + 1, axis=axis), 'bilinear', along)
      # The corners of the ring are subtracted with its rows, not with its columns.
      ends = [(1, 1) if i == along else (0, 0) for i in range(4)]
      line = jnp.pad(line, ends, mode='edge' if along == 2 else 'constant')
      taken = convolve((0, 0), line, jax.lax.slice_in_dim(kernel, tap, tap + 1, axis=axis - 1))
      out = out.at[(slice(None),) * axis + (slice(edge, edge + 1),)].add(-taken)
  return out
