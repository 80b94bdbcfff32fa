"""The spatial and the temporal discriminator, and one network that contains both."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models import attention, blocks
from dvd_gan.models.ops import resampling

VOLUMETRIC_BLOCKS = 2  # number of 3-D blocks in the temporal discriminator
PARTS = ('spatial', 'temporal')


class ProjectionHead(nn.Module):
  """Projection head (Miyato & Koyama 2018; paper).

  For each frame, h is ReLU(x) summed over pixels, and the score is linear(h) + <embed(y), h>. The scores of all frames
  are summed: for D_S as in the paper, for D_T's remaining time steps ours.
  """

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, label: jax.Array) -> jax.Array:
    """x [B, T, H, W, C], label [B] -> scores [B] f32."""
    h = nn.relu(x).astype(jnp.float32).sum((2, 3))  # [B, T, C]
    score = nn.Dense(1, precision='highest', name='linear')(h)[..., 0]  # [B, T]
    embedding = nn.Embed(self.num_classes, x.shape[-1], name='embed')(label)
    return (score + jnp.einsum('btc,bc->bt', h, embedding, precision='highest')).sum(1)


class Discriminator(nn.Module):
  """Residual blocks, then a projection head.

  The first `volumetric` blocks are 3-D, the other blocks process each frame separately. Every block except the last one
  halves the resolution; 3-D blocks also halve time.

  Attributes:
    ch: base width.
    multipliers: width of each block in units of `ch`.
    num_classes: size of the label vocabulary.
    volumetric: number of 3-D blocks, which come first: 0 for D_S, 2 for D_T.
    attention: resolutions, at a block's output, that get separable self-attention.
    dtype: of the computation; the parameters and the head are f32.
    remat: recompute each block in the backward pass instead of storing its activations.
    resample_in_kernel: see DiscriminatorBlock.
  """

  ch: int
  multipliers: tuple[int, ...]
  num_classes: int
  volumetric: int = 0
  attention: tuple[int, ...] = ()
  dtype: jnp.dtype = jnp.float32
  remat: bool = False
  resample_in_kernel: bool = False

  @nn.compact
  def __call__(self, video: jax.Array, label: jax.Array) -> jax.Array:
    """video [B, T, H, W, 3] in [-1, 1], label [B] -> scores [B] f32."""
    x = video.astype(self.dtype)
    last = len(self.multipliers) - 1
    block = nn.remat(blocks.DiscriminatorBlock) if self.remat else blocks.DiscriminatorBlock
    for i, multiplier in enumerate(self.multipliers):
      x = block(
        multiplier * self.ch,
        down=i < last,
        relu_first=i > 0,
        volumetric=i < self.volumetric,
        resample_in_kernel=self.resample_in_kernel,
        dtype=self.dtype,
        name=f'block_{i}',
      )(x)
      if i < last and x.shape[2] in self.attention:
        # D_S scores each frame separately, so it must not attend over time.
        axes = ('height', 'width', 'time') if self.volumetric else ('height', 'width')
        x = attention.SeparableAttention(axes, self.dtype, name=f'attention_{i}')(x)
    return ProjectionHead(self.num_classes, name='head')(x, label)


class DualDiscriminator(nn.Module):
  """D_S on k frames at full resolution and D_T on the whole video at low resolution; one parameter tree, one optimizer.

  Attributes:
    pool: side of the windows that are averaged before D_T (phi): 2 in the paper. With disc.phi='crop' it is 1, and the
      train step crops the video before this module.
    parts: which of the two to build; both, or only one for the ablation.
    All other attributes: see Discriminator.
  """

  ch: int
  multipliers: tuple[int, ...]
  num_classes: int
  pool: int = 2
  parts: tuple[str, ...] = PARTS
  attention: tuple[int, ...] = ()
  dtype: jnp.dtype = jnp.float32
  remat: bool = False
  resample_in_kernel: bool = False

  @nn.compact
  def __call__(self, frames: jax.Array, video: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
    """Scores frames and motion.

    Args:
      frames: [B, k, H, W, 3], the frames for D_S, each scored separately.
      video: [B, T, H', W', 3], context frames included, T >= 4 (ours: an average of four frames is left); H' = H, or
        H // disc.pool with disc.phi='crop'. Both are in [-1, 1], except that augmented colours may leave that range.
      label: [B] int32.

    Returns:
      {'spatial': [B], 'temporal': [B]} f32, only the keys in `parts`.
    """
    names = ('ch', 'multipliers', 'num_classes', 'attention', 'dtype', 'remat', 'resample_in_kernel')
    shared = {name: getattr(self, name) for name in names}
    scores = {}
    if 'spatial' in self.parts:
      scores['spatial'] = Discriminator(**shared, name='spatial')(frames, label)
    if 'temporal' in self.parts:
      temporal = Discriminator(**shared, volumetric=VOLUMETRIC_BLOCKS, name='temporal')
      scores['temporal'] = temporal(resampling.pool_space(video, self.pool), label)
    return scores
