"""Many video files -> JPEG frames on disk: in parallel, restartable, never stopped by a file.

Each source clip is decoded once, into a file of its own in a cache; a second run over the same cache decodes only what
is missing. The builders then write their records from the cache.
"""

import concurrent.futures
import functools
import hashlib
import io
import json
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pebble
import tqdm
from etils import epath

from dvd_gan.datasets import decoding, pictures
from dvd_gan.errors import UsageError

AHEAD = 4  # clips waiting for each worker
DUPLICATE = 'another file of the same clip comes before it'
GRACE = 10.0  # seconds after which a decoder that does not look at the clock is killed


class Clip(NamedTuple):
  """A clip where the user has it."""

  key: str  # of the example in the data set, unique in its split
  name: str  # for people: its path below the source, `tar:member` in an archive
  path: str = ''  # of the file, or
  content: bytes = b''  # its bytes, from an archive
  features: dict[str, Any] = {}  # of the example, beside the video
  stamp: str = ''  # changes when the file does
  share: float = 0.0  # of the whole work that is done when this clip is
  reject: str = ''  # a reason not even to look at it


class Form(NamedTuple):
  """What a clip becomes."""

  short_side: int  # pixels
  fps: float
  min_frames: int  # fewer is a rejection
  quality: int  # of the JPEGs
  seconds: float  # of wall clock that a file may take; what takes longer is rejected


class Rejected(NamedTuple):
  """A clip that cannot be used, and why."""

  clip: str
  file: str
  reason: str


class Accepted(NamedTuple):
  """A clip in the cache."""

  key: str
  features: dict[str, Any]
  file: epath.Path

  def frames(self) -> list[bytes]:
    """The JPEGs; UsageError where the cache has been damaged since."""
    try:
      with self.file.open('rb') as opened, np.load(opened) as arrays:
        data, ends = arrays['data'].tobytes(), np.cumsum(arrays['sizes']).tolist()
    except Exception as error:
      self.file.unlink(missing_ok=True)
      raise UsageError(f'{self.file} was damaged ({error}) and is gone now: run the same command again') from None
    return [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def jpegs(source: str | bytes, form: Form) -> list[bytes]:
  """The frames of a video file or of its bytes; RejectedError for whatever reason it cannot be used."""
  try:
    clip = decoding.decode(
      source,
      short_side=form.short_side,
      fps=form.fps,
      min_frames=form.min_frames,
      seconds=form.seconds,
      threads=1,  # the other cores have files of their own
    )
  except decoding.RejectedError:
    raise
  except Exception as error:  # a file must not end a run of days, whatever it does to the decoder
    raise decoding.RejectedError(f'cannot be decoded: {type(error).__name__} {error}') from None
  return pictures.encode(clip, form.quality)


def fill(
  cache: epath.Path, clips: Iterable[Clip], form: Form, *, workers: int = 0, title: str = ''
) -> tuple[list[Accepted], list[Rejected]]:
  """Decodes every clip into `cache` that is not there yet.

  Args:
    cache: folder, of this form alone.
    clips: in a fixed order; where two have one key the first counts.
    form: what they become.
    workers: processes; one per core if 0.
    title: of the progress line.

  Returns:
    (accepted, rejected), both in the order of `clips`.

  Raises:
    UsageError: if the cache cannot be written.
  """
  workers = workers or os.cpu_count() or 1
  limit = form.seconds + GRACE
  outcomes: dict[int, Accepted | Rejected] = {}
  keys: set[str] = set()
  reused = 0
  bar = _Progress(title)
  slots = threading.Semaphore(AHEAD * workers)
  finished: queue.SimpleQueue = queue.SimpleQueue()
  # Processes, because a decoder may crash or hang: pebble ends such a one and goes on. Spawned, because threads of
  # this process may hold locks.
  context = multiprocessing.get_context('spawn')
  with pebble.ProcessPool(workers, context=context) as pool:
    try:
      count = 0
      for number, clip in enumerate(clips):
        count += 1
        if clip.key in keys:
          clip = clip._replace(reject=DUPLICATE)
        if clip.reject:
          finished.put((number, clip, clip.reject))
          _settle(finished, outcomes, bar, cache)
          continue
        keys.add(clip.key)
        file, refusal = _places(cache, clip)
        if file.exists() or refusal.exists():
          reused += 1
          finished.put((number, clip._replace(content=b''), '' if file.exists() else refusal.read_text()))
        else:
          slots.acquire()
          future = pool.schedule(_store, args=(clip.content or clip.path, str(file), form), timeout=limit)
          future.add_done_callback(functools.partial(_report, finished, slots, number, clip._replace(content=b'')))
        _settle(finished, outcomes, bar, cache)
      while len(outcomes) < count:
        _settle(finished, outcomes, bar, cache, wait=True)
    except BaseException:
      pool.stop()
      raise
  bar.close()
  ordered = [outcomes[number] for number in range(count)]
  if reused:
    print(f'{reused} of {count} clips were decoded by an earlier run')
  return (
    [outcome for outcome in ordered if isinstance(outcome, Accepted)],
    [outcome for outcome in ordered if isinstance(outcome, Rejected)],
  )


def _report(
  finished: queue.SimpleQueue, slots: threading.Semaphore, number: int, clip: Clip, done: concurrent.futures.Future
) -> None:
  """Called by the pool when a clip is done."""
  finished.put((number, clip, done))
  slots.release()


def _settle(
  finished: queue.SimpleQueue,
  outcomes: dict[int, Accepted | Rejected],
  bar: '_Progress',
  cache: epath.Path,
  wait: bool = False,
) -> None:
  """Takes in what has been finished so far; at least one if `wait`."""
  while wait or not finished.empty():
    number, clip, result = finished.get()
    wait = False
    file, refusal = _places(cache, clip)
    reason = result if isinstance(result, str) else _reason(result)
    if reason:
      if not isinstance(result, str):
        _write(refusal, reason.encode())
      outcomes[number] = Rejected(clip.key, clip.name, reason)
    else:
      outcomes[number] = Accepted(clip.key, clip.features, file)
    bar.show(clip.share, bool(reason))


def _reason(done: concurrent.futures.Future) -> str:
  try:
    return done.result()
  except concurrent.futures.TimeoutError:
    return 'the decoder hangs'
  except pebble.ProcessExpired as error:
    return f'the decoder crashed (exit code {error.exitcode})'
  except OSError as error:
    raise UsageError(f'cannot write decoded clips: {error}') from None


def _store(source: str | bytes, file: str, form: Form) -> str:
  """In a worker: decodes one clip into a cache file; returns the reason why not, or ''."""
  try:
    if isinstance(source, str) and '://' in source:
      source = epath.Path(source).read_bytes()
    frames = jpegs(source, form)
  except decoding.RejectedError as error:
    return str(error)
  except OSError as error:
    return f'cannot be read: {error}'
  buffer = io.BytesIO()
  sizes = np.array([len(frame) for frame in frames], np.int64)
  np.savez(buffer, sizes=sizes, data=np.frombuffer(b''.join(frames), np.uint8))
  _write(epath.Path(file), buffer.getvalue())
  return ''


def _write(file: epath.Path, content: bytes) -> None:
  """All or nothing, also where the process is killed."""
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.parent / f'{file.name}.{os.getpid()}'
    partial.write_bytes(content)
    partial.replace(file)
  except OSError as error:
    raise OSError(f'{file}: {error.strerror or error}') from None


def _places(cache: epath.Path, clip: Clip) -> tuple[epath.Path, epath.Path]:
  """Where the frames, or the reason against them, are kept."""
  digest = hashlib.sha256(json.dumps([clip.key, clip.name, clip.stamp]).encode()).hexdigest()[:32]
  folder = cache / digest[:2]
  return folder / f'{digest}.npz', folder / f'{digest}.reject'


class _Progress:
  """A line with the share done, the rate, the time left and the rejects."""

  def __init__(self, title: str):
    self._rejects = 0
    tty = os.isatty(2)
    # In a log every line stays: one in half a minute is enough.
    self._bar = tqdm.tqdm(
      total=1.0,
      desc=title,
      mininterval=0.5 if tty else 30.0,
      bar_format='{desc}: {percentage:3.0f}% {postfix} [{elapsed}, {remaining} left]',
    )
    self._files = 0
    self._start = time.monotonic()

  def show(self, share: float, rejected: bool) -> None:
    """One more clip is settled."""
    self._files += 1
    self._rejects += rejected
    rate = self._files / max(time.monotonic() - self._start, 1e-9)
    self._bar.set_postfix_str(f'{self._files} files, {rate:.1f} a second, {self._rejects} rejected', refresh=False)
    self._bar.update(max(share - self._bar.n, 0.0))

  def close(self) -> None:
    """Ends the line."""
    self._bar.close()
