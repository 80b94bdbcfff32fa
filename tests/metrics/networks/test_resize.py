import jax
import numpy as np
import pytest
import tensorflow as tf

from dvd_gan.metrics import networks, protocols
from dvd_gan.metrics.networks import resize

TENSORFLOWS = {
  'tf1': dict(align_corners=False, half_pixel_centers=False),
  'align_corners': dict(align_corners=True, half_pixel_centers=False),
  'half_pixel': dict(align_corners=False, half_pixel_centers=True),
}
SIZES = [((64, 64), 224), ((17, 30), 112), ((128, 171), 64), ((1, 2), 5), ((240, 320), 1)]


@pytest.mark.parametrize('method', resize.METHODS)
@pytest.mark.parametrize(('shape', 'size'), SIZES)
def test_resize_matches_tensorflow_for_every_method(method, shape, size):
  video = np.random.default_rng(0).integers(0, 256, (2, 2, *shape, 3), np.uint8)
  found = jax.jit(resize.resize, static_argnums=(1, 2))(video, size, method)
  frames = video.reshape(-1, *shape, 3)
  expected = tf.compat.v1.image.resize_bilinear(frames, (size, size), **TENSORFLOWS[method])
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, np.reshape(expected, (2, 2, size, size, 3)), atol=255e-4)


@pytest.mark.parametrize('method', resize.METHODS)
def test_a_resize_to_the_same_size_returns_the_input_unrounded(method):
  video = np.random.default_rng(0).normal(size=(1, 3, 20, 20, 3)).astype(np.float32)
  np.testing.assert_allclose(resize.resize(video, 20, method), video, atol=1e-6)


def test_the_three_resize_methods_differ_by_more_than_one_grey_level():
  """The difference, here on frames of 64 pixels, is why a protocol's definition includes its resize method."""
  video = np.random.default_rng(0).integers(0, 256, (1, 1, 64, 64, 3), np.uint8)
  one, two, three = (np.asarray(resize.resize(video, 224, method)) for method in resize.METHODS)
  assert min(np.abs(one - two).mean(), np.abs(one - three).mean(), np.abs(two - three).mean()) > 1


def test_an_unknown_resize_method_is_refused():
  with pytest.raises(ValueError, match='no resize method'):
    resize.resize(np.zeros((1, 1, 4, 4, 3), np.float32), 8, 'bicubic')


def test_the_two_resizes_of_fvd_magvit_match_tensorflow():
  """As google-research/magvit's tools/compute_fvd.py: to 64x64 if the size differs, then to 224x224, both as in TF1."""
  chain = protocols.PROTOCOLS['fvd_magvit'].resize
  for side in (128, 64):
    video = np.random.default_rng(0).integers(0, 256, (2, 2, side, side, 3), np.uint8)
    frames = video.reshape(-1, side, side, 3).astype(np.float32)
    if side != 64:
      frames = tf.compat.v1.image.resize_bilinear(frames, (64, 64))
    expected = 2 * tf.compat.v1.image.resize_bilinear(frames, (224, 224)).numpy() / 255 - 1
    found = networks.prepared(video, chain)
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, rtol=0, atol=1e-6)
