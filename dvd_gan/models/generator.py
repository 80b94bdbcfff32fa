"""The generator: a stem, then at each resolution a ConvGRU and two residual blocks."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models import attention, blocks, conditioning, conv_gru
from dvd_gan.models.ops import batch_norm, layers

BASE = 4  # height and width of the stem
WHITE = 0.99  # largest pixel value of a last context frame that changes are added to: arctanh(1) is infinite


class Generator(nn.Module):
  """G(z, y) -> video, or G(z, y, context frames) -> the frames that follow (paper, section 3).

  Attributes:
    frames: number of frames to generate.
    ch: base width.
    multipliers: width of the stem, then of each unit's output, in units of `ch`; each unit doubles the resolution.
    num_classes: size of the label vocabulary.
    embed_dim: width of e(y), the class embedding.
    attention: resolutions, at the output of a unit's first block, that get separable self-attention.
    activation: of the ConvGRU's candidate, 'relu' or 'tanh'.
    upsampling: 'bilinear' or 'nearest'.
    over_time: pool BN's statistics over time (ablation).
    dtype: of the computation; parameters are f32.
    context_widths: widths of the blocks over context frames, finest first (conditioning.py); () for synthesis.
    from_last_frame: generate changes of the last context frame, which is the output at the start of training.
    remat: recompute each ConvGRU, block, attention and head in the backward pass instead of storing its activations.
    resample_in_kernel: see GeneratorBlock; for the blocks over context frames, DiscriminatorBlock.
  """

  frames: int
  ch: int
  multipliers: tuple[int, ...]
  num_classes: int
  embed_dim: int = 120
  attention: tuple[int, ...] = ()
  activation: str = 'relu'
  upsampling: str = 'bilinear'
  over_time: bool = False
  dtype: jnp.dtype = jnp.float32
  context_widths: tuple[int, ...] = ()
  from_last_frame: bool = False
  remat: bool = False
  resample_in_kernel: bool = False

  @nn.compact
  def __call__(self, z: jax.Array, label: jax.Array, context: jax.Array | None = None, *, train: bool) -> jax.Array:
    """Generates one video for each latent.

    Args:
      z: [B, z_dim] f32.
      label: [B] int32, or [B, num_classes] f32, weights of the class embeddings, which are summed.
      context: [B, C, R, R, 3] in [-1, 1], the context frames; required with `context_widths`.
      train: True normalises with the batch's statistics, False with those in the collection `standing`.

    Returns:
      video [B, T, R, R, 3] f32 in [-1, 1], R = 4 * 2 ** units.
    """
    widths = [m * self.ch for m in self.multipliers]
    embed = nn.Embed(self.num_classes, self.embed_dim, name='label_embed')
    embedded = embed(label) if label.ndim == 1 else jnp.matmul(label, embed.embedding, precision='highest')
    cond = jnp.concatenate([z, embedded], axis=-1)  # [B, z_dim + embed_dim]
    dense = layers.Dense(BASE * BASE * widths[0], dtype=self.dtype, name='stem')
    x = dense(cond).reshape(-1, 1, BASE, BASE, widths[0])  # [B, 1, 4, 4, C]: the same input at every frame

    states = [None] * (len(widths) - 1)  # initial states of the ConvGRUs, coarsest first; None for zeros
    if self.context_widths:
      condition = conditioning.Conditioning(
        tuple(self.context_widths), tuple(widths[-2::-1]), self.dtype, self.remat, self.resample_in_kernel, name='given'
      )
      states = condition(context)[::-1]

    recurrent, residual, attend = conv_gru.ConvGRU, blocks.GeneratorBlock, attention.SeparableAttention
    head = Generator._head
    if self.remat:
      recurrent, attend = nn.remat(recurrent), nn.remat(attend)
      residual, head = (nn.remat(part, static_argnums=(3,)) for part in (residual, head))
    block = functools.partial(
      residual,
      upsampling=self.upsampling,
      over_time=self.over_time,
      dtype=self.dtype,
      resample_in_kernel=self.resample_in_kernel,
    )
    for i, (width, out, state) in enumerate(zip(widths[:-1], widths[1:], states, strict=True)):
      resolution = BASE * 2**i
      gru = recurrent(width, self.frames, self.activation, self.dtype, name=f'gru_{resolution}')
      x = gru(x, state)  # [B, T, H, W, width]
      x = block(width, up=False, name=f'block_{resolution}')(x, cond, train)
      if resolution in self.attention:
        x = attend(dtype=self.dtype, name=f'attention_{resolution}')(x)
      x = block(out, up=True, name=f'up_{resolution}')(x, cond, train)

    return head(self, x, cond, train, context[:, -1:] if self.from_last_frame else None)

  def _head(self, x: jax.Array, cond: jax.Array, train: bool, last: jax.Array | None) -> jax.Array:
    """x [B, T, R, R, C], cond [B, D], last [B, 1, R, R, 3] -> [B, T, R, R, 3] f32."""
    norm = batch_norm.ConditionalBatchNorm(self.over_time, self.dtype, name='head_norm')
    x = nn.relu(norm(x, cond, train=train))
    x = layers.Conv(3, 3, dtype=self.dtype, name='head')(x).astype(jnp.float32)
    if last is not None:
      gain = self.param('head_gain', nn.initializers.zeros_init(), ())
      x = jnp.arctanh(jnp.clip(last, -WHITE, WHITE)) + layers.scale(x, gain)
    return jnp.tanh(x)
