"""A classifier of moving_shapes for Inception Score, Frechet distance and class accuracy.

Ours. results/toy/train_classifier.py trained the weights in this folder; results/toy/README.md reports the accuracy.
The network is small enough for a CPU. The features have few dimensions, so that a few hundred clips are enough.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dvd_gan.datasets.shapes import MOTIONS, SHAPES
from dvd_gan.metrics.networks import weights
from dvd_gan.runtime.errors import UsageError

WEIGHTS = epath.Path(__file__).parent / 'shapes_classifier.npz'
RESOLUTION = 32  # pixels; other sizes are resized by resize.py's 'half_pixel', as in training
MIN_FRAMES = 4
FEATURES = 64
LAYERS = ((16, (1, 2, 2)), (32, (2, 2, 2)), (64, (2, 2, 2)))  # channels, strides in time and space
SIDE = 3  # kernel size in time and space
GROUPS = 4  # number of groups in group norm
MIN_CONTRAST = 0.05  # on the scale of [-1, 1]; limits the amplification of noise in an empty clip


class Convolution(nn.Module):
  """3x3x3 convolution with padding 1, computed as one matrix product over patches.

  On a CPU, where this network is trained, XLA's kernel gradient of a 3-D convolution takes 17 times as long.

  Attributes:
    features: output channels.
    strides: in time, height and width.
  """

  features: int
  strides: tuple[int, int, int]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """f32 [N, T, H, W, C] -> [N, T', H', W', features], where T' is T / stride rounded up, likewise H' and W'."""
    kernel = self.param('kernel', nn.initializers.he_normal(), (*(SIDE,) * 3, x.shape[-1], self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    (frames, height, width), (by_t, by_h, by_w) = x.shape[1:4], self.strides
    x = jnp.pad(x, ((0, 0), *((SIDE // 2, SIDE // 2),) * 3, (0, 0)))
    patches = [
      x[:, t : t + frames : by_t, i : i + height : by_h, j : j + width : by_w]
      for t, i, j in np.ndindex(SIDE, SIDE, SIDE)
    ]
    kernel = kernel.reshape(-1, self.features)
    # The default precision of TPUs and GPUs has only about three digits.
    return jnp.matmul(jnp.concatenate(patches, -1), kernel, precision=jax.lax.Precision.HIGHEST) + bias


class ShapesClassifier(nn.Module):
  """Three space-time convolutions, mean over time, 64 features, and one head each for shape and motion."""

  @nn.compact
  def __call__(self, video: jax.Array) -> dict[str, jax.Array]:
    """Logits, class probabilities and features of clips; each clip is independent of the rest of the batch.

    Args:
      video: f32 [N, T, 32, 32, 3] in [-1, 1], T >= 4; trained with 6 to 16 frames.

    Returns:
      f32 'features' [N, 64], for the Frechet distance; 'shape' [N, 6] and 'motion' [N, 5], logits; and 'probabilities'
      [N, 30], the products of their softmax probabilities, ordered as datasets.shapes.CLASSES.

    Raises:
      UsageError: if the video has another shape.
    """
    if video.ndim != 5 or video.shape[1] < MIN_FRAMES or video.shape[2:] != (RESOLUTION, RESOLUTION, 3):
      size = f'{RESOLUTION}, {RESOLUTION}, 3'
      raise UsageError(
        f'the classifier of shapes takes video [N, T, {size}] with T >= {MIN_FRAMES}, got {list(video.shape)}'
      )
    # The class does not depend on colour. Normalising mean and contrast removes most of this variation.
    video = video - video.mean((1, 2, 3), keepdims=True)
    x = video * jax.lax.rsqrt(jnp.square(video).mean((1, 2, 3, 4), keepdims=True) + MIN_CONTRAST**2)
    for i, (features, strides) in enumerate(LAYERS):
      x = Convolution(features, strides, name=f'convolution_{i}')(x)
      x = nn.relu(nn.GroupNorm(GROUPS, name=f'norm_{i}')(x))
    x = x.mean(1).reshape(len(x), -1)  # [N, 4 * 4 * 64]: keeps spatial positions, accepts any T
    # Features are taken before the activation. After it some dimensions hardly vary, and the covariance of a few
    # hundred clips is degenerate.
    features = self._dense(FEATURES, 'features')(x)
    active = nn.gelu(features)
    shape = self._dense(len(SHAPES), 'shape')(active)
    motion = self._dense(len(MOTIONS), 'motion')(active)
    products = nn.softmax(shape)[:, :, None] * nn.softmax(motion)[:, None, :]
    return {'features': features, 'shape': shape, 'motion': motion, 'probabilities': products.reshape(len(x), -1)}

  def _dense(self, features, name):
    return nn.Dense(features, precision=jax.lax.Precision.HIGHEST, name=name)


def load(path: str | epath.Path = WEIGHTS) -> weights.Weights:
  """Loads the weights of ShapesClassifier.

  Args:
    path: an .npz file with one array per parameter, named by its path joined by '/'; the default is the file in this
      package.

  Returns:
    The parameters, f32, and the sha256 of the file.

  Raises:
    UsageError: if the file cannot be read, or if its arrays do not fit the network.
  """
  at = epath.Path(path)
  content = weights.read(at)
  params = weights.parameters(ShapesClassifier(), (1, MIN_FRAMES, RESOLUTION, RESOLUTION, 3))
  slots = {name: weights.Slot(name) for name in weights.names(params)}
  placed = weights.place(weights.read_npz(content, at), slots, params, at)
  return weights.Weights(placed, {at.name: weights.sha256(content)})
