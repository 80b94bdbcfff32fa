"""The three bilinear resize methods of published video metrics. They differ in the sample positions; none antialiases.

A frame is resized by two matrix products, so that the same code runs on CPU, GPU and TPU without TensorFlow.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Position of output pixel i in the input. tf1: i * in / out, the default of tf.compat.v1.image.resize_bilinear
# (Google's FVD). align_corners: i * (in - 1) / (out - 1), Chainer's resize_images (TGANv2's C3D). half_pixel:
# (i + 1/2) * in / out - 1/2, tf.image.resize and torch's interpolate with align_corners=False (StyleGAN-V's FVD).
METHODS = ('tf1', 'align_corners', 'half_pixel')


def resize(video: jax.Array, size: int, method: str) -> jax.Array:
  """Resizes every frame, bilinearly and without antialiasing; may be jitted with `size` and `method` static.

  Args:
    video: uint8 or f32 [..., H, W, C], any range.
    size: height and width of the result.
    method: one of METHODS.

  Returns:
    f32 [..., size, size, C] in the range of `video`, neither rounded nor clipped.

  Raises:
    ValueError: if `method` is unknown.
  """
  rows, columns = (jnp.asarray(_matrix(length, size, method)) for length in video.shape[-3:-1])
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  video = product('oh,...hwc->...owc', rows, video.astype(jnp.float32))
  return product('ow,...hwc->...hoc', columns, video)


@functools.lru_cache
def _matrix(length: int, size: int, method: str) -> np.ndarray:
  """Interpolation weights of the input pixels for each output pixel: f32 [size, length], rows sum to 1."""
  # f32 as in TensorFlow, for the same rounding: the error of a position near 100 is about 1e-5 pixels.
  at = np.arange(size, dtype=np.float32)
  if method == 'tf1':
    at = at * (np.float32(length) / np.float32(size))
  elif method == 'align_corners':
    at = at * (np.float32(length - 1) / np.float32(max(size - 1, 1)))
  elif method == 'half_pixel':
    at = (at + np.float32(0.5)) * (np.float32(length) / np.float32(size)) - np.float32(0.5)
  else:
    raise ValueError(f'no resize method {method!r}; there are {", ".join(METHODS)}')
  at = np.clip(at, 0, length - 1)
  lower = np.floor(at).astype(int)
  upper = np.minimum(lower + 1, length - 1)
  share = at - lower
  matrix = np.zeros((size, length), np.float32)
  np.add.at(matrix, (np.arange(size), lower), 1 - share)
  np.add.at(matrix, (np.arange(size), upper), share)
  return matrix
