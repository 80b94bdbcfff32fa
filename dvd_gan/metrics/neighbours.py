"""Precision, recall, density, coverage and memorisation of samples by nearest neighbours among features."""

from typing import Any

import numpy as np

ROWS = 1024  # of a block of distances


def precision_recall(real: np.ndarray, fake: np.ndarray, *, k: int = 3) -> dict[str, float]:
  """Improved precision and recall (Kynkaanniemi et al. 2019): the share of one set that lies in the other's manifold.

  A set's manifold is the union of balls around its points, each reaching the point's k-th nearest neighbour.

  Args:
    real, fake: features [N, D] and [M, D], more than k of each.
    k: which neighbour.
  """
  within_real = _inside(fake, real, _radii(real, k))
  within_fake = _inside(real, fake, _radii(fake, k))
  return {'precision': float((within_real > 0).mean()), 'recall': float((within_fake > 0).mean())}


def density_coverage(real: np.ndarray, fake: np.ndarray, *, k: int = 5) -> dict[str, float]:
  """Density and coverage (Naeem et al. 2020): precision that outliers do not spoil, and modes that have a sample.

  Args:
    real, fake: features [N, D] and [M, D], more than k of each.
    k: which neighbour.
  """
  radii = _radii(real, k)
  density = _inside(fake, real, radii).mean() / k
  _, nearest = _nearest(real, fake)
  return {'density': float(density), 'coverage': float((nearest < radii).mean())}


def memorised(known: np.ndarray, others: np.ndarray, fake: np.ndarray, *, closest: int = 4) -> dict[str, Any]:
  """Whether samples repeat clips that the model knows (ours).

  Args:
    known: features [N, D] of real clips, of those that it was trained on.
    others: of other real clips [L, D].
    fake: of samples [M, D].
    closest: how many pairs to name.

  Returns:
    'nearer': share of the samples that lie nearer to a known clip than 99 in 100 of the others do. 0.01 is what real
    clips would get; a much larger share means copies. 'closest': [[sample, known clip], ...], by rows, the nearest first.
  """
  (index, distance), (_, usual) = (_nearest(points, known) for points in (fake, others))
  first = np.argsort(distance, kind='stable')[:closest]
  pairs = [[int(i), int(index[i])] for i in first]
  return {'nearer': float((distance < np.quantile(usual, 0.01)).mean()), 'closest': pairs}


def _nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(row, distance) of each point's nearest among the others."""
  parts = [_distances(part, others) for part in _parts(points)]
  return tuple(np.concatenate([found(part, axis=1) for part in parts]) for found in (np.argmin, np.min))


def _radii(points: np.ndarray, k: int) -> np.ndarray:
  """Distance of each point to its k-th nearest other one."""
  if len(points) <= k:
    raise ValueError(f'{len(points)} samples have no {k} neighbours')
  # A point's nearest is itself.
  return np.concatenate([np.partition(_distances(part, points), k, axis=1)[:, k] for part in _parts(points)])


def _inside(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
  """In how many of the balls each point lies."""
  return np.concatenate([(_distances(part, centres) < radii).sum(1) for part in _parts(points)])


def _parts(points: np.ndarray) -> list[np.ndarray]:
  return [points[start : start + ROWS] for start in range(0, len(points), ROWS)]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Euclidean distances [n, m], in float64."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
  return np.sqrt(np.maximum(squares, 0))
