"""The Inception Score of class probabilities (Salimans et al. 2016)."""

from typing import NamedTuple

import numpy as np


class Score(NamedTuple):
  """Mean over splits, and their standard deviation (ddof 0; 0 for one split)."""

  mean: float
  std: float


def inception_score(probabilities: np.ndarray, splits: int) -> Score:
  """exp(E[KL(p(y|x) || p(y))]) in each of `splits` consecutive parts of equal size.

  Args:
    probabilities: [N, K], rows that sum to 1; converted to float64.
    splits: number of parts; the last N mod `splits` rows are dropped.

  Raises:
    ValueError: if there are fewer rows than splits, or if a row is not a probability distribution.
  """
  p = np.asarray(probabilities, np.float64)
  if len(p) < splits:
    raise ValueError(f'{len(p)} samples cannot be split in {splits}')
  if not (np.isfinite(p).all() and (p >= 0).all() and np.allclose(p.sum(1), 1, atol=1e-3)):
    raise ValueError('probabilities are not finite, or do not sum to 1')
  p = p / p.sum(1, keepdims=True)
  scores = []
  for part in p[: len(p) // splits * splits].reshape(splits, -1, p.shape[1]):
    # 0 log 0 is 0.
    log_p = np.log(np.where(part > 0, part, 1))
    marginal = part.mean(0)
    log_marginal = np.log(np.where(marginal > 0, marginal, 1))
    scores.append(np.exp((part * (log_p - log_marginal)).sum(1).mean()))
  return Score(float(np.mean(scores)), float(np.std(scores)))
