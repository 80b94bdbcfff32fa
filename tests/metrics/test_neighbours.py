import numpy as np
import pytest

from dvd_gan.metrics import neighbours


def test_equal_distributions_score_near_1_and_distant_ones_0_on_precision_recall_density_coverage(monkeypatch):
  monkeypatch.setattr(neighbours, 'ROWS', 70)  # several blocks
  rng = np.random.default_rng(0)
  real, same = rng.standard_normal((2, 200, 4))
  found = neighbours.precision_recall(real, same) | neighbours.density_coverage(real, same)
  assert all(0.8 < value < 1.2 for value in found.values()), found
  found = neighbours.precision_recall(real, same + 100) | neighbours.density_coverage(real, same + 100)
  assert all(value == 0 for value in found.values()), found


def test_samples_of_one_of_two_modes_have_precision_1_but_recall_and_coverage_one_half():
  rng = np.random.default_rng(0)
  real = np.concatenate([rng.standard_normal((100, 4)), rng.standard_normal((100, 4)) + 50])
  found = neighbours.precision_recall(real, real[:100] + 0.01) | neighbours.density_coverage(real, real[:100] + 0.01)
  assert found['precision'] == 1 and found['recall'] == 0.5 and found['coverage'] == 0.5 and found['density'] > 0.9


def test_precision_density_and_coverage_match_values_computed_by_hand():
  """On a line with k = 1, the balls of the real points have radii 1, 1 and 2."""
  real, fake = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [4.5], [9.0]])
  assert neighbours.precision_recall(real, fake, k=1)['precision'] == pytest.approx(2 / 3)
  assert neighbours.density_coverage(real, fake, k=1) == pytest.approx({'density': (2 + 1 + 0) / 3, 'coverage': 1})
  with pytest.raises(ValueError, match='no 3 neighbours'):
    neighbours.precision_recall(real, fake)


def test_memorised_finds_copies_of_known_clips_and_their_originals():
  rng = np.random.default_rng(0)
  known, others, fresh = (rng.standard_normal((count, 8)) for count in (500, 1000, 4000))
  found = neighbours.memorised(known, others, fresh)
  assert 0.003 < found['nearer'] < 0.03  # as for `others`: 1 in 100, within the spread of the quantile
  copies = fresh[:200].copy()
  copies[:50] = known[100:150] + 0.001 * rng.standard_normal((50, 8))
  copies[7] = known[107]
  found = neighbours.memorised(known, others, copies)
  assert 0.25 <= found['nearer'] < 0.3
  assert found['closest'][0] == [7, 107] and all(row + 100 == clip for row, clip in found['closest'])
  assert len(found['closest']) == 4
