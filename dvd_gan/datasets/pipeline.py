"""From a config's data set to global arrays on the devices, ahead of the step."""

import copy
import itertools
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dvd_gan import hosts, sharding
from dvd_gan.errors import UsageError

WINDOWS = 32  # read at once for prediction's statistics and samples
TFDS_SOURCES = ('moving_shapes', 'video_folder', 'ucf101', 'kinetics600', 'bair')


def open_source(config: Any, *, build: bool = False) -> Any:
  """The data set of a config; moving_shapes and video_folder are prepared on first use, the others if `build`.

  Returns:
    An object with `host_batches(first_step, rows)`, `describe()` and a length, its clips.

  Raises:
    UsageError: if the data are not there or do not fit, saying what to do.
  """
  name = config.data.name
  if name == 'array_file':
    from dvd_gan.datasets import array_file

    return array_file.ArrayFile(config)
  if name in TFDS_SOURCES:
    from dvd_gan.datasets import prepare

    return prepare.open_records(config, build=build)
  raise UsageError(f'data.name={name} is unknown; there are array_file, {", ".join(TFDS_SOURCES)}')


class Clips(NamedTuple):
  """What prediction starts from: clips, or their given frames alone, uint8 [N, L, H, W, 3], and the data set's labels."""

  video: np.ndarray
  label: np.ndarray


def given_frames(config: Any) -> Clips | None:
  """The given frames of as many training windows as standing statistics take; None for synthesis."""
  if not config.data.given:
    return None
  count = config.sample.statistics_batches * config.sample.statistics_batch_size
  return Windows(config, config.data.split).first(count, frames=config.data.given)


class Windows:
  """Windows of a split's clips in a fixed order, each clip once before any comes again, whatever the batch size.

  Attributes:
    clips: how many there are.
  """

  def __init__(self, config: Any, split: str):
    """Opens the data set.

    Raises:
      UsageError: see `open_source`.
    """
    config = copy.deepcopy(config)
    config.data.split, config.data.flip = split, False
    config.data.prefetch = config.train.d_steps = 1
    config.train.batch_size = WINDOWS
    self._source = hosts.in_turn(lambda: open_source(config))
    self.clips = len(self._source)

  def first(self, count: int, *, frames: int) -> Clips:
    """The first `frames` frames of windows 0 to count - 1."""
    return Clips(*map(np.stack, zip(*itertools.islice(self.each(0, frames=frames), count), strict=True)))

  def each(self, number: int, *, frames: int) -> Iterator[tuple[np.ndarray, np.int32]]:
    """From window `number` on, without end: its first frames, uint8 [frames, H, W, 3], and its label."""
    step, drop = divmod(number, WINDOWS)
    for rows in (np.arange(drop, WINDOWS), np.arange(WINDOWS)):
      for batch in self._source.host_batches(step, rows):
        yield from zip(batch['video'][0, :, :frames].copy(), batch['label'][0], strict=True)
        if len(rows) < WINDOWS:
          break
      step += 1

  def one(self, number: int, *, frames: int) -> tuple[np.ndarray, np.int32]:
    """Window `number` alone, as in `each`; nothing else is read."""
    step, row = divmod(number, WINDOWS)
    batch = next(self._source.host_batches(step, np.array([row])))
    return batch['video'][0, 0, :frames], batch['label'][0, 0]


def labels_told(config: Any, label: np.ndarray) -> np.ndarray:
  """The labels that the networks are told: 0 for all without `data.use_labels`."""
  return label if config.data.use_labels else np.zeros_like(label)


class Batches:
  """Iterates over global batches from a step on; a thread keeps `data.prefetch` of them ready.

  Attributes:
    waited: seconds that the caller has waited in `next` so far.
  """

  def __init__(self, config: Any, source: Any, mesh: jax.sharding.Mesh, first_step: int):
    self.waited = 0.0
    self._queue: queue.Queue = queue.Queue(maxsize=config.data.prefetch)
    self._closed = threading.Event()
    size = config.train.batch_size
    rows = sharding.host_rows(mesh, size)

    def run():
      try:
        for host_batch in source.host_batches(first_step, rows):
          host_batch['label'] = labels_told(config, host_batch['label'])
          self._put(sharding.to_global(sharding.train_batch(mesh), host_batch, rows, size))
          if self._closed.is_set():
            return
      except Exception as error:
        self._put(error)

    self._thread = threading.Thread(target=run, daemon=True, name='input')
    self._thread.start()

  def _put(self, item: Any) -> None:
    while not self._closed.is_set():
      try:
        return self._queue.put(item, timeout=0.2)
      except queue.Full:
        continue

  def __iter__(self) -> Iterator[dict[str, jax.Array]]:
    return self

  def __next__(self) -> dict[str, jax.Array]:
    start = time.monotonic()
    item = self._queue.get()
    self.waited += time.monotonic() - start
    if isinstance(item, Exception):
      raise item
    return item

  def close(self) -> None:
    """Ends the thread."""
    self._closed.set()
    self._thread.join(timeout=10)
