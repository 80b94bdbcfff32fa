"""The 3-D convolution of the metric networks."""

import jax
import jax.numpy as jnp


def conv3d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """3-D convolution with TensorFlow's 'SAME' padding, which is uneven where stride and size demand, as a 2-D one.

  The frames that an output frame sees are stacked on channels. With XLA's own 3-D convolutions I3D takes 1.9 times as
  long on a CPU (results/performance), most of it in the first, of three channels.

  Args:
    x: f32 [N, T, H, W, in].
    kernel: f32 [t, h, w, in, out].
    stride: in time, height and width.

  Returns:
    f32 [N, T', H', W', out], each side over the stride, rounded up.
  """
  n, frames = x.shape[:2]
  window, height, width, channels, features = kernel.shape
  out = -(-frames // stride)
  span = (out - 1) * stride  # from the first window's start to the last one's
  missing = max(span + window - frames, 0)
  x = jnp.pad(x, ((0, 0), (missing // 2, missing - missing // 2), (0, 0), (0, 0), (0, 0)))
  seen = jnp.concatenate([x[:, i : i + span + 1 : stride] for i in range(window)], axis=-1)  # [N, T', H, W, t * in]
  y = jax.lax.conv_general_dilated(
    seen.reshape(n * out, *seen.shape[2:]),
    jnp.moveaxis(kernel, 0, 2).reshape(height, width, window * channels, features),
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,  # TPUs and GPUs would else keep three digits
  )
  return y.reshape(n, out, *y.shape[1:])
