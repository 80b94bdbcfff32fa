"""Which window of which clip a batch holds: a pure function of (seed, step). numpy only."""

import functools
from typing import Any, NamedTuple

import numpy as np


class Plan(NamedTuple):
  """The windows of one host batch, [d_steps * B_host] each, D step by D step."""

  clip: np.ndarray  # int, number of the clip
  start: np.ndarray  # int, first frame
  crop: np.ndarray  # f64 [., 2] in [0, 1): where the square lies along height and width
  flip: np.ndarray  # bool


def span(frames: int, stride: int) -> int:
  """Source frames from the first to the last of a window."""
  return (frames - 1) * stride + 1


def plan(config: Any, step: int, rows: np.ndarray, lengths: np.ndarray) -> Plan:
  """The windows of a step.

  Clips come in epochs, each a fresh permutation; sample n of the run is the same whatever the number of hosts.

  Args:
    config: reads seed, data and train.
    step: of the train step.
    rows: the rows of the global batch wanted, int [B_host].
    lengths: frames in each clip, int [N], none shorter than the window.
  """
  data, train = config.data, config.train
  d_step = np.arange(train.d_steps)[:, None]
  samples = ((step * train.d_steps + d_step) * train.batch_size + rows).ravel()
  epochs, places = np.divmod(samples, len(lengths))
  clip = np.array(
    [_order(config.seed, epoch, len(lengths))[place] for epoch, place in zip(epochs, places, strict=True)]
  )
  draws = np.stack([np.random.default_rng((config.seed, 1, sample)).random(4) for sample in samples])
  room = lengths[clip] - span(data.frames, data.stride) + 1
  return Plan(clip, (draws[:, 0] * room).astype(int), draws[:, 1:3], (draws[:, 3] < 0.5) & data.flip)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
  return np.random.default_rng((seed, 0, epoch)).permutation(count)
