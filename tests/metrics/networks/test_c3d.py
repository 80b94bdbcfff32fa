import jax
import numpy as np
import pytest

from dvd_gan.metrics.networks import c3d, weights
from tests.metrics.networks import reference

# Maps of 33, 17, 9, 5, 3 and 2 pixels: some pools have odd inputs, as does the last pool of the real network.
NET = c3d.C3D(resolution=33, hidden=64)
SHAPE = (2, 16, 20, 30, 3)


@pytest.fixture(scope='module')
def published():
  """Random arrays of TGANv2's two files: (weights by name, mean)."""
  params = reference.random_params(NET, SHAPE)
  del params['mean']
  arrays = {name: array.transpose(4, 3, 0, 1, 2) if array.ndim == 5 else array.T for name, array in params.items()}
  mean = np.random.default_rng(1).uniform(80, 120, (3, 16, 128, 171)).astype(np.float32)
  return arrays, mean


@pytest.fixture
def saved(published, tmp_path):
  """Paths of the two files."""
  arrays, mean = published
  np.savez(tmp_path / 'conv3d_deepnetA_ucf.npz', **arrays)
  np.savez(tmp_path / 'mean2.npz', mean=mean)
  return tmp_path / 'conv3d_deepnetA_ucf.npz', tmp_path / 'mean2.npz'


def test_c3d_matches_the_tensorflow_reference(published, saved):
  arrays, mean = published
  video = np.random.default_rng(2).uniform(-1, 1, SHAPE).astype(np.float32)
  loaded = c3d.load(*saved, NET)
  found = jax.jit(NET.apply)({'params': loaded.params}, video)
  logits, fc7 = reference.c3d(arrays, mean[:, :, 8:41, 8:41], video)
  np.testing.assert_allclose(found['logits'], logits, atol=1e-5 * np.abs(logits).max())
  np.testing.assert_allclose(found['fc7'], fc7, atol=1e-5 * fc7.max())
  exponentials = np.exp(logits - logits.max(1, keepdims=True))
  np.testing.assert_allclose(found['probabilities'], exponentials / exponentials.sum(1, keepdims=True), atol=1e-3)
  assert sorted(loaded.sha256) == ['conv3d_deepnetA_ucf.npz', 'mean2.npz']


def test_c3d_parameter_shapes_match_the_published_ones():
  """Shapes of TGANv2's network (pfnet-research/tgan2, c3d_ucf101.py)."""
  shapes = weights.names(weights.parameters(c3d.C3D(), (1, 16, 64, 64, 3)))
  assert shapes['fc6/W'] == (512 * 4 * 4, 4096) and shapes['fc8/W'] == (4096, 101)
  assert shapes['conv5b/W'] == (3, 3, 3, 512, 512) and shapes['mean'] == (16, 112, 112, 3)
  assert len(shapes) == 2 * 11 + 1


def test_c3d_files_with_wrong_names_shapes_or_values_are_refused_with_a_reason(published, saved):
  arrays, _ = published
  path, mean = saved
  without = {name: array for name, array in arrays.items() if name != 'conv3a/b'}
  np.savez(path, **without, extra=np.zeros(3), **{'bn1a/gamma': np.ones(64)})
  reference.refused(lambda: c3d.load(path, mean, NET), '1 missing (conv3a/b)', '2 not of', 'bn1a/gamma, extra')
  np.savez(path, **arrays | {'fc8/W': arrays['fc8/W'].T, 'fc7/b': np.full(64, np.nan), 'fc6/b': np.arange(64)})
  words = ('fc8/W [64, 101] in place of [101, 64]', '1 not finite (fc7/b)', '1 no floats (fc6/b)')
  reference.refused(lambda: c3d.load(path, mean, NET), *words)
  np.savez(path, **arrays)
  np.savez(mean, mean=np.zeros((3, 16, 24, 24)))
  reference.refused(lambda: c3d.load(path, mean, NET), 'mean2.npz', 'mean [3, 16, 16, 16]')
  mean.write_bytes(b'PK\x03\x04 no')
  reference.refused(lambda: c3d.load(path, mean, NET), 'no intact .npz')
  reference.refused(lambda: c3d.load(path.parent / 'none.npz', mean, NET), 'cannot read', 'none.npz')


def test_c3d_refuses_a_video_of_12_frames():
  reference.refused(lambda: weights.parameters(NET, (1, 12, 33, 33, 3)), '16', '12')
