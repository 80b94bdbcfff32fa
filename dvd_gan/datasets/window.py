"""Selects the clips and windows of a batch: a pure function of (seed, step). numpy only."""

import functools
from typing import Any, NamedTuple

import numpy as np


class Plan(NamedTuple):
  """The windows of one host batch, [d_steps * B_host] each, D step by D step."""

  clip: np.ndarray  # int, index of the clip
  start: np.ndarray  # int, index of the first frame
  crop: np.ndarray  # f64 [., 2] in [0, 1): relative position of the square along height and width
  flip: np.ndarray  # bool


def span(frames: int, stride: int) -> int:
  """Number of source frames that a window spans, from its first frame to its last."""
  return (frames - 1) * stride + 1


def plan(config: Any, step: int, rows: np.ndarray, lengths: np.ndarray) -> Plan:
  """The windows of a step.

  Each epoch is a new permutation of the clips. Sample n of the run does not depend on the number of hosts.

  Args:
    config: reads seed, data and train.
    step: number of train steps before this one.
    rows: rows of the global batch to return, int [B_host].
    lengths: frames in each clip, int [N]. The window of a clip that is too short starts at frame 0.
  """
  data, train = config.data, config.train
  d_step = np.arange(train.d_steps)[:, None]
  places = (d_step * train.batch_size + rows).ravel()  # indices among the samples of the step
  epochs, within = np.divmod(step * train.d_steps * train.batch_size + places, len(lengths))
  clip = np.empty(len(places), np.int64)
  for epoch in np.unique(epochs):
    of = epochs == epoch
    clip[of] = _order(config.seed, int(epoch), len(lengths))[within[of]]
  # Drawn for the whole step, then indexed by row, which is cheaper than one generator per sample.
  draws = np.random.default_rng((config.seed, 1, step)).random((train.d_steps * train.batch_size, 4))[places]
  room = np.maximum(lengths[clip] - span(data.frames, data.stride) + 1, 1)
  crop = draws[:, 1:3] if data.crop == 'random' else np.full((len(places), 2), 0.5)
  return Plan(clip, (draws[:, 0] * room).astype(int), crop, (draws[:, 3] < 0.5) & data.flip)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
  return np.random.default_rng((seed, 0, epoch)).permutation(count)
