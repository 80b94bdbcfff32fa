import numpy as np
import pytest
import tensorflow as tf

from dvd_gan.metrics import similarity


@pytest.fixture(scope='module')
def videos():
  """Random truth [3, 2, 16, 16, 3] and, with noise of four strengths, futures [3, 4, 2, 16, 16, 3]."""
  rng = np.random.default_rng(0)
  truth = rng.integers(60, 190, (3, 2, 16, 16, 3))
  noise = rng.normal(0, 1, (3, 4, 2, 16, 16, 3)) * np.array([20, 5, 40, 10])[:, None, None, None, None]
  return truth.astype(np.uint8), np.clip(truth[:, None] + noise, 0, 255).astype(np.uint8)


def test_psnr_and_ssim_match_tensorflow(videos):
  truth, futures = videos
  found = similarity.psnr_and_ssim(futures, truth[:, None])
  truth = np.broadcast_to(truth[:, None], futures.shape)
  np.testing.assert_allclose(found['psnr'], tf.image.psnr(futures, truth, 255), rtol=1e-5)
  np.testing.assert_allclose(found['ssim'], tf.image.ssim(tf.constant(futures), tf.constant(truth), 255), atol=1e-5)


def test_psnr_and_ssim_computed_in_parts_equal_those_computed_at_once(videos, monkeypatch):
  truth, futures = videos
  whole = similarity.psnr_and_ssim(futures, truth[:, None])
  monkeypatch.setattr(similarity, 'FRAMES', 7)
  parts = similarity.psnr_and_ssim(futures, truth[:, None])
  for name in whole:
    np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5)


def test_equal_frames_smaller_than_the_ssim_window_have_ssim_1_and_a_finite_psnr():
  video = np.zeros((1, 2, 8, 8, 3), np.uint8)
  found = similarity.psnr_and_ssim(video, video)
  assert found['psnr'] == pytest.approx(58.92, abs=0.01) and found['ssim'] == pytest.approx(1)


def test_summary_gives_the_mean_the_best_future_and_the_score_of_copying_the_last_frame(videos):
  truth, futures = videos
  last = truth[:, 0]
  found = similarity.summary(futures, truth, last)
  each = similarity.psnr_and_ssim(futures, truth[:, None])
  for name in ('psnr', 'ssim'):
    np.testing.assert_allclose(found[name]['mean'], each[name].mean((0, 1)), atol=1e-3)
    np.testing.assert_allclose(found[name]['best'], each[name][:, 1].mean(0), atol=1e-3)  # the least noisy
  assert found['psnr']['copy_last'][0] == pytest.approx(58.92, abs=0.01)
  assert found['psnr']['copy_last'][1] < 20


def test_spread_is_the_mean_distance_between_pairs_of_futures_and_none_for_one_future():
  one = np.full((2, 1, 3, 4, 4, 3), 100, np.uint8)
  assert similarity.spread(np.concatenate([one, one], 1)) == 0
  assert similarity.spread(np.concatenate([one, one + 10, one + 10], 1)) == pytest.approx(20 / 3, abs=1e-3)
  assert similarity.spread(one) is None
