import jax
import numpy as np
import pytest

from dvd_gan import models, sampling
from dvd_gan.models import spectral


def test_a_samplers_normalised_weights_have_a_spectral_norm_of_1(sampler):
  for path, leaf in jax.tree_util.tree_flatten_with_path(sampler.weights)[0]:
    if spectral.is_normalised(path, leaf):
      sigma = np.linalg.svd(np.asarray(leaf).reshape(-1, leaf.shape[-1]), compute_uv=False)[0]
      assert sigma == pytest.approx(1, abs=1e-3)


def test_samples_do_not_depend_on_the_batch_size(sampler, config):
  standing = sampler.standing()
  labels = np.array([0, 1, 2, 0, 1])
  videos = sampler.videos(standing, labels, truncation=1.0, seed=3)
  assert videos.shape == (5, 5, 16, 16, 3) and videos.dtype == np.uint8
  half = sampler.videos(sampler.standing(0.5), labels, truncation=0.5, seed=3)
  config.sample.batch_size = 3
  other = sampler.videos(standing, labels, truncation=1.0, seed=3)
  assert abs(videos.astype(int) - other).max() <= 1
  alone = sampler.videos(standing, labels[:1], truncation=1.0, seed=3)
  assert abs(videos[:1].astype(int) - alone).max() <= 1
  other = sampler.videos(sampler.standing(0.5), labels, truncation=0.5, seed=3)
  assert abs(half.astype(int) - other).max() <= 1


def test_samples_depend_on_seed_and_class_and_at_truncation_0_only_on_the_class(sampler):
  standing = sampler.standing()
  labels = np.array([0, 1, 2])
  base = sampler.videos(standing, labels, truncation=1.0, seed=0)
  assert not np.array_equal(base, sampler.videos(standing, labels, truncation=1.0, seed=1))
  other = sampler.videos(standing, np.array([1, 1, 2]), truncation=1.0, seed=0)
  assert not np.array_equal(base[0], other[0]) and np.array_equal(base[1:], other[1:])
  # At truncation 0 a sample depends only on its class.
  still = sampler.videos(standing, np.array([0, 0, 1]), truncation=0.0, seed=0)
  assert np.array_equal(still[0], still[1]) and not np.array_equal(still[0], still[2])


def test_standing_statistics_are_the_moments_of_all_batches_together(sampler, config):
  config.sample.statistics_batches, config.sample.statistics_batch_size = 3, 4
  standing = sampler.standing()
  z, label = [], []
  for i in range(3):
    rng = np.random.default_rng((sampling.STATISTICS_SEED, i))
    z.append(rng.standard_normal((4, config.gen.z_dim), np.float32))
    label.append(rng.integers(config.data.num_classes, size=4, dtype=np.int32))
  # The input of the first norm depends on no other norm, so three batches of 4 and one of 12 agree exactly.
  no_frames = np.zeros((12, 0, 16, 16, 3), np.uint8)
  whole = sampler.statistics(sampler.weights, np.concatenate(z), np.concatenate(label), no_frames)
  first = lambda tree: tree['block_4']['norm1']['norm']  # noqa: E731
  np.testing.assert_allclose(first(standing)['mean'], first(whole)['mean'], atol=1e-5)
  np.testing.assert_allclose(first(standing)['var'], first(whole)['var'], rtol=1e-3, atol=1e-6)
  assert first(standing)['mean'].shape == (5, 8)  # one for each frame and channel
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), models.standing_shapes(config))
  assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), standing)


def test_standing_statistics_do_not_depend_on_sample_classes(sampler, config):
  before = sampler.standing()
  config.sample.classes = (2,)
  jax.tree.map(np.testing.assert_array_equal, before, sampler.standing())


def test_sample_labels_cycle_through_the_requested_classes(config):
  config.sample.num = 5
  assert sampling.labels_for(config).tolist() == [0, 1, 2, 0, 1]
  config.sample.classes = (2, 0)
  assert sampling.labels_for(config).tolist() == [2, 0, 2, 0, 2]
