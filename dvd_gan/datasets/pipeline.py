"""From a config's data set to global arrays on the devices, ahead of the step."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from dvd_gan import sharding
from dvd_gan.errors import UsageError

TFDS_SOURCES = ('moving_shapes', 'video_folder', 'ucf101', 'kinetics600', 'bair')


def open_source(config: Any, *, build: bool = False) -> Any:
  """The data set of a config; moving_shapes and video_folder are prepared on first use, the others if `build`.

  Returns:
    An object with `host_batches(first_step, rows)` and `describe()`.

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


def given_frames(config: Any, source: Any) -> np.ndarray:
  """The first `data.given` frames of as many training windows as standing statistics take, uint8 [N, C, H, W, 3]."""
  size, given, sample = config.data.resolution, config.data.given, config.sample
  if not given:
    return np.zeros((1, 0, size, size, 3), np.uint8)
  found: list[np.ndarray] = []
  for batch in source.host_batches(0, np.arange(config.train.batch_size)):
    found += list(batch['video'][:, :, :given].reshape(-1, given, size, size, 3))
    if len(found) >= sample.statistics_batches * sample.statistics_batch_size:
      return np.stack(found[: sample.statistics_batches * sample.statistics_batch_size])
  raise AssertionError('host_batches has no end')


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
          if not config.data.use_labels:
            host_batch['label'] = np.zeros_like(host_batch['label'])
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
