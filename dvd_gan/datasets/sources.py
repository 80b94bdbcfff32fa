"""Opens a config's data set."""

from typing import Any

import numpy as np

from dvd_gan.runtime.errors import UsageError

TFDS_SOURCES = ('moving_shapes', 'video_folder', 'ucf101', 'kinetics600', 'bair')


def open_source(config: Any, *, build: bool = False) -> Any:
  """Opens the data set of a config. moving_shapes and video_folder are prepared on first use, other sets if `build`.

  Returns:
    A source, for random access to the clips of one split:
    `read(plan)`: the windows of a `window.Plan` as video uint8 [n, T, H, W, 3] and label int32 [n]; thread-safe;
    `lengths`, `labels`: number of frames of each clip, int [N], and its label, int32 [N], -1 for none;
    `classes`: class names, by label; () if there are none;
    `decoder`: version of the decoder that made the clips;
    `in_memory`: True if the clips are in memory and prefetching gains nothing;
    `describe()`: a line for `--mode=prepare`.
    Those of record files also have `stage(folder)` and `encoded(plan)`, see `record_files.Records`.

  Raises:
    UsageError: if the data are missing or do not fit the config; the message explains what to do.
  """
  name = config.data.name
  if name == 'array_file':
    from dvd_gan.datasets import array_file

    return array_file.ArrayFile(config)
  if name in TFDS_SOURCES:
    from dvd_gan.datasets import catalog

    return catalog.open_records(config, build=build)
  raise UsageError(f'data.name={name} is unknown; choose from array_file, {", ".join(TFDS_SOURCES)}')


def network_labels(config: Any, label: np.ndarray) -> np.ndarray:
  """Labels as input of the networks: all 0 without `data.use_labels`."""
  return label if config.data.use_labels else np.zeros_like(label)
