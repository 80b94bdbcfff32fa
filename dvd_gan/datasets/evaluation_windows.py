"""Windows of clips in a fixed order: for evaluation, for prediction's samples and for standing statistics."""

import copy
import itertools
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from dvd_gan.datasets import input_pipeline, sources, window
from dvd_gan.runtime import multihost

WINDOWS = 32  # windows read at once


class Clips(NamedTuple):
  """Input of prediction: clips, or only their context frames, uint8 [N, L, H, W, 3], and the data set's labels."""

  video: np.ndarray
  label: np.ndarray


def context_frames(config: Any) -> Clips | None:
  """Context frames of training windows, one per sample of the standing statistics; None for synthesis."""
  if not config.data.context:
    return None
  count = config.sample.statistics_batches * config.sample.statistics_batch_size
  return Windows(config, config.data.split).first(count, frames=config.data.context)


class Windows:
  """Windows of a split's clips in a fixed order, which does not depend on the batch size.

  No clip is repeated before every clip has occurred once.

  Attributes:
    clips: number of clips.
    clip_labels: label of each clip, int32 [clips]; -1 for none.
    decoder: version of the decoder that made the frames; 1 if not recorded.
  """

  def __init__(self, config: Any, split: str, *, labelled: bool = True, crop: str = ''):
    """Opens the data set.

    Args:
      config: the training config; a copy is modified.
      split: replaces `data.split`.
      labelled: False allows missing labels and labels that the model does not have, whatever `data.use_labels` is.
      crop: replaces `data.crop`, unless empty.

    Raises:
      UsageError: see `sources.open_source`.
    """
    config = copy.deepcopy(config)
    config.data.split, config.data.flip = split, False
    config.data.use_labels &= labelled
    config.data.crop = crop or config.data.crop
    config.data.prefetch = config.train.d_steps = 1
    config.train.batch_size = WINDOWS
    self._config = config
    self._source = multihost.in_turn(lambda: sources.open_source(config))
    self.clips, self.clip_labels = len(self._source.lengths), self._source.labels
    self.decoder = self._source.decoder

  def first(self, count: int, *, frames: int) -> Clips:
    """The first `frames` frames of windows 0 to count - 1."""
    windows = itertools.islice(self.each(0, frames=frames, stop=count), count)
    return Clips(*map(np.stack, zip(*windows, strict=True)))

  def each(self, number: int, *, frames: int, stop: int = sys.maxsize) -> Iterator[tuple[np.ndarray, np.int32]]:
    """Yields (first frames uint8 [frames, H, W, 3], label) of the windows from `number` to at least `stop`."""
    step, skip = divmod(number, WINDOWS)
    steps, rows = range(step, -(-stop // WINDOWS)), np.arange(WINDOWS)
    for batch in input_pipeline.host_batches(self._config, self._source, steps, rows):
      yield from zip(batch['video'][0, skip:, :frames].copy(), batch['label'][0, skip:], strict=True)
      skip = 0

  def labels(self, count: int) -> np.ndarray:
    """Labels of windows 0 to count - 1, int32, without reading them."""
    steps = range(-(-count // WINDOWS))
    plans = [window.plan(self._config, step, np.arange(WINDOWS), self._source.lengths) for step in steps]
    return self.clip_labels[np.concatenate([plan.clip for plan in plans])[:count]]

  def one(self, number: int, *, frames: int) -> tuple[np.ndarray, np.int32]:
    """Reads only window `number`; returns what `each` yields for it."""
    step, row = divmod(number, WINDOWS)
    plan = window.plan(self._config, step, np.array([row]), self._source.lengths)
    video, label = self._source.read(plan)
    return video[0, :frames], label[0]
