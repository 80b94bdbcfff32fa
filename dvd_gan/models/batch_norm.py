"""Batch norm per frame, and its class-conditional form."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models import layers

EPS = 1e-4  # BigGAN's


class FrameBatchNorm(nn.Module):
  """Normalises with one mean and variance for each (frame, channel), so that nothing leaks across time.

  Statistics are taken over the batch and space of all replicas: under jit on a sharded batch the mean is global by
  construction (ours; paper.md). There is no learned scale or offset and no running average: in training the batch's
  own statistics are used and, where the collection is mutable, left in `standing`; otherwise `standing` is read
  (standing statistics, sample.py).

  Attributes:
    over_time: pool the statistics over time too; only for the ablation.
  """

  over_time: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """x [B, T, H, W, C], any float dtype; returns the same, normalised in f32."""
    values = x.astype(jnp.float32)
    if train:
      axes = (0, 1, 2, 3) if self.over_time else (0, 2, 3)
      mean = values.mean(axes)  # [T, C], or [C] over time
      var = jnp.maximum(jnp.square(values).mean(axes) - jnp.square(mean), 0.0)
      latest = dict(reduce_fn=lambda _, new: new, init_fn=lambda: None)
      self.sow('standing', 'mean', mean, **latest)
      self.sow('standing', 'var', var, **latest)
    else:
      mean = self.get_variable('standing', 'mean')
      var = self.get_variable('standing', 'var')
      if mean is None:
        raise ValueError('train=False needs standing statistics in the collection `standing` (see sample.py)')
    expand = (None,) * 3 if self.over_time else (slice(None), None, None)
    return ((values - mean[expand]) * jax.lax.rsqrt(var[expand] + EPS)).astype(x.dtype)


class ConditionalBatchNorm(nn.Module):
  """FrameBatchNorm, then a gain centred on 1 and a bias, both linear in the whole [z; e(y)] (paper, section 3)."""

  over_time: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, cond: jax.Array, *, train: bool) -> jax.Array:
    """x [B, T, H, W, C], cond [B, D]; every frame of a video gets the gain and bias of that video."""

    def affine(name):
      linear = layers.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name=name)
      return linear(cond)[:, None, None, None, :]  # [B, 1, 1, 1, C]

    normalised = FrameBatchNorm(self.over_time, name='norm')(x, train=train)
    return normalised * (1 + affine('gain')) + affine('bias')
