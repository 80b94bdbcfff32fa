"""Precision, recall, density, coverage and memorisation of samples, from nearest neighbours in feature space."""

from typing import Any

import numpy as np

ROWS = 1024  # rows per block of the distance matrix


def precision_recall(real: np.ndarray, fake: np.ndarray, *, k: int = 3) -> dict[str, float]:
  """Improved precision and recall (Kynkaanniemi et al. 2019).

  Precision is the share of `fake` in the manifold of `real`; recall is the share of `real` in the manifold of `fake`. A
  set's manifold is the union of balls around its points. The radius is the distance to the k-th nearest neighbour.

  Args:
    real, fake: features [N, D] and [M, D], with N, M > k.
    k: index of the neighbour that sets the radius.
  """
  within_real = _inside(fake, real, _radii(real, k))
  within_fake = _inside(real, fake, _radii(fake, k))
  return {'precision': float((within_real > 0).mean()), 'recall': float((within_fake > 0).mean())}


def density_coverage(real: np.ndarray, fake: np.ndarray, *, k: int = 5) -> dict[str, float]:
  """Density and coverage (Naeem et al. 2020).

  Density is a precision that is robust to outliers. Coverage is the share of real points with a sample in their ball.

  Args:
    real, fake: features [N, D] and [M, D], with N > k.
    k: index of the neighbour that sets the radius.
  """
  radii = _radii(real, k)
  density = _inside(fake, real, radii).mean() / k
  _, nearest = _nearest(real, fake)
  return {'density': float(density), 'coverage': float((nearest < radii).mean())}


def memorised(known: np.ndarray, others: np.ndarray, fake: np.ndarray, *, closest: int = 4) -> dict[str, Any]:
  """Detects samples that copy real clips (ours).

  Args:
    known: features [N, D] of the real clips that may have been copied.
    others: features [L, D] of other real clips.
    fake: features [M, D] of samples.
    closest: number of pairs to return.

  Returns:
    'nearer': share of the samples that are nearer to a clip of `known` than 99% of `others` are. For real clips it is
    0.01; a much larger share indicates copies. 'closest': [[row of `fake`, row of `known`], ...], nearest pair first.
  """
  (index, distance), (_, usual) = (_nearest(points, known) for points in (fake, others))
  first = np.argsort(distance, kind='stable')[:closest]
  pairs = [[int(i), int(index[i])] for i in first]
  return {'nearer': float((distance < np.quantile(usual, 0.01)).mean()), 'closest': pairs}


def _nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(row, distance) of each point's nearest neighbour in `others`."""
  parts = [_distances(part, others) for part in _parts(points)]
  return tuple(np.concatenate([found(part, axis=1) for part in parts]) for found in (np.argmin, np.min))


def _radii(points: np.ndarray, k: int) -> np.ndarray:
  """Distance of each point to its k-th nearest neighbour, itself excluded."""
  if len(points) <= k:
    raise ValueError(f'{len(points)} samples have no {k} neighbours')
  # Column 0 after sorting is the point itself.
  return np.concatenate([np.partition(_distances(part, points), k, axis=1)[:, k] for part in _parts(points)])


def _inside(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
  """Number of balls that contain each point."""
  return np.concatenate([(_distances(part, centres) < radii).sum(1) for part in _parts(points)])


def _parts(points: np.ndarray) -> list[np.ndarray]:
  return [points[start : start + ROWS] for start in range(0, len(points), ROWS)]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Euclidean distances [n, m], in float64."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
  return np.sqrt(np.maximum(squares, 0))
