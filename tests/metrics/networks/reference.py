"""Reference implementations of the metric networks in TensorFlow ops, and random weights for them."""

import jax
import numpy as np
import pytest
import tensorflow as tf

from dvd_gan.metrics.networks import weights
from dvd_gan.runtime.errors import UsageError

# Blocks of I3D by stage, and layers of C3D, from the papers. A number is a pool with that window in time.
I3D_BLOCKS = {3: 'bc', 4: 'bcdef', 5: 'bc'}
C3D_LAYERS = ('conv1a', 1, 'conv2a', 2, 'conv3a', 'conv3b', 2, 'conv4a', 'conv4b', 2, 'conv5a', 'conv5b', 2)


def random_params(net, video, seed=0):
  """Random float32 numpy parameters of a network for videos of this shape; they keep activations near 1."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = rng.standard_normal(leaf.shape, np.float32)
    if leaf.ndim in (2, 5):
      return noise * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
    return 1 + np.square(0.5 * noise) if path[-1].key.endswith('variance') else np.float32(0.2) * noise

  return jax.tree_util.tree_map_with_path(draw, weights.parameters(net, video))


def named(params):
  """Parameters by name, path joined by '/'."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def i3d(arrays, video):
  """Logits by step [N, steps, classes] and pooled features [N, steps, 1024] from parameters by DeepMind's names."""

  def unit(x, name, stride=1):
    x = tf.nn.conv3d(x, arrays[f'{name}/conv_3d/w'], (1, stride, stride, stride, 1), 'SAME')
    if f'{name}/conv_3d/b' in arrays:
      return x + arrays[f'{name}/conv_3d/b']
    mean, variance, beta = (arrays[f'{name}/batch_norm/{key}'] for key in ('moving_mean', 'moving_variance', 'beta'))
    return tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, beta, None, 1e-3))

  def pool(x, window, stride):
    return tf.nn.max_pool3d(x, window, stride, 'SAME')

  x = pool(unit(video, 'Conv3d_1a_7x7', 2), (1, 3, 3), (1, 2, 2))
  x = unit(unit(x, 'Conv3d_2b_1x1'), 'Conv3d_2c_3x3')
  pools = {3: ((1, 3, 3), (1, 2, 2)), 4: (3, 2), 5: (2, 2)}
  for stage, letters in I3D_BLOCKS.items():
    x = pool(x, *pools[stage])
    for letter in letters:
      at = f'Mixed_{stage}{letter}'
      last = '0a' if at == 'Mixed_5b' else '0b'
      x = tf.concat(
        [
          unit(x, f'{at}/Branch_0/Conv3d_0a_1x1'),
          unit(unit(x, f'{at}/Branch_1/Conv3d_0a_1x1'), f'{at}/Branch_1/Conv3d_0b_3x3'),
          unit(unit(x, f'{at}/Branch_2/Conv3d_0a_1x1'), f'{at}/Branch_2/Conv3d_{last}_3x3'),
          unit(pool(x, 3, 1), f'{at}/Branch_3/Conv3d_0b_1x1'),
        ],
        axis=-1,
      )
  x = tf.nn.avg_pool3d(x, (2, *x.shape[2:4]), 1, 'VALID')
  return unit(x, 'Logits/Conv3d_0c_1x1')[:, :, 0, 0].numpy(), x[:, :, 0, 0].numpy()


def c3d(arrays, mean, video):
  """Logits and fc7 from arrays by TGANv2's names and in its layouts, mean [3, 16, h, w], video RGB in [-1, 1]."""
  count, frames = video.shape[:2]
  size = mean.shape[-1]
  pixels = 128 * video[..., ::-1].reshape(-1, *video.shape[2:])
  pixels = tf.compat.v1.image.resize_bilinear(pixels, (size, size), align_corners=True)
  x = tf.reshape(pixels, (count, frames, size, size, 3)) + 128 - mean.transpose(1, 2, 3, 0)
  for layer in C3D_LAYERS:
    if isinstance(layer, int):
      window = (layer, 2, 2)
      # Ceil mode pads at the end of each axis. The zeros never exceed a maximum: after a ReLU no value is negative.
      x = tf.pad(x, [(0, 0), *[(0, -length % step) for length, step in zip(x.shape[1:4], window, strict=True)], (0, 0)])
      x = tf.nn.max_pool3d(x, window, window, 'VALID')
    else:
      kernel = arrays[f'{layer}/W'].transpose(2, 3, 4, 1, 0)
      x = tf.nn.relu(tf.nn.conv3d(x, kernel, (1, 1, 1, 1, 1), 'SAME') + arrays[f'{layer}/b'])
  x = tf.reshape(tf.transpose(x, (0, 4, 1, 2, 3)), (count, -1))
  for layer in ('fc6', 'fc7'):
    x = tf.nn.relu(x @ arrays[f'{layer}/W'].T + arrays[f'{layer}/b'])
  return (x @ arrays['fc8/W'].T + arrays['fc8/b']).numpy(), x.numpy()


def refused(load, *words):
  """Asserts that `load()` raises a UsageError of one line with all these words."""
  with pytest.raises(UsageError) as raised:
    load()
  message = str(raised.value)
  assert '\n' not in message and all(word in message for word in words), message
