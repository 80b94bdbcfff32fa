"""Decodes many video files to JPEG frames on disk: in parallel, restartable, never stopped by a bad file.

Each source clip is decoded once, into its own file in a cache; a second run with the same cache decodes only missing
clips. The builders then write their records from the cache.
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

from dvd_gan.datasets import jpeg
from dvd_gan.datasets.prepare import decoding
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError

AHEAD = 4  # clips in progress per worker
MAX_RECORD = 2**31 - 2**24  # bytes: limit of a protobuf message, less room for other features
GRACE = 10.0  # seconds beyond the time limit after which a hanging decoder is killed
DUPLICATE = 'another file of the same clip comes before it'


class Clip(NamedTuple):
  """A source clip."""

  key: str  # key of the example in the data set, unique in its split
  name: str  # for messages: its path below the source, `archive:member` in an archive
  path: str = ''  # of the file; '' for a member of an archive
  content: bytes = b''  # bytes of a member of an archive
  features: dict[str, Any] = {}  # features of the example besides the video
  stamp: str = ''  # changes when the file does
  share: float = 0.0  # share of the total work that is done after this clip
  reject: str = ''  # reason to reject it without decoding, or ''


class Form(NamedTuple):
  """Format of the decoded clips, and limits."""

  short_side: int  # pixels
  fps: float
  min_frames: int  # clips with fewer are rejected
  quality: int  # of the JPEGs
  seconds: float  # wall-clock limit per file; files that take longer are rejected


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
    """Reads the JPEGs; deletes the file and raises UsageError if it is damaged."""
    try:
      with self.file.open('rb') as opened, np.load(opened) as arrays:
        data, ends = arrays['data'].tobytes(), np.cumsum(arrays['sizes']).tolist()
    except Exception as error:
      self.file.unlink(missing_ok=True)
      raise UsageError(f'{self.file} was damaged ({error}) and is gone now: run the same command again') from None
    return [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


class Outcome(NamedTuple):
  """Reason why a clip cannot be used, '' if it can, and whether another attempt would have the same result."""

  reason: str
  lasting: bool = True


def jpegs(source: str | bytes, form: Form, name: str = '') -> list[bytes]:
  """Decodes a video file, or its bytes, to JPEG frames. Raises RejectedError if it cannot be used."""
  frames: list[bytes] = []
  size = 0
  wanted = {field: getattr(form, field) for field in ('short_side', 'fps', 'min_frames', 'seconds')}
  try:
    # One thread, because the other cores decode other files.
    for image, repeats in decoding.pictures(source, threads=1, name=name, **wanted):
      frames += jpeg.encode(image[None], form.quality) * repeats
      size += len(frames[-1]) * repeats
      if size > MAX_RECORD:
        raise decoding.RejectedError(f'too long: {len(frames)} frames fill a record; cut it into pieces')
  except decoding.RejectedError:
    raise
  except files.errors() as error:
    raise decoding.RejectedError(f'cannot be read: {error}', lasting=False) from None
  except Exception as error:  # no error from a single file may end a run that takes days
    raise decoding.RejectedError(f'cannot be decoded: {type(error).__name__} {error}', lasting=False) from None
  return frames


def make_pool(workers: int) -> pebble.ProcessPool:
  """A pool of decoder processes, also a context manager. A process that crashes or hangs is killed and replaced.

  The processes are spawned, not forked, because threads of this process may hold locks.
  """
  return pebble.ProcessPool(workers, context=multiprocessing.get_context('spawn'))


def verdict(done: concurrent.futures.Future) -> Any:
  """The result of a decoding call in the pool; an Outcome if it was rejected, crashed or timed out."""
  try:
    return done.result()
  except concurrent.futures.TimeoutError:
    return Outcome('the decoder hangs', lasting=False)
  except pebble.ProcessExpired as error:
    return Outcome(f'the decoder crashed (exit code {error.exitcode})', lasting=False)
  except decoding.RejectedError as error:
    return Outcome(str(error), error.lasting)


def fill(
  cache: epath.Path, clips: Iterable[Clip], form: Form, *, workers: int = 0, title: str = ''
) -> tuple[list[Accepted], list[Rejected]]:
  """Decodes every clip that `cache` does not hold yet, and stores it there.

  Args:
    cache: folder for decoded clips of this form only.
    clips: clips in a fixed order; of clips with the same key, the first usable one is taken.
    form: format of the decoded clips.
    workers: number of processes; one per core if 0.
    title: title of the progress bar.

  Returns:
    (accepted, rejected), both in the order of `clips`.

  Raises:
    UsageError, RunError: if the cache cannot be written.
  """
  workers = workers or os.cpu_count() or 1
  job = _Job(cache, form, workers, title)
  with make_pool(workers) as pool:
    try:
      owners: dict[str, int] = {}  # key -> number of the clip that has it
      count = 0
      for number, clip in enumerate(clips):
        count += 1
        if not clip.reject and clip.key in owners:
          owner = owners[clip.key]
          while owner not in job.outcomes:
            job.settle(wait=True)
          if isinstance(job.outcomes[owner], Accepted):
            clip = clip._replace(reject=DUPLICATE)
        if not clip.reject:
          owners[clip.key] = number
        job.start(pool, number, clip)
      while len(job.outcomes) < count:
        job.settle(wait=True)
    except BaseException:
      pool.stop()
      raise
  job.bar.close()
  ordered = [job.outcomes[number] for number in range(count)]
  if job.reused:
    print(f'{job.reused} of {count} clips were decoded by an earlier run')
  return (
    [outcome for outcome in ordered if isinstance(outcome, Accepted)],
    [outcome for outcome in ordered if isinstance(outcome, Rejected)],
  )


class _Job:
  """State of one call of `fill`: clips in the cache, clips in progress, outcomes."""

  def __init__(self, cache: epath.Path, form: Form, workers: int, title: str):
    self.outcomes: dict[int, Accepted | Rejected] = {}
    self.reused = 0
    self._start, self._rejects = time.monotonic(), 0
    self.bar = tqdm.tqdm(
      total=1.0,
      desc=title,
      mininterval=0.5 if os.isatty(2) else 30.0,  # seconds; in a log each update is a line
      bar_format='{desc}: {percentage:3.0f}% {postfix} [{elapsed}, {remaining} left]',
    )
    self._cache, self._form = cache, form
    self._there = _listing(cache)
    self._slots = threading.Semaphore(AHEAD * workers)
    self._finished: queue.SimpleQueue = queue.SimpleQueue()

  def start(self, pool: pebble.ProcessPool, number: int, clip: Clip) -> None:
    """Schedules a clip for decoding, unless it is rejected or cached; blocks while too many are in progress."""
    file, refusal = self._places(clip)
    source = clip.content or clip.path
    clip = clip._replace(content=b'')
    if clip.reject:
      self._settled(number, clip, Outcome(clip.reject, lasting=False))
    elif file.name in self._there or refusal.name in self._there:
      self.reused += 1
      reason = '' if file.name in self._there else refusal.read_text()
      self._settled(number, clip, Outcome(reason, lasting=False))
    else:
      self._slots.acquire()
      limit = self._form.seconds + GRACE
      future = pool.schedule(_store, args=(source, str(file), self._form, clip.name), timeout=limit)
      future.add_done_callback(functools.partial(self._report, number, clip))
    self.settle()

  def _report(self, number: int, clip: Clip, done: concurrent.futures.Future) -> None:
    self._finished.put((number, clip, done))
    self._slots.release()

  def settle(self, wait: bool = False) -> None:
    """Records the outcomes of finished clips; waits for at least one if `wait`."""
    while wait or not self._finished.empty():
      number, clip, done = self._finished.get()
      wait = False
      try:
        outcome = verdict(done)
      except files.errors() as error:
        raise files.failure(error, 'cannot write decoded clips') from None
      self._settled(number, clip, outcome)

  def _settled(self, number: int, clip: Clip, outcome: Outcome) -> None:
    file, refusal = self._places(clip)
    if outcome.reason:
      if outcome.lasting:  # other failures are retried by the next run
        files.write(refusal, outcome.reason.encode())
      self.outcomes[number] = Rejected(clip.key, clip.name, outcome.reason)
    else:
      self.outcomes[number] = Accepted(clip.key, clip.features, file)
    self._rejects += bool(outcome.reason)
    rate = len(self.outcomes) / max(time.monotonic() - self._start, 1e-9)
    counts = f'{len(self.outcomes)} files, {rate:.1f} a second, {self._rejects} rejected'
    self.bar.set_postfix_str(counts, refresh=False)
    self.bar.update(max(clip.share - self.bar.n, 0.0))

  def _places(self, clip: Clip) -> tuple[epath.Path, epath.Path]:
    """The cache files for a clip's frames and for the reason to reject it."""
    digest = hashlib.sha256(json.dumps([clip.key, clip.name, clip.stamp]).encode()).hexdigest()[:32]
    folder = self._cache / digest[:2]
    return folder / f'{digest}.npz', folder / f'{digest}.reject'


def _listing(cache: epath.Path) -> set[str]:
  """Names of the files in a cache, without empty local files, which a power failure may leave."""
  if not cache.exists():
    return set()
  if files.is_remote(cache):
    return {path.rpartition('/')[2] for path in files.walk(cache)}
  return {entry.name for folder in os.scandir(cache) for entry in os.scandir(folder.path) if entry.stat().st_size}


def _store(source: str | bytes, file: str, form: Form, name: str) -> Outcome:
  """Decodes one clip into a cache file; runs in a worker process."""
  try:
    frames = jpegs(source, form, name)
  except decoding.RejectedError as error:
    return Outcome(str(error), error.lasting)
  buffer = io.BytesIO()
  sizes = np.array([len(frame) for frame in frames], np.int64)
  np.savez(buffer, sizes=sizes, data=np.frombuffer(b''.join(frames), np.uint8))
  files.write(epath.Path(file), buffer.getvalue())
  return Outcome('')
