"""Inception-I3D, the network of FVD and of the Kinetics metrics (Carreira and Zisserman 2017, arXiv:1705.07750).

Parameters have the names of DeepMind's variables (google-deepmind/kinetics-i3d), joined by '/', so that i3d_weights.py
finds weights by name. The network is for inference only: batch norm uses the moving statistics.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dvd_gan.models.ops.convolution import conv3d
from dvd_gan.runtime.errors import UsageError

EPSILON = 1e-3  # batch norm's, Sonnet 1's default
MIN_FRAMES = 9  # fewer frames leave less than two time steps, the window of the average pool
RESOLUTION = 224  # pixels

# Each stage: window and strides of a max-pool, then the blocks, each with the widths of branches 0, 1a, 1b, 2a, 2b, 3.
STAGES = (
  ((1, 3, 3), (1, 2, 2), {'Mixed_3b': (64, 96, 128, 16, 32, 32), 'Mixed_3c': (128, 128, 192, 32, 96, 64)}),
  (
    (3, 3, 3),
    (2, 2, 2),
    {
      'Mixed_4b': (192, 96, 208, 16, 48, 64),
      'Mixed_4c': (160, 112, 224, 24, 64, 64),
      'Mixed_4d': (128, 128, 256, 24, 64, 64),
      'Mixed_4e': (112, 144, 288, 32, 64, 64),
      'Mixed_4f': (256, 160, 320, 32, 128, 128),
    },
  ),
  ((2, 2, 2), (2, 2, 2), {'Mixed_5b': (256, 160, 320, 32, 128, 128), 'Mixed_5c': (384, 192, 384, 48, 128, 128)}),
)
# The published checkpoints name one unit differently from the same unit of all other blocks.
ODD_UNIT, ITS_SIBLINGS_NAME = 'Mixed_5b/Branch_2/Conv3d_0a_3x3', 'Mixed_5b/Branch_2/Conv3d_0b_3x3'


def max_pool(x: jax.Array, window: tuple[int, int, int], strides: tuple[int, int, int]) -> jax.Array:
  """TensorFlow's max_pool3d of x [N, T, H, W, C] with 'SAME' padding; the padding is -inf."""
  return nn.max_pool(x, window, strides, padding='SAME')


class Unit3D(nn.Module):
  """Convolution, batch norm without a scale, and ReLU; the last unit is a convolution with a bias instead.

  Attributes:
    features: output channels.
    kernel: kernel size in time, height and width.
    stride: stride in time, height and width.
    last: whether the output is the logits.
  """

  features: int
  kernel: int = 1
  stride: int = 1
  last: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """f32 [N, T, H, W, C] -> [N, T', H', W', features], where T' is T / stride rounded up, likewise H' and W'."""
    shape = (*(self.kernel,) * 3, x.shape[-1], self.features)
    x = conv3d(x, self.param('conv_3d/w', nn.initializers.he_normal(), shape), self.stride)
    if self.last:
      return x + self.param('conv_3d/b', nn.initializers.zeros, (self.features,))
    mean = self.param('batch_norm/moving_mean', nn.initializers.zeros, (self.features,))
    variance = self.param('batch_norm/moving_variance', nn.initializers.ones, (self.features,))
    beta = self.param('batch_norm/beta', nn.initializers.zeros, (self.features,))
    return nn.relu((x - mean) * jax.lax.rsqrt(variance + EPSILON) + beta)


class Mixed(nn.Module):
  """Inception block: four parallel branches, concatenated along channels."""

  widths: tuple[int, int, int, int, int, int]
  last_of_branch_2: str = 'Branch_2/Conv3d_0b_3x3'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """f32 [N, T, H, W, C] -> [N, T, H, W, C'], where C' is the sum of the branches' last widths."""
    w0, w1a, w1b, w2a, w2b, w3 = self.widths
    branch_0 = Unit3D(w0, name='Branch_0/Conv3d_0a_1x1')(x)
    branch_1 = Unit3D(w1a, name='Branch_1/Conv3d_0a_1x1')(x)
    branch_1 = Unit3D(w1b, 3, name='Branch_1/Conv3d_0b_3x3')(branch_1)
    branch_2 = Unit3D(w2a, name='Branch_2/Conv3d_0a_1x1')(x)
    branch_2 = Unit3D(w2b, 3, name=self.last_of_branch_2)(branch_2)
    branch_3 = Unit3D(w3, name='Branch_3/Conv3d_0b_1x1')(max_pool(x, (3, 3, 3), (1, 1, 1)))
    return jnp.concatenate([branch_0, branch_1, branch_2, branch_3], axis=-1)


class I3D(nn.Module):
  """The RGB network of Kinetics.

  Attributes:
    num_classes: 400 or 600.
    resolution: height and width of the input, 224 for the published weights; smaller in tests. The average pool spans
      the whole last feature map, 7x7 at 224.
  """

  num_classes: int = 400
  resolution: int = RESOLUTION

  @nn.compact
  def __call__(self, video: jax.Array) -> dict[str, jax.Array]:
    """Logits and features of clips.

    Args:
      video: f32 [N, T, 224, 224, 3] in [-1, 1], T >= 9.

    Returns:
      f32 'logits' [N, num_classes], the mean over time of 'logits_by_step' [N, steps, num_classes], and
      'average_pool' [N, 1024], the features before the logits, averaged over time. `steps` is ceil(T / 8) - 1.

    Raises:
      UsageError: if the video has another shape.
    """
    if video.ndim != 5 or video.shape[1] < MIN_FRAMES or video.shape[2:] != (self.resolution, self.resolution, 3):
      size = f'{self.resolution}, {self.resolution}, 3'
      raise UsageError(f'I3D takes video [N, T, {size}] with T >= {MIN_FRAMES}, got {list(video.shape)}')
    x = Unit3D(64, 7, stride=2, name='Conv3d_1a_7x7')(video)
    x = max_pool(x, (1, 3, 3), (1, 2, 2))
    x = Unit3D(64, name='Conv3d_2b_1x1')(x)
    x = Unit3D(192, 3, name='Conv3d_2c_3x3')(x)
    for window, strides, blocks in STAGES:
      x = max_pool(x, window, strides)
      for name, widths in blocks.items():
        odd = {'last_of_branch_2': ODD_UNIT.removeprefix(f'{name}/')} if ODD_UNIT.startswith(name) else {}
        x = Mixed(widths, name=name, **odd)(x)
    x = nn.avg_pool(x, (2, *x.shape[2:4]), padding='VALID')  # [N, steps, 1, 1, 1024]
    by_step = Unit3D(self.num_classes, last=True, name='Logits/Conv3d_0c_1x1')(x)[:, :, 0, 0]
    return {'logits': by_step.mean(1), 'logits_by_step': by_step, 'average_pool': x.mean((1, 2, 3))}
