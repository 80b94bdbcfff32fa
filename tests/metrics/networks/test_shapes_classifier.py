import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from dvd_gan.datasets import shapes
from dvd_gan.metrics.networks import resize, shapes_classifier, weights
from tests.conftest import ROOT
from tests.metrics.networks import reference

MEASURED = json.loads((ROOT / 'results' / 'toy' / 'classifier.json').read_text())
COUNT, PART = 240, 60  # one batch size, for one compilation
# Three standard deviations of an accuracy of 99 % over 240 clips; the committed figure is over 900.
MARGIN = 0.02


@pytest.fixture(scope='module')
def classify():
  """uint8 video [N, T, 32, 32, 3] -> the outputs of the committed network."""
  params = shapes_classifier.load().params
  apply = jax.jit(lambda video: shapes_classifier.ShapesClassifier().apply({'params': params}, video))

  def run(video):
    parts = [apply(np.float32(video[at : at + PART]) / 127.5 - 1) for at in range(0, len(video), PART)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

  return run


@functools.cache
def clips():
  """Held-out clips with the seed of the committed figures."""
  return shapes.draw_many(MEASURED['held_out']['seed'], COUNT, frames=16, size=32)


@pytest.fixture(scope='module')
def found(classify):
  """The network's outputs for all frames of the clips."""
  return classify(clips()[0])


def committed(**of):
  """The row of the committed table with these values."""
  (row,) = (row for row in MEASURED['accuracy'] if of.items() <= row.items())
  return row


def test_the_shapes_classifier_has_its_committed_accuracy(classify, found):
  video, label = clips()
  for frames, said in ((16, found), (6, classify(video[:, :6]))):
    right = {
      'shape': said['shape'].argmax(1) == label // len(shapes.MOTIONS),
      'motion': said['motion'].argmax(1) == label % len(shapes.MOTIONS),
      'both': said['probabilities'].argmax(1) == label,
    }
    row = committed(size=32, stride=1, frames=frames, jpeg=False)
    for name, hits in right.items():
      share = hits.mean()
      assert abs(share - row[name]) < MARGIN, f'{name}, {frames} frames: {share:.3f}, committed {row[name]:.3f}'


def test_the_committed_weights_have_the_sha256_of_the_measured_ones():
  assert shapes_classifier.load().sha256 == MEASURED['sha256']
  assert committed(size=32, stride=1, frames=16, jpeg=False)['both'] >= 0.95
  assert shapes_classifier.WEIGHTS.stat().length < 400_000


def test_larger_clips_are_classified_after_a_resize(classify):
  video, label = shapes.draw_many(1, PART, frames=6, size=64)
  found = classify(np.asarray(resize.resize(video, shapes_classifier.RESOLUTION, 'half_pixel')))
  assert (found['probabilities'].argmax(1) == label).mean() > 0.8


def test_probabilities_are_the_product_of_the_shape_and_motion_heads(found):
  assert {name: value.shape[1] for name, value in found.items()} == {
    'features': 64,
    'shape': len(shapes.SHAPES),
    'motion': len(shapes.MOTIONS),
    'probabilities': len(shapes.CLASSES),
  }
  assert all(len(value) == COUNT and value.dtype == np.float32 for value in found.values())
  np.testing.assert_allclose(found['probabilities'].sum(1), 1, atol=1e-5)
  grid = found['probabilities'].reshape(COUNT, len(shapes.SHAPES), len(shapes.MOTIONS))
  for name, axis in (('shape', 2), ('motion', 1)):
    np.testing.assert_allclose(grid.sum(axis), jax.nn.softmax(found[name]), atol=1e-5)
  outer = grid.sum(2)[:, :, None] * grid.sum(1)[:, None, :]
  np.testing.assert_allclose(grid, outer, atol=1e-5)


def test_features_have_full_rank_and_do_not_depend_on_the_batch(classify, found):
  """The covariance of 240 clips has full rank, and reordering a batch does not change the features of a clip."""
  features = found['features']
  assert np.linalg.matrix_rank(np.cov(features.astype(np.float64).T)) == shapes_classifier.FEATURES
  again = classify(clips()[0][:PART][::-1])['features'][::-1]
  np.testing.assert_allclose(again, features[:PART], atol=1e-4)


def test_a_frozen_clip_is_classified_as_still_and_the_moving_clip_is_not(classify, found):
  """The position of the frozen shape does not reveal its original motion."""
  video, label = clips()
  moves = np.flatnonzero(label % len(shapes.MOTIONS))[:PART]
  still = shapes.MOTIONS.index('still')
  frozen = np.repeat(video[moves, :1], video.shape[1], 1)
  assert (classify(frozen)['motion'].argmax(1) == still).mean() > 0.9
  assert (found['motion'][moves].argmax(1) == still).mean() < 0.1


def test_frame_order_changes_the_motion_logits_but_not_the_predicted_shape(classify, found):
  video = clips()[0][:PART]
  found = {name: value[:PART] for name, value in found.items()}
  backwards = classify(video[:, ::-1])
  for name in ('shape', 'motion'):  # a reversed swing is the same motion
    assert (backwards[name].argmax(1) == found[name].argmax(1)).mean() > 0.9
  shuffled = classify(video[:, np.random.default_rng(0).permutation(video.shape[1])])
  assert (shuffled['shape'].argmax(1) == found['shape'].argmax(1)).mean() > 0.9
  assert np.abs(shuffled['motion'] - found['motion']).mean() > 1


@pytest.mark.parametrize('strides', [(1, 2, 2), (2, 2, 2)])
def test_the_product_over_patches_equals_a_3d_convolution(strides):
  rng = np.random.default_rng(0)
  x, kernel = (rng.standard_normal(shape, np.float32) for shape in ((2, 5, 6, 8, 3), (3, 3, 3, 3, 4)))
  layer = shapes_classifier.Convolution(4, strides)
  found = layer.apply({'params': {'kernel': kernel, 'bias': np.ones(4, np.float32)}}, x)
  layout = ('NDHWC', 'DHWIO', 'NDHWC')
  expected = jax.lax.conv_general_dilated(x, kernel, strides, ((1, 1),) * 3, dimension_numbers=layout)
  np.testing.assert_allclose(found, expected + 1, atol=1e-4)


def test_the_shapes_classifier_refuses_videos_of_unsupported_shapes():
  for shape in ((1, 3, 32, 32, 3), (1, 16, 64, 64, 3), (16, 32, 32, 3)):
    reference.refused(lambda shape=shape: weights.parameters(shapes_classifier.ShapesClassifier(), shape), 'T >= 4')


def test_a_damaged_or_missing_weights_file_is_refused_with_a_reason(tmp_path):
  at = tmp_path / 'damaged.npz'
  at.write_bytes(shapes_classifier.WEIGHTS.read_bytes()[:-2000])
  reference.refused(lambda: shapes_classifier.load(at), 'damaged.npz', 'no intact .npz')
  with np.load(shapes_classifier.WEIGHTS) as archive:
    arrays = dict(archive)
  arrays['motion/bias'][0] = np.nan
  del arrays['shape/kernel']
  np.savez(at, **arrays)
  reference.refused(lambda: shapes_classifier.load(at), '1 missing (shape/kernel)', '1 not finite (motion/bias)')
  reference.refused(lambda: shapes_classifier.load(tmp_path / 'none.npz'), 'cannot read', 'none.npz')


def test_importing_the_shapes_classifier_does_not_import_tensorflow():
  code = 'import sys, dvd_gan.metrics.networks.shapes_classifier; sys.exit("tensorflow" in sys.modules)'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
