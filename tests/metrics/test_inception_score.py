import numpy as np
import pytest

from dvd_gan.metrics.inception_score import inception_score


def test_inception_score_is_the_number_of_classes_for_certain_even_predictions_and_one_for_uniform_ones():
  certain = np.eye(7)[np.arange(70) % 7]
  assert inception_score(certain, 1) == pytest.approx((7, 0))
  assert inception_score(np.full((10, 7), 1 / 7), 1) == pytest.approx((1, 0))
  assert inception_score(certain[:1].repeat(10, 0), 1) == pytest.approx((1, 0))  # only one class


def test_inception_score_is_the_mean_and_deviation_over_splits():
  rng = np.random.default_rng(0)
  p = rng.dirichlet(np.full(5, 0.2), 103)
  parts = []
  for part in p[:100].reshape(4, 25, 5):
    parts.append(np.exp(np.mean([np.sum(row * np.log(row / part.mean(0))) for row in part])))
  assert inception_score(p, 4) == pytest.approx((np.mean(parts), np.std(parts)), rel=1e-9)


def test_inception_score_refuses_too_few_rows_and_rows_that_are_not_probabilities():
  with pytest.raises(ValueError, match='cannot be split'):
    inception_score(np.eye(3), 4)
  for bad in (np.full((4, 3), np.nan), np.full((4, 3), 0.5), np.array([[-1.0, 2.0]] * 4)):
    with pytest.raises(ValueError, match='sum to 1'):
      inception_score(bad, 1)
