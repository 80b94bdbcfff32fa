import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import models
from tests.conftest import tiny_config

B = 3


@pytest.fixture(scope='module')
def setup():
  config = tiny_config()
  _, disc = models.build(config)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32), models.init(config)[1])
  video = jax.random.uniform(jax.random.key(0), (B, 5, 16, 16, 3), minval=-1)
  score = jax.jit(lambda frames, video, label: disc.apply({'params': params}, frames, video, label))
  return score, video, jnp.arange(B)


def test_spatial_score_is_the_sum_of_the_scores_of_single_frames(setup):
  score, video, label = setup
  together = score(video[:, :3], video, label)['spatial']
  alone = sum(score(video[:, i : i + 1], video, label)['spatial'] for i in range(3))
  np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_spatial_score_ignores_the_order_of_frames_and_temporal_score_does_not(setup):
  score, video, label = setup
  forward, backward = score(video, video, label), score(video[:, ::-1], video[:, ::-1], label)
  np.testing.assert_allclose(forward['spatial'], backward['spatial'], rtol=1e-4, atol=1e-5)
  assert (abs(forward['temporal'] - backward['temporal']) > 1e-3).all()


def test_spatial_score_with_attention_is_the_sum_of_the_scores_of_single_frames():
  config = tiny_config()
  config.disc.attention = (8, 4)
  _, disc = models.build(config)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape, np.float32), models.init(config)[1])
  assert set(params['spatial']['attention_0']) == {'height', 'width'}
  assert set(params['temporal']['attention_0']) == {'height', 'width', 'time'}
  video = jax.random.uniform(jax.random.key(0), (B, 4, 16, 16, 3), minval=-1)
  label = jnp.arange(B)
  apply = lambda frames: disc.apply({'params': params}, frames, video, label)['spatial']  # noqa: E731
  np.testing.assert_allclose(apply(video[:, :2]), apply(video[:, :1]) + apply(video[:, 1:2]), rtol=1e-3, atol=1e-4)


def test_a_permuted_batch_permutes_the_discriminator_scores(setup):
  score, video, label = setup
  order = jnp.array([2, 0, 1])
  straight, permuted = score(video, video, label), score(video[order], video[order], label[order])
  for name in straight:
    np.testing.assert_allclose(straight[name][order], permuted[name], rtol=1e-4, atol=1e-5)


def test_a_label_changes_the_scores_of_its_own_video_only(setup):
  score, video, label = setup
  before, after = score(video, video, label), score(video, video, label.at[1].set(2))
  for name in before:
    assert abs(before[name] - after[name])[1] > 1e-3
    np.testing.assert_array_equal(before[name][jnp.array([0, 2])], after[name][jnp.array([0, 2])])


def test_temporal_score_depends_only_on_the_pooled_video(setup):
  score, video, label = setup
  checker = (jnp.indices((16, 16)).sum(0) % 2 * 2 - 1)[None, None, :, :, None] * 0.3
  before, after = score(video[:, :3], video, label), score(video[:, :3], video + checker, label)
  np.testing.assert_allclose(before['temporal'], after['temporal'], rtol=1e-3, atol=1e-4)
  assert not np.allclose(before['spatial'], score(video[:, :3] + checker, video, label)['spatial'], atol=1e-3)


def test_temporal_discriminator_has_two_volumetric_residual_blocks():
  params = models.shapes(tiny_config())[1]['temporal']
  ranks = [len(params[f'block_{i}']['conv1']['kernel'].shape) for i in range(3)]
  assert ranks == [5, 5, 4]
  assert all('skip' in params[f'block_{i}'] for i in range(2))


@pytest.mark.parametrize('frames', [4, 5, 7])
def test_discriminators_accept_even_and_odd_numbers_of_frames_from_four_on(frames):
  config = tiny_config()
  _, disc = models.build(config)
  shapes = models.shapes(config)[1]
  video = jax.ShapeDtypeStruct((B, frames, 16, 16, 3), jnp.float32)
  label = jax.ShapeDtypeStruct((B,), jnp.int32)
  scores = jax.eval_shape(lambda p, v, y: disc.apply({'params': p}, v[:, :3], v, y), shapes, video, label)
  assert {s.shape for s in scores.values()} == {(B,)}
