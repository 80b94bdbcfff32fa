"""Where a config's clips come from: opens its data set."""

from typing import Any, Protocol

import numpy as np

from dvd_gan.datasets import window
from dvd_gan.errors import UsageError

TFDS_SOURCES = ('moving_shapes', 'video_folder', 'ucf101', 'kinetics600', 'bair')


class Source(Protocol):
  """The clips of one split, with random access to windows of them.

  Attributes:
    lengths: frames in each clip, int [N].
    in_memory: whether reading takes no time worth doing ahead.
  """

  lengths: np.ndarray
  in_memory: bool

  def read(self, plan: window.Plan) -> tuple[np.ndarray, np.ndarray]:
    """The windows of a plan: video uint8 [n, T, H, W, 3] and label int32 [n]. Safe from several threads."""
    ...

  def describe(self) -> str:
    """One line for `--mode=prepare`."""
    ...


def open_source(config: Any, *, build: bool = False) -> Source:
  """The data set of a config; moving_shapes and video_folder are prepared on first use, the others if `build`.

  Raises:
    UsageError: if the data are not there or do not fit the config; the message says what to do.
  """
  name = config.data.name
  if name == 'array_file':
    from dvd_gan.datasets import array_file

    return array_file.ArrayFile(config)
  if name in TFDS_SOURCES:
    from dvd_gan.datasets import prepare

    return prepare.open_records(config, build=build)
  raise UsageError(f'data.name={name} is unknown; there are array_file, {", ".join(TFDS_SOURCES)}')


def labels_told(config: Any, label: np.ndarray) -> np.ndarray:
  """The labels that the networks are told: 0 for all without `data.use_labels`."""
  return label if config.data.use_labels else np.zeros_like(label)
