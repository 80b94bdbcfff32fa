"""Context frames as initial states of the generator's ConvGRUs (DVD-GAN-FP)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models import blocks
from dvd_gan.models.ops import layers


class Conditioning(nn.Module):
  """A residual stack like a discriminator's, applied to each context frame separately (paper, section 3.3).

  Each block halves the resolution. After each block the features of all frames are concatenated along channels, and a
  3x3 convolution and a ReLU map them to the initial state of the ConvGRU of that resolution.

  Attributes:
    widths: width of each block's output, finest first.
    states: width of the ConvGRU at each block's output, finest first.
    dtype: of the computation; parameters are f32.
    remat: recompute each block in the backward pass instead of storing its activations.
    resample_in_kernel: see DiscriminatorBlock.
  """

  widths: tuple[int, ...]
  states: tuple[int, ...]
  dtype: jnp.dtype = jnp.float32
  remat: bool = False
  resample_in_kernel: bool = False

  @nn.compact
  def __call__(self, context: jax.Array) -> list[jax.Array]:
    """Computes the initial states.

    Args:
      context: [B, C, R, R, 3] in [-1, 1].

    Returns:
      For each block a state [B, R / 2^(i + 1), R / 2^(i + 1), states[i]].
    """
    block = nn.remat(blocks.DiscriminatorBlock) if self.remat else blocks.DiscriminatorBlock
    block = functools.partial(block, down=True, resample_in_kernel=self.resample_in_kernel, dtype=self.dtype)
    x, made = context.astype(self.dtype), []
    for i, (width, state) in enumerate(zip(self.widths, self.states, strict=True)):
      x = block(width, relu_first=i > 0, name=f'block_{i}')(x)
      stacked = jnp.moveaxis(x, 1, 3).reshape(*x.shape[:1], *x.shape[2:4], -1)  # [B, H, W, C * width]
      made.append(nn.relu(layers.Conv(state, 3, dtype=self.dtype, name=f'state_{i}')(stacked)))
    return made
