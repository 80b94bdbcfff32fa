"""BigGAN's residual blocks for the generator and the discriminators, on [B, T, H, W, C]."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models.ops import batch_norm, layers, resampling
from dvd_gan.models.ops.convolution import as_2d, conv2d


class Conv3D(nn.Module):
  """3x3x3 'same' convolution over time, height and width, as one 2-D convolution.

  With 16 channels XLA runs it three to four times faster on a CPU than a 3-D convolution; with 64 channels the forward
  pass is no faster.

  Attributes:
    features: output channels.
    dtype: of the computation; parameters and their gradients are f32.
    pool: average the output over 2x2x2 windows, as `pool_time` and `pool_space` do, within the same convolution.
  """

  features: int
  dtype: jnp.dtype = jnp.float32
  pool: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, T, H, W, C] -> [B, T, H, W, features]; with `pool` [B, ceil(T / 2), H / 2, W / 2, features]."""
    t, c = x.shape[1], x.shape[-1]
    zeros = nn.initializers.zeros_init()
    kernel = self.param('kernel', zeros, (3, 3, 3, c, self.features))
    bias = self.param('bias', zeros, (self.features,))
    convolve = resampling.pooled_conv2d if self.pool else conv2d
    # Pooling over time is merged into the kernel only if T is even; with odd T, `pool_time` keeps the last frame.
    paired = self.pool and t % 2 == 0
    if paired:
      kernel = resampling.mean_of_shifted(kernel, 0)
    out = convolve(*as_2d(x.astype(self.dtype), kernel, (1, 1), stride=2 if paired else 1))  # [B, T or T / 2, H, W, .]
    return layers.add_bias(resampling.pool_time(out) if self.pool and not paired else out, bias)


class GeneratorBlock(nn.Module):
  """CBN-ReLU-[up]-conv3-CBN-ReLU-conv3, plus the skip [up]-conv1, or the identity if the shape is kept.

  Time is folded into the batch of the convolutions.

  Attributes:
    features: output width.
    up: whether to double the resolution.
    upsampling: 'bilinear' or 'nearest'.
    over_time: see FrameBatchNorm.
    dtype: of the computation; parameters are f32.
    resample_in_kernel: compute the upsampling and the convolution after it as one convolution, on maps of at least
      SMALLEST_UPSAMPLED_IN_KERNEL pixels a side.
  """

  features: int
  up: bool
  upsampling: str = 'bilinear'
  over_time: bool = False
  dtype: jnp.dtype = jnp.float32
  resample_in_kernel: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, cond: jax.Array, train: bool) -> jax.Array:
    """x [B, T, H, W, C], cond [B, D] -> [B, T, H or 2H, W or 2W, features]."""
    norm = functools.partial(batch_norm.ConditionalBatchNorm, self.over_time, self.dtype)
    h = nn.relu(norm(name='norm1')(x, cond, train=train))
    composed = self.up and self.resample_in_kernel and min(h.shape[2:4]) >= resampling.SMALLEST_UPSAMPLED_IN_KERNEL
    if self.up and not composed:
      h = resampling.upsample(h, self.upsampling)
    within = self.upsampling if composed else ''
    h = layers.Conv(self.features, 3, dtype=self.dtype, upsampling=within, name='conv1')(h)
    h = nn.relu(norm(name='norm2')(h, cond, train=train))
    h = layers.Conv(self.features, 3, dtype=self.dtype, name='conv2')(h)
    if self.up or x.shape[-1] != self.features:
      # A 1x1 convolution commutes with interpolation and costs a quarter as much before it.
      x = layers.Conv(self.features, 1, dtype=self.dtype, name='skip')(x)
      if self.up:
        x = resampling.upsample(x, self.upsampling)
    return x + h


class DiscriminatorBlock(nn.Module):
  """ReLU-conv3-ReLU-conv3-avgpool2, plus the skip conv1-avgpool2; 2-D on each frame separately, or 3-D.

  The skip is the identity if the shape does not change.

  Attributes:
    features: output width.
    down: whether to pool by 2, also in time (rounding up) if the block is 3-D.
    relu_first: off in the first block of a network, whose input is the image.
    volumetric: use 3x3x3 convolutions in place of 3x3, and pool over time too; the skip stays 1x1.
    resample_in_kernel: compute the second convolution and the pooling after it as one convolution.
  """

  features: int
  down: bool
  relu_first: bool = True
  volumetric: bool = False
  resample_in_kernel: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """x [B, T, H, W, C] -> [B, T, H, W, features]; with `down` H / 2, W / 2, and if 3-D ceil(T / 2)."""
    conv3 = Conv3D if self.volumetric else functools.partial(layers.Conv, size=3)
    h = nn.relu(x) if self.relu_first else x
    h = conv3(self.features, dtype=self.dtype, name='conv1')(h)
    composed = self.down and self.resample_in_kernel
    h = conv3(self.features, dtype=self.dtype, pool=composed, name='conv2')(nn.relu(h))
    h = h if composed else self._pool(h)
    if self.down or x.shape[-1] != self.features:
      # A 1x1 convolution commutes with the average and costs a quarter or an eighth as much after it.
      x = layers.Conv(self.features, 1, dtype=self.dtype, name='skip')(self._pool(x))
    return x + h

  def _pool(self, x: jax.Array) -> jax.Array:
    if not self.down:
      return x
    return resampling.pool_space(resampling.pool_time(x) if self.volumetric else x)
