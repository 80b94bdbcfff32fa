"""Opens a config's data set."""

from typing import Any

import numpy as np

from dvd_gan.runtime.errors import UsageError

TFDS_SOURCES = ('moving_shapes', 'video_folder', 'ucf101', 'kinetics600', 'bair')


def open_source(config: Any, *, build: bool = False) -> Any:
  """The data set of a config; moving_shapes and video_folder are prepared on first use, the others if `build`.

  Returns:
    A source of random access to the clips of one split: `lengths`, frames in each clip, int [N]; `read(plan)`, the windows
    of a `window.Plan` as video uint8 [n, T, H, W, 3] and label int32 [n], from any thread; `in_memory`, whether
    prefetching gains nothing; `labels`, of each clip, int32 [N], -1 for none; `classes`, the names of its classes in their order, () where it has none;
    `describe()`, a line for `--mode=prepare`.

  Raises:
    UsageError: if the data are missing or do not fit the config; the message says what to do.
  """
  name = config.data.name
  if name == 'array_file':
    from dvd_gan.datasets import array_file

    return array_file.ArrayFile(config)
  if name in TFDS_SOURCES:
    from dvd_gan.datasets import catalog

    return catalog.open_records(config, build=build)
  raise UsageError(f'data.name={name} is unknown; there are array_file, {", ".join(TFDS_SOURCES)}')


def network_labels(config: Any, label: np.ndarray) -> np.ndarray:
  """Labels as the networks see them: all 0 without `data.use_labels`."""
  return label if config.data.use_labels else np.zeros_like(label)
