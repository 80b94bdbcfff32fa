"""Batch norm per frame, and its class-conditional form."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models.ops import layers

EPS = 1e-4  # BigGAN's


class FrameBatchNorm(nn.Module):
  """Normalises with one mean and variance for each (frame, channel), so that no information flows between frames.

  Statistics are taken over the batch and the pixels of all replicas, because under jit the mean of a sharded batch is
  global (ours). There is no learned scale or offset and no running average. With `train` the batch's statistics are
  used, and stored in the collection `standing` if it is mutable. Otherwise the statistics in `standing` are used
  (standing statistics, sampling.py).

  Attributes:
    over_time: pool the statistics also over time; only for the ablation.
  """

  over_time: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, scale: jax.Array | None = None, offset: jax.Array | None = None, *, train: bool
  ) -> jax.Array:
    """Normalises, then scales and offsets each video, all in f32.

    Args:
      x: [B, T, H, W, C], any float dtype.
      scale: [B, C]; None for 1.
      offset: [B, C]; None for 0.
      train: use the batch's statistics.

    Returns:
      The same shape and dtype as x.
    """
    videos = (x.shape[0], x.shape[-1])
    scale = jnp.ones(videos) if scale is None else scale.astype(jnp.float32)
    offset = jnp.zeros(videos) if offset is None else offset.astype(jnp.float32)
    if not train:
      mean, var = (self.get_variable('standing', name) for name in ('mean', 'var'))
      if mean is None:
        raise ValueError('train=False needs standing statistics in the collection `standing` (see sampling.py)')
      return _normalised(x, mean, var, scale, offset)
    axes = (0, 1, 2, 3) if self.over_time else (0, 2, 3)
    values = x.astype(jnp.float32)
    mean = values.mean(axes)  # [T, C], or [C] over time
    var = jnp.maximum(jnp.square(values).mean(axes) - jnp.square(mean), 0.0)
    latest = dict(reduce_fn=lambda _, new: new, init_fn=lambda: None)
    self.sow('standing', 'mean', mean, **latest)
    self.sow('standing', 'var', var, **latest)
    return _normalised(x, mean, var, scale, offset)


def _normalised(x, mean, var, scale, offset):
  mean, var = mean[..., None, None, :], var[..., None, None, :]  # [T, 1, 1, C], or [1, 1, C] over time
  scale, offset = (part[:, None, None, None] for part in (scale, offset))
  return ((x.astype(jnp.float32) - mean) * (jax.lax.rsqrt(var + EPS) * scale) + offset).astype(x.dtype)


class ConditionalBatchNorm(nn.Module):
  """FrameBatchNorm, then a gain centred on 1 and a bias, both linear in all of [z; e(y)] (paper, section 3)."""

  over_time: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, cond: jax.Array, *, train: bool) -> jax.Array:
    """x [B, T, H, W, C], cond [B, D]; all frames of a video have the same gain and bias."""

    def affine(name):
      return layers.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name=name)(cond)  # [B, C]

    return FrameBatchNorm(self.over_time, name='norm')(x, 1 + affine('gain'), affine('bias'), train=train)
