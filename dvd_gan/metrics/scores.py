"""Computes a protocol's metrics from features, part by part. Memory grows with N only if a metric needs every row."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from dvd_gan.datasets import shapes
from dvd_gan.metrics import frechet, neighbours
from dvd_gan.metrics.inception_score import inception_score
from dvd_gan.metrics.protocols import Protocol

NEIGHBOURS = 10_000  # maximum samples for metrics that compare all pairs


@dataclasses.dataclass
class Gathered:
  """Statistics of a range of rows: moments of the feature, and the arrays whose rows a metric needs."""

  moments: frechet.Moments
  kept: dict[str, list[np.ndarray]]

  def all(self, name: str) -> np.ndarray:
    return np.concatenate(self.kept[name])


def gather(protocol: Protocol, parts: Iterable[dict[str, np.ndarray]], ranges: list[tuple[int, int]]) -> list[Gathered]:
  """One `Gathered` per range of rows (first, end) of a set; ValueError if a feature is not finite."""
  found = [Gathered(frechet.Moments(), {}) for _ in ranges]
  row = 0
  for part in parts:
    count = len(part['label'])
    for (first, end), one in zip(ranges, found, strict=True):
      rows = slice(max(first - row, 0), max(min(end - row, count), 0))
      if rows.start >= rows.stop:
        continue
      if protocol.compares:
        one.moments.add(part[protocol.feature][rows])
      for name in _needed(protocol, end - first):
        one.kept.setdefault(name, []).append(part[name][rows])
    row += count
  return found


def _needed(protocol: Protocol, count: int) -> tuple[str, ...]:
  """Names of the arrays whose rows are all kept."""
  if not protocol.compares:
    return ('probabilities',)
  each = (protocol.feature,) if count <= NEIGHBOURS else ()
  return (*each, 'probabilities', 'shape', 'motion', 'label') if protocol.number == 'toy' else each


def numbers(
  protocol: Protocol, references: list[Gathered], halves: tuple[Gathered, Gathered], fake: list[Gathered]
) -> dict[str, Any]:
  """The metrics of a set.

  Args:
    protocol: selects the metrics.
    references: real clips for each loop; loop i uses element i modulo the length.
    halves: two disjoint sets of real clips. Their distance is the floor. The second also gives the Inception Score and
      accuracy of real clips.
    fake: the set to evaluate, one element per loop.

  Returns:
    'value', the protocol's main metric, and the details that it has of 'frechet', 'memorised', 'inception_score',
    'accuracy' and 'accuracy_real'.

  Raises:
    ValueError: if there are too few rows, or if 'probabilities' are not distributions.
  """
  result: dict[str, Any] = {}
  if protocol.compares:
    distances = [
      frechet.distance(references[i % len(references)].moments, one.moments, ddof=protocol.ddof)
      for i, one in enumerate(fake)
    ]
    result['frechet'] = found = {
      'distance': float(np.mean(distances)),
      'floor': frechet.distance(halves[0].moments, halves[1].moments, ddof=protocol.ddof),
      'floor_clips': [half.moments.count for half in halves],
    }
    if len(distances) > 1:
      found |= {'std': float(np.std(distances)), 'distances': distances}
    reference = references[0]
    warnings = {one.moments.warning() for one in (reference, fake[0], *halves)} - {None}
    found['warning'] = '; '.join(sorted(warnings)) or None
    lists = [one.kept.get(protocol.feature) for one in (reference, fake[0])]
    if all(lists):
      real, made = (np.concatenate(one) for one in lists)
      if min(len(real), len(made)) > 5:
        found |= neighbours.precision_recall(real, made) | neighbours.density_coverage(real, made)
        result['memorised'] = neighbours.memorised(*(half.all(protocol.feature) for half in halves), made)
        # Two windows of one clip can be as close as a copy, and the model has not seen test clips.
        if protocol.windows == 'any' or protocol.split.startswith(('test', 'val')):
          del result['memorised']['nearer']
  if protocol.number != 'frechet':
    scores = [inception_score(one.all('probabilities'), protocol.splits) for one in fake]
    real = inception_score(halves[1].all('probabilities'), protocol.splits)
    result['inception_score'] = {
      'score': float(np.mean([score.mean for score in scores])),
      'std': scores[0].std if len(scores) == 1 else float(np.std([score.mean for score in scores])),
      'real': real.mean,
      'real_std': real.std,
      'real_clips': len(halves[1].all('probabilities')),
    }
  if protocol.number == 'toy':
    result['accuracy'] = accuracy(fake[0])
    result['accuracy_real'] = accuracy(halves[1])
  first = result.get('frechet') or result['inception_score']
  return {'value': next(iter(first.values())), **result}


def accuracy(found: Gathered) -> dict[str, float] | None:
  """Share of moving_shapes clips classified correctly by shape, by motion and by both; None without such labels."""
  label = found.all('label')
  if label.min() < 0 or label.max() >= len(shapes.CLASSES):
    return None
  shape, motion = np.divmod(label, len(shapes.MOTIONS))
  right = found.all('shape').argmax(1) == shape, found.all('motion').argmax(1) == motion
  return {
    'shape': float(right[0].mean()),
    'motion': float(right[1].mean()),
    'both': float((right[0] & right[1]).mean()),
  }
