"""Clips from an .npz file, held in memory. No TensorFlow.

The file has arrays `video` uint8 [N, T, H, W, 3], `label` int [N] and optionally `classes`, the class names. As with
every other source, the short side of larger clips is resized to `data.resolution`; the square crop is taken when a
window is read.
"""

import zipfile
import zlib
from typing import Any

import numpy as np
from etils import epath

from dvd_gan.datasets import jpeg, window
from dvd_gan.datasets.classes import count_classes
from dvd_gan.runtime.errors import UsageError

MAX_CLASSES = 100_000  # larger labels are identifiers


class ArrayFile:
  """The clips of `data.source`; a source as returned by `sources.open_source`."""

  in_memory = True
  decoder = 1  # 2 if the clips are resized, which version 1 did not do

  def __init__(self, config: Any):
    """Loads and checks the file.

    Raises:
      UsageError: if the file is missing, not such an .npz, or does not fit the config.
    """
    path = config.data.source
    if not path:
      raise UsageError('data.name=array_file needs data.source=FILE.npz, with arrays `video` and `label`')
    try:
      with epath.Path(path).expanduser().open('rb') as file, np.load(file) as arrays:
        self.video, self.label = arrays['video'], arrays['label']
        names = arrays['classes'].tolist() if 'classes' in arrays else []
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
      raise UsageError(f'{path} is not a readable .npz file with arrays `video` and `label`: {error}') from None
    if self.video.dtype != np.uint8 or self.video.ndim != 5 or self.video.shape[-1] != 3:
      raise UsageError(f'{path}: `video` is {self.video.dtype} {list(self.video.shape)}, not uint8 [N, T, H, W, 3]')
    if self.label.shape != self.video.shape[:1] or not np.issubdtype(self.label.dtype, np.integer):
      raise UsageError(f'{path}: `label` is {self.label.dtype} {list(self.label.shape)}, not integers [N]')
    if not len(self.label):
      raise UsageError(f'{path} has no clips')
    count = int(self.label.max()) + 1 if config.data.use_labels else 0
    if count > MAX_CLASSES:
      raise UsageError(f'{path}: label {count - 1} is too large; number the classes from 0')
    self.classes = tuple(map(str, names if len(names) >= count else range(count)))
    count_classes(config, self.classes)
    if config.data.use_labels and not 0 <= self.label.min() <= self.label.max() < config.data.num_classes:
      raise UsageError(f'{path}: labels must be from 0 to data.num_classes - 1 = {config.data.num_classes - 1}')
    _, frames, height, width, _ = self.video.shape
    need = window.span(config.data.frames, config.data.stride)
    if config.data.short_clips == 'repeat':
      need = 1
    if frames < need or min(height, width) < config.data.resolution:
      raise UsageError(
        f'{path}: clips have {frames} frames of {height}x{width}, but the config needs {need} of at least '
        f'{config.data.resolution}x{config.data.resolution}'
      )
    if min(height, width) > config.data.resolution:
      small = [[jpeg.resize(frame, config.data.resolution) for frame in clip] for clip in self.video]
      self.video, self.decoder = np.array(small, np.uint8), 2
    self._config = config
    self.lengths, self.labels = np.full(len(self.label), frames), self.label.astype(np.int32)

  def describe(self) -> str:
    """One line for `--mode=prepare`."""
    return f'{self._config.data.source}: {len(self.label)} clips {list(self.video.shape[1:])}, nothing to prepare'

  def read(self, plan: window.Plan) -> tuple[np.ndarray, np.ndarray]:
    """The windows of a plan: video uint8 [n, T, H, W, 3], label int32 [n]."""
    clips = [self._cut(*choice) for choice in zip(plan.clip, plan.start, plan.crop, plan.flip, strict=True)]
    return np.stack(clips), self.label[plan.clip].astype(np.int32)

  def _cut(self, clip: int, start: int, crop: np.ndarray, flip: bool) -> np.ndarray:
    data = self._config.data
    # A clip shorter than the window repeats its last frame.
    video = self.video[clip, np.minimum(start + data.stride * np.arange(data.frames), self.video.shape[1] - 1)]
    top, left = (crop * (np.array(video.shape[1:3]) - data.resolution + 1)).astype(int)
    video = video[:, top : top + data.resolution, left : left + data.resolution]
    return video[:, :, ::-1] if flip else video
