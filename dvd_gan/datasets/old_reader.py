"""Batches from prepared record files: only the bytes of a window are read, only its frames are decoded."""

import collections
import concurrent.futures
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from dvd_gan import files
from dvd_gan.datasets import index, pictures, window
from dvd_gan.errors import UsageError

WAITS = (0.1, 1.0, 5.0)  # seconds, between attempts to read
MAX_LOST = 5  # clips in a row that cannot be read: then it is the disk


class Records:
  """The clips of one split, as the config's windows.

  Every batch is a pure function of (seed, step): the clips' number and order are those of the index, whatever the number
  of hosts, threads or files.
  """

  def __init__(
    self,
    config: Any,
    folder: epath.Path,
    clips: index.Index,
    paths: list[epath.Path],
    labels: np.ndarray,
    keep: np.ndarray | None = None,
  ):
    """Decides which clips are used.

    Args:
      config: reads data, train and seed.
      folder: of the data set, for messages.
      clips: where they lie.
      paths: of the record files, that `clips.shard` counts.
      labels: int [N], -1 where a clip has none.
      keep: bool [N], the clips that count; all if None.

    Raises:
      UsageError: if no clip is long enough, or labels that are used do not fit `data.num_classes`.
    """
    data = config.data
    self._config, self._folder, self._index = config, folder, clips
    self._files = [_File(path) for path in paths]
    self._labels = labels.astype(np.int32)
    need = window.span(data.frames, data.stride)
    keep = np.ones(len(labels), bool) if keep is None else keep
    short = keep & (clips.frames < need)
    self._clips = np.flatnonzero(keep & ~short if data.short_clips == 'skip' else keep & (clips.frames > 0))
    self._told = f'{short.sum()} shorter than the window of {need}: ' + (
      'skipped' if data.short_clips == 'skip' else 'their last frame is repeated'
    )
    if not len(self._clips):
      raise UsageError(f'{folder}: none of {keep.sum()} clips has the {need} frames of a window')
    labels = labels[self._clips]
    if data.use_labels and labels.min() < 0:
      raise UsageError(f'{folder}: split {data.split} has clips without a label; it cannot be trained on')
    if data.use_labels and labels.max() >= data.num_classes:
      raise UsageError(f'{folder}: labels go up to {labels.max()}, data.num_classes is {data.num_classes}')
    self._told_of: set[tuple[str, int]] = set()  # a damaged clip comes again in each epoch
    self._scratch = _Scratch(data.resolution)

  def describe(self) -> str:
    """One line for `--mode=prepare`."""
    rejects = self._folder / 'rejects.jsonl'
    rejected = len(rejects.read_text().splitlines()) if rejects.exists() else 0
    return (
      f'{self._folder}: {len(self._clips)} clips of split {self._config.data.split} ({self._told}), '
      f'{rejected} files rejected' + (f', see {rejects}' if rejected else '')
    )

  def __len__(self) -> int:
    """Clips."""
    return len(self._clips)

  def host_batches(self, first_step: int, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Endless host batches from `first_step` on: video uint8 [d_steps, B_host, T, H, W, 3], label int32."""
    data, d_steps = self._config.data, self._config.train.d_steps
    count, size = d_steps * len(rows), data.resolution
    shape = (count, data.frames, size, size, 3)
    threads = data.threads or os.cpu_count() or 1
    ahead = max(1, min(data.prefetch, int(data.ram_gib * 2**30 / np.prod(shape, dtype=float))))
    parts = [part for part in np.array_split(np.arange(count), 4 * threads) if len(part)]
    lengths = self._index.frames[self._clips]

    def start(step):
      plan = window.plan(self._config, step, rows, lengths)
      video, label = np.empty(shape, np.uint8), np.empty(count, np.int32)

      def read(part):
        for i in part:
          label[i] = self._read_or_next(video[i], plan.clip[i], plan.start[i], plan.crop[i], plan.flip[i])

      return video, label, [pool.submit(read, part) for part in parts]

    with concurrent.futures.ThreadPoolExecutor(threads, 'decode') as pool:
      pending: collections.deque = collections.deque()
      step = first_step
      try:
        while True:
          while len(pending) < ahead:
            pending.append(start(step))
            step += 1
          video, label, futures = pending.popleft()
          for future in futures:
            future.result()
          yield {'video': video.reshape(d_steps, len(rows), *shape[1:]), 'label': label.reshape(d_steps, len(rows))}
      finally:
        for *_, futures in pending:
          for future in futures:
            future.cancel()

  def encoded(self, step: int, rows: np.ndarray) -> list[list[bytes]]:
    """The encoded frames behind a host batch, for each of its [d_steps * B_host] clips."""
    plan = window.plan(self._config, step, rows, self._index.frames[self._clips])
    clips = zip(self._clips[plan.clip], plan.start, strict=True)
    return [[bytes(frame) for frame in self._fetch(clip, start)[0]] for clip, start in clips]

  def _fetch(self, clip: int, start: int) -> tuple[list[memoryview], np.ndarray]:
    """The encoded frames of a window, by one read, and where each lies in its file; good until this thread's next."""
    data = self._config.data
    # Beyond a short clip's end its last frame is repeated.
    frames = np.minimum(start + data.stride * np.arange(data.frames), self._index.frames[clip] - 1)
    begin, end = self._index.place(clip, frames)
    base = int(begin[0])
    content = _patiently(self._files[self._index.shard[clip]].read, base, int(end[-1]) - base, self._scratch)
    return [content[a:b] for a, b in zip((begin - base).tolist(), (end - base).tolist(), strict=True)], begin

  def _read_or_next(self, out: np.ndarray, number: int, start: int, crop: np.ndarray, flip: bool) -> int:
    """Reads a window into `out` and returns its label; where a clip is lost, the next that is not stands in."""
    for i in range(MAX_LOST):
      clip = self._clips[(number + i) % len(self._clips)]
      frames = self._index.frames[clip]
      start = min(start, max(frames - window.span(self._config.data.frames, self._config.data.stride), 0))
      try:
        self._read(out, clip, start, crop, flip)
        return self._labels[clip]
      except files.errors() as error:
        self._tell_once(('lost', clip), clip, f'{error}; the next clip stands in')
        lost = error
    raise lost

  def _read(self, out: np.ndarray, clip: int, start: int, crop: np.ndarray, flip: bool) -> None:
    """Decodes a window into `out`, uint8 [T, H, W, 3]."""
    size = self._config.data.resolution
    missing = []
    encoded, places = self._fetch(clip, start)
    for t, data in enumerate(encoded):
      try:
        picture = pictures.decode(data, self._scratch.picture)
      except ValueError as error:
        missing.append(t)
        self._tell_once(
          ('frame', clip), clip, f'the frame at byte {places[t]} is damaged ({error}); its neighbour stands in'
        )
        continue
      if min(picture.shape[:2]) != size:
        picture = pictures.resize(picture, size)
      height, width = picture.shape[:2]
      top, left = int(crop[0] * (height - size + 1)), int(crop[1] * (width - size + 1))
      picture = picture[top : top + size, left : left + size]
      if flip:
        for channel in range(3):  # four times as fast as all at once, which copies three bytes at a time
          out[t, ..., channel] = picture[:, ::-1, channel]
      else:
        out[t] = picture
    for t in missing:
      # One bad sector must not end a run of days: the nearest frame stands in.
      good = min(set(range(len(out))) - set(missing), key=lambda other: abs(other - t), default=None)
      if good is None:
        raise OSError(f'no frame of clip {clip} can be decoded')
      out[t] = out[good]

  def _tell_once(self, key: tuple[str, int], clip: int, what: str) -> None:
    if key not in self._told_of:
      self._told_of.add(key)
      print(f'warning: {self._files[self._index.shard[clip]].path}: {what}', file=sys.stderr)


def _patiently(read: Any, *arguments: Any) -> Any:
  """Calls again where a disk or a bucket fails for a moment."""
  for wait in WAITS:
    try:
      return read(*arguments)
    except files.errors():
      time.sleep(wait)
  return read(*arguments)


class _Scratch(threading.local):
  """Memory that each thread uses again and again: fresh pages cost as much as a fifth of the decoding."""

  def __init__(self, size: int):
    self.picture = np.empty(4 * size * size * 3, np.uint8)  # of an aspect ratio up to 4
    self.content = bytearray()


class _File:
  """Reads anywhere in a file, from any thread. No file stays open: a data set may have more than a process may open."""

  def __init__(self, path: epath.Path):
    self.path = path
    self._local = None if files.is_remote(path) else str(path)

  def read(self, offset: int, length: int, scratch: _Scratch) -> memoryview:
    """The bytes there, fewer at the file's end; they last until `scratch` is used again."""
    if self._local is None:
      with self.path.open('rb') as file:
        file.seek(offset)
        return memoryview(file.read(length))
    if len(scratch.content) < length:
      scratch.content = bytearray(length)
    view = memoryview(scratch.content)[:length]
    descriptor = os.open(self._local, os.O_RDONLY | os.O_CLOEXEC)
    try:
      return view[: os.preadv(descriptor, [view], offset)]
    finally:
      os.close(descriptor)
