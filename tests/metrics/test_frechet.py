import numpy as np
import pytest
import scipy.linalg

from dvd_gan.metrics import frechet


def gaussian(rng, count, mean, root):
  return mean + rng.standard_normal((count, len(mean))) @ root


def of(mean, covariance, count=100):
  """Moments with exactly this mean and covariance (ddof 1)."""
  moments = frechet.Moments()
  moments.count, moments.mean, moments._scatter = count, mean, covariance * (count - 1)
  return moments


def test_frechet_distance_of_two_gaussians_matches_the_closed_form():
  """Commuting covariances: |m1 - m2|^2 + sum (sqrt(a) - sqrt(b))^2."""
  rng = np.random.default_rng(0)
  q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
  a, b = rng.uniform(0, 3, (2, 6))
  m1, m2 = rng.standard_normal((2, 6))
  expected = np.sum((m1 - m2) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
  assert frechet.distance(of(m1, (q * a) @ q.T), of(m2, (q * b) @ q.T)) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_matches_scipy_for_well_conditioned_covariances():
  rng = np.random.default_rng(0)
  roots = rng.standard_normal((2, 20, 20)) / 4 + np.eye(20)
  a, b = (gaussian(rng, 5000, rng.standard_normal(20), root) for root in roots)
  s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
  got = frechet.distance(frechet.Moments(a), frechet.Moments(b))
  assert got == pytest.approx(expected, rel=1e-6)
  s1, s2 = np.cov(a, rowvar=False, ddof=0), np.cov(b, rowvar=False, ddof=0)
  expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
  assert frechet.distance(frechet.Moments(a), frechet.Moments(b), ddof=0) == pytest.approx(expected, rel=1e-6)


def test_moments_added_in_parts_equal_the_moments_of_all_rows():
  rows = 1e4 + np.random.default_rng(0).standard_normal((100, 5)).astype(np.float32)
  parts = frechet.Moments()
  for part in np.split(rows, [1, 40, 41]):
    parts.add(part)
  assert parts.count == 100
  np.testing.assert_allclose(parts.mean, rows.mean(0, dtype=np.float64), rtol=1e-12)
  np.testing.assert_allclose(parts.covariance(1), np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-8)
  with pytest.raises(ValueError, match='6 dimensions, 5 before'):
    parts.add(np.zeros((2, 6)))


def test_frechet_distance_of_a_set_to_itself_is_zero_and_too_few_samples_give_a_warning():
  rng = np.random.default_rng(0)
  few = frechet.Moments(rng.standard_normal((10, 30)))
  assert frechet.distance(few, few) == pytest.approx(0, abs=1e-6)
  assert '10 samples for 30 dimensions' in few.warning()
  # Without full rank the distance is still finite and near its true value.
  other = frechet.Moments(rng.standard_normal((10, 30)) + 5)
  assert frechet.distance(few, other) == pytest.approx(30 * 25, rel=0.2)
  assert frechet.Moments(rng.standard_normal((31, 30))).warning() is None


def test_features_that_are_not_finite_are_refused():
  with pytest.raises(ValueError, match='not finite'):
    frechet.Moments(np.array([[0.0, np.nan]]))


def test_frechet_distance_of_equal_gaussians_falls_with_the_number_of_samples():
  """One Gaussian of 64 dimensions, sampled twice: the distance is the bias, which falls with N."""
  rng = np.random.default_rng(0)
  floors = [
    frechet.distance(*(frechet.Moments(rng.standard_normal((count, 64))) for _ in range(2)))
    for count in (64, 256, 2048)
  ]
  assert floors[0] > 3 * floors[1] > 9 * floors[2] > 0
