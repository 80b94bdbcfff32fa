"""The Frechet distance between the features of two sets, computed from their moments."""

import numpy as np


class Moments:
  """Mean and covariance of features, accumulated part by part in float64.

  Attributes:
    count: N, the number of rows added so far.
    mean: [D].
  """

  def __init__(self, features: np.ndarray | None = None):
    self.count, self.mean, self._scatter = 0, np.zeros(0), np.zeros((0, 0))
    if features is not None:
      self.add(features)

  def add(self, features: np.ndarray) -> None:
    """Adds rows [n, D].

    Raises:
      ValueError: if a feature is not finite, or if D differs from that of earlier rows.
    """
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
      raise ValueError('features are not finite')
    count, mean = len(features), features.mean(0)
    centred = features - mean
    scatter = centred.T @ centred
    # The update of Chan, Golub and LeVeque 1983: plain sums of squares lose precision by cancellation.
    if not self.count:
      self.count, self.mean, self._scatter = count, mean, scatter
    elif count:
      if mean.shape != self.mean.shape:
        raise ValueError(f'features have {len(mean)} dimensions, {len(self.mean)} before')
      total, apart = self.count + count, mean - self.mean
      self._scatter = self._scatter + scatter + np.outer(apart, apart) * (self.count * count / total)
      self.mean = self.mean + apart * (count / total)
      self.count = total

  def covariance(self, ddof: int) -> np.ndarray:
    """[D, D], divided by N - ddof."""
    return self._scatter / (self.count - ddof)

  def warning(self) -> str | None:
    """A warning if N <= D, so that the covariance is rank-deficient; otherwise None."""
    if self.count <= len(self.mean):
      return f'{self.count} samples for {len(self.mean)} dimensions: the covariance has no full rank, the bias is large'
    return None


def distance(a: Moments, b: Moments, *, ddof: int = 1) -> float:
  """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), in float64 (Heusel et al. 2017).

  Uses two symmetric eigendecompositions. S1^1/2 S2 S1^1/2 is symmetric and has the eigenvalues of S1 S2. A square root
  of S1 S2 itself may not exist in floating point, for example if the covariance is rank-deficient.

  Args:
    a, b: moments of at least 2 rows each.
    ddof: 1 for the sample covariance (TF-GAN and most other code), 0 for the population covariance (StyleGAN-V).

  Raises:
    ValueError: if a set has fewer than 2 rows.
  """
  if min(a.count, b.count) < 2:
    raise ValueError('a Frechet distance needs two samples or more')
  first, second = a.covariance(ddof), b.covariance(ddof)
  values, vectors = np.linalg.eigh(first)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  cross = np.linalg.eigvalsh(root @ second @ root)
  trace = np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(cross, 0)).sum()
  return float(np.sum((a.mean - b.mean) ** 2) + max(trace, 0.0))
