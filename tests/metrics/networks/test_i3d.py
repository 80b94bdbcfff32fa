import hashlib
import os
import pathlib

import jax
import numpy as np
import pytest
import tensorflow as tf

from dvd_gan.datasets import shapes
from dvd_gan.metrics.networks import i3d, i3d_weights, weights
from tests.metrics.networks import reference

# 17 frames of 36 pixels: some intermediate sizes are odd, so uneven padding matters. Two steps remain at the end.
SHAPE = (2, 17, 36, 36, 3)
# sha256 of the lines 'NAME [SHAPE]', sorted, of tf.train.list_variables on google-deepmind/kinetics-i3d's rgb_imagenet
# and rgb_scratch_kin600, without prefix and /Momentum, [1, 1, 1, 1, C] as [C].
LISTINGS = {
  400: '1177819588dc508e8682c1dd869349acc01b6246f5e1422007005f91b2f580d3',
  600: '693dd446a0d8fa265cac38d70d2e1211978bde721cc30a88c5d6131e76c25ec4',
}
REFERENCE = pathlib.Path(__file__).parent / 'i3d_reference.npz'  # PyTorch's outputs, by results/metrics/parity.py


def test_i3d_matches_the_tensorflow_reference():
  net = i3d.I3D(resolution=SHAPE[2])
  params = reference.random_params(net, SHAPE)
  video = np.random.default_rng(1).uniform(-1, 1, SHAPE).astype(np.float32)
  found = jax.jit(net.apply)({'params': params}, video)
  by_step, pooled = reference.i3d(reference.named(params), video)
  assert by_step.shape == (2, 2, 400)
  np.testing.assert_allclose(found['logits_by_step'], by_step, atol=1e-5 * np.abs(by_step).max())
  np.testing.assert_allclose(found['logits'], by_step.mean(1), atol=1e-5 * np.abs(by_step).max())
  np.testing.assert_allclose(found['average_pool'], pooled.mean(1), atol=1e-5 * pooled.max())


@pytest.mark.parametrize('size', [9, 15, 16])
def test_padding_of_convolutions_and_pools_matches_tensorflow(size):
  rng = np.random.default_rng(size)
  x = rng.normal(size=(1, size, size, size + 1, 2)).astype(np.float32)
  kernel = rng.normal(size=(7, 7, 7, 2, 3)).astype(np.float32)
  norm = {'batch_norm/moving_mean': 0.0, 'batch_norm/moving_variance': 1.0, 'batch_norm/beta': 1000.0}
  params = {'conv_3d/w': kernel} | {name: np.full(3, value, np.float32) for name, value in norm.items()}
  found = i3d.Unit3D(3, 7, stride=2).apply({'params': params}, x)
  expected = tf.nn.conv3d(x, kernel, (1, 2, 2, 2, 1), 'SAME') / np.sqrt(1 + 1e-3) + 1000
  np.testing.assert_allclose(found, expected, atol=1e-3)
  for window, strides in [
    ((1, 3, 3), (1, 2, 2)),
    ((3, 3, 3), (2, 2, 2)),
    ((2, 2, 2), (2, 2, 2)),
    ((3, 3, 3), (1, 1, 1)),
  ]:
    found = i3d.max_pool(x - 5, window, strides)  # negative, so that a zero of the padding would be the maximum
    np.testing.assert_array_equal(found, tf.nn.max_pool3d(x - 5, window, strides, 'SAME'))


@pytest.mark.parametrize(('num_classes', 'digest'), LISTINGS.items())
def test_i3d_parameter_names_and_shapes_match_the_published_checkpoints(num_classes, digest):
  shapes_by_name = weights.names(weights.parameters(i3d.I3D(num_classes), (1, i3d.MIN_FRAMES, 224, 224, 3)))
  listing = sorted(f'{name} {list(shape)}' for name, shape in shapes_by_name.items())
  assert hashlib.sha256('\n'.join(listing).encode()).hexdigest() == digest


@pytest.mark.parametrize('shape', [(1, 8, 224, 224, 3), (1, 16, 225, 224, 3), (1, 16, 224, 224, 1), (16, 224, 224, 3)])
def test_i3d_refuses_videos_of_unsupported_shapes(shape):
  reference.refused(lambda: weights.parameters(i3d.I3D(), shape), 'T >= 9', str(list(shape)))


def real_weights():
  """A path for i3d_weights.load, or None."""
  try:
    return os.environ.get('DVD_GAN_I3D') or str(i3d_weights.installed())
  except weights.UsageError:
    return None


@pytest.mark.skipif(not real_weights(), reason='needs the extra [metrics], or DVD_GAN_I3D=FILE with the 400 classes')
def test_i3d_with_the_real_weights_matches_pytorch_logits_and_features():
  clips = [
    shapes.draw(0, 18, frames=16, size=224)[0],
    np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), np.uint8),
  ]
  video = np.stack(clips).astype(np.float32) / 127.5 - 1
  params = i3d_weights.load(real_weights()).params
  found = jax.jit(i3d.I3D().apply)({'params': params}, video)
  with np.load(REFERENCE) as expected:
    for name in ('logits', 'average_pool'):
      np.testing.assert_allclose(found[name], expected[name], atol=1e-5 * np.abs(expected[name]).max())
