"""Reads windows from prepared record files: only a window's byte range is read, and only its frames are decoded."""

import contextlib
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm
from etils import epath

from dvd_gan.datasets import buckets, index, jpeg, window
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError

WAITS = (0.1, 1.0, 5.0)  # seconds between attempts to read a local file
MAX_UNREADABLE = 5  # consecutive clips; after that the disk is considered lost
ALIGNMENT = 64  # bytes; TensorFlow's EIGEN_MAX_ALIGN_BYTES


class Records:
  """The clips of one split, in the order of the index; a source as returned by `sources.open_source`.

  Attributes:
    folder: folder of the data set.
    decoder: version of the decoder that made the clips; 1 if not recorded.
    classes: class names, by label; () if there are none.
  """

  in_memory = False

  def __init__(
    self,
    config: Any,
    folder: epath.Path,
    clips: index.Index,
    paths: list[epath.Path],
    labels: np.ndarray,
    keep: np.ndarray | None = None,
    decoder: int = 1,
    classes: tuple[str, ...] = (),
  ):
    """Selects the clips to use.

    Args:
      config: reads data, train and seed.
      folder: folder of the data set, for messages.
      clips: index of the clips.
      paths: the record files, indexed by `clips.shard`.
      labels: int [N], -1 for a clip without a label.
      keep: bool [N], the clips that belong to the split; all if None.
      decoder, classes: see the attributes.

    Raises:
      UsageError: if no clip is long enough, or if `data.use_labels` and a label is missing or too large.
    """
    data = config.data
    self.folder, self.decoder, self.classes = folder, decoder, classes
    self._config, self._index = config, clips
    # Opening a file takes twice as long with epath as with pathlib.
    self._paths = [path if files.is_remote(path) else pathlib.Path(path) for path in paths]
    self._labels = labels.astype(np.int32)
    need = window.span(data.frames, data.stride)
    keep = np.ones(len(labels), bool) if keep is None else keep
    self._frames = clips.frames
    short = keep & (self._frames < need)
    self._clips = np.flatnonzero(keep & ~short if data.short_clips == 'skip' else keep & (self._frames > 0))
    self._short = f'{short.sum()} shorter than the window of {need}: ' + (
      'skipped' if data.short_clips == 'skip' else 'their last frame is repeated'
    )
    if not len(self._clips):
      todo = 'lower data.frames or data.stride, or set data.short_clips=repeat'
      raise UsageError(f'{folder}: none of {keep.sum()} clips has the {need} frames of a window; {todo}')
    labels = labels[self._clips]
    if data.use_labels and labels.min() < 0:
      todo = 'choose another data.split, or set data.use_labels=False'
      raise UsageError(f'{folder}: split {data.split} has clips without a label; {todo}')
    if data.use_labels and labels.max() >= data.num_classes:
      least = labels.max() + 1
      raise UsageError(f'{folder}: data.num_classes={data.num_classes} must be at least {least} for these labels')
    self.lengths, self.labels = self._frames[self._clips], labels.astype(np.int32)
    self._warned: set[tuple[str, int]] = set()  # a damaged clip recurs in every epoch

  def stage(self, folder: str) -> None:
    """If the record files are in a bucket, copies them to a local folder and reads the copies; see `buckets.stage`."""
    if files.is_remote(self.folder):
      self._paths = buckets.stage(self._paths, folder)

  def describe(self) -> str:
    """One line for `--mode=prepare`."""
    rejects = self.folder / 'rejects.jsonl'
    rejected = len(rejects.read_text().splitlines()) if rejects.exists() else 0
    return (
      f'{self.folder}: {len(self._clips)} clips of split {self._config.data.split} ({self._short}), '
      f'{rejected} files rejected' + (f', see {rejects}' if rejected else '')
    )

  def read(self, plan: window.Plan) -> tuple[np.ndarray, np.ndarray]:
    """The windows of a plan: video uint8 [n, T, H, W, 3], label int32 [n].

    A damaged frame is replaced by its nearest readable neighbour, an unreadable clip by the next readable one; each is
    reported once.

    Raises:
      OSError: if `MAX_UNREADABLE` consecutive clips cannot be read, or the bucket does not answer.
    """
    data, size = self._config.data, self._config.data.resolution
    video = _aligned((len(plan.clip), data.frames, size, size, 3))
    label = np.empty(len(plan.clip), np.int32)
    # Room for aspect ratios up to 4. Allocating memory for each image would take a quarter of the decoding time.
    scratch = np.empty(4 * size * size * 3, np.uint8)
    for i, (clip, start, crop, flip) in enumerate(zip(*plan, strict=True)):
      label[i] = self._read_or_next(video[i], clip, start, crop, flip, scratch)
    return video, label

  def encoded(self, plan: window.Plan) -> Iterator[list[memoryview]]:
    """The encoded frames of each window of a plan."""
    return (self._fetch(self._clips[clip], start)[0] for clip, start in zip(plan.clip, plan.start, strict=True))

  def _fetch(self, clip: int, start: int) -> tuple[list[memoryview], np.ndarray]:
    """Reads a window in one request; returns its encoded frames and their byte offsets in the file."""
    data = self._config.data
    # A clip shorter than the window repeats its last frame.
    frames = np.minimum(start + data.stride * np.arange(data.frames), self._frames[clip] - 1)
    begin, end = self._index.place(clip, frames)
    base = int(begin[0])
    content = memoryview(_patiently(self._paths[self._index.shard[clip]], base, int(end[-1]) - base))
    return [content[a:b] for a, b in zip((begin - base).tolist(), (end - base).tolist(), strict=True)], begin

  def _read_or_next(
    self, out: np.ndarray, number: int, start: int, crop: np.ndarray, flip: bool, scratch: np.ndarray
  ) -> int:
    """Reads a window, or a window of the next readable clip, into `out`; returns its label."""
    for i in range(MAX_UNREADABLE):
      clip = self._clips[(number + i) % len(self._clips)]
      start = min(start, max(self._frames[clip] - window.span(self._config.data.frames, self._config.data.stride), 0))
      try:
        self._read(out, clip, start, crop, flip, scratch)
        return self._labels[clip]
      except (ConnectionError, TimeoutError):  # no fault of the clip
        raise
      except files.errors() as error:
        self._warn_once(('clip', clip), clip, f'{error}; the next clip replaces it')
        last = error
    raise last

  def _read(self, out: np.ndarray, clip: int, start: int, crop: np.ndarray, flip: bool, scratch: np.ndarray) -> None:
    """Decodes a window into `out`, uint8 [T, H, W, 3]."""
    size = self._config.data.resolution
    damaged = []
    encoded, places = self._fetch(clip, start)
    for t, data in enumerate(encoded):
      try:
        image = jpeg.decode(data, scratch)
      except ValueError as error:
        damaged.append(t)
        self._warn_once(
          ('frame', clip), clip, f'the frame at byte {places[t]} is damaged ({error}); its neighbour replaces it'
        )
        continue
      if min(image.shape[:2]) != size:
        image = jpeg.resize(image, size)
      height, width = image.shape[:2]
      top, left = int(crop[0] * (height - size + 1)), int(crop[1] * (width - size + 1))
      image = image[top : top + size, left : left + size]
      if flip:
        for channel in range(3):  # four times as fast as copying all channels, three bytes at a time
          out[t, ..., channel] = image[:, ::-1, channel]
      else:
        out[t] = image
    for t in damaged:
      # One bad sector must not end a run that takes days.
      good = min(set(range(len(out))) - set(damaged), key=lambda other: abs(other - t), default=None)
      if good is None:
        raise OSError(f'no frame of clip {clip} can be decoded')
      out[t] = out[good]

  def _warn_once(self, key: tuple[str, int], clip: int, what: str) -> None:
    if key not in self._warned:
      self._warned.add(key)
      tqdm.tqdm.write(f'warning: {self._paths[self._index.shard[clip]]}: {what}', file=sys.stderr)  # above the bar


def _patiently(path: Any, offset: int, length: int) -> bytes:
  """`read_bytes`, repeated after failures of a disk; a bucket's library repeats its requests itself."""
  for wait in () if files.is_remote(path) else WAITS:
    with contextlib.suppress(OSError):
      return read_bytes(path, offset, length)
    time.sleep(wait)
  return read_bytes(path, offset, length)


def read_bytes(path: Any, offset: int, length: int) -> bytes:
  """Reads bytes; fewer at the end of a local file. Files are closed, as there may be more than a process may open."""
  if files.is_remote(path):
    return buckets.read(path, offset, length)
  with path.open('rb') as file:
    file.seek(offset)
    return file.read(length)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
  """An uninitialised uint8 array with the alignment of TensorFlow's tensors; TensorFlow copies unaligned arrays."""
  size = math.prod(shape)
  memory = np.empty(size + ALIGNMENT, np.uint8)
  first = -memory.ctypes.data % ALIGNMENT
  return memory[first : first + size].reshape(shape)
