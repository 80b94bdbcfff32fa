"""Resamples frames from the times stored in a container to the instants of a fixed rate."""

import collections
import heapq
import math
from collections.abc import Iterable, Iterator
from typing import Any

DISORDER = 4  # number of frames by which times may be out of order
MILLISECOND = 1e-3  # seconds
MAX_STILL = 30.0  # seconds that one frame may be shown; more means wrong times


class Clock:
  """Converts the stored times of a stream's frames to display times, in seconds after its first frame.

  MKV, WebM, FLV and WMV round times to milliseconds, and files converted from them keep the rounded times. A time
  within the rounding error of a multiple of the frame length is set to that multiple, so that a stream gives the same
  frames in every container. A frame whose time is missing (raw streams), or not later than the previous one (joined
  MPEG files, whose times restart), is shown one frame length after the previous frame.

  Attributes:
    tolerance: seconds by which a time may be too late.
  """

  def __init__(self, tick: float, rate: float, begin: float | None = None):
    """Starts before the first frame, or before a later frame if `begin` is set.

    Args:
      tick: resolution of the container's clock, in seconds.
      rate: frames per second, from the file's header or guessed by FFmpeg.
      begin: stored time of the first frame, if the next frame is not the first.
    """
    self._begin, self._now, self._length = begin, -math.inf, 1 / rate
    self._gap = self._length
    # GIF rounds to hundredths; AVI counts frames and does not round.
    self.tolerance = tick / 2 if MILLISECOND < tick < self._length / 2 else MILLISECOND / 2

  def time(self, stored: float | None) -> float:
    """Display time of the next frame; `stored` is its time in the container, None if missing."""
    if self._begin is None:
      self._begin = stored or 0.0
    time = -math.inf if stored is None else self._unrounded(stored - self._begin)
    if time <= self._now:
      time = self._now + self._length
    if self._now >= 0:
      self._gap = time - self._now
    self._now = max(time, 0.0)
    return self._now

  def end(self, duration: float) -> float:
    """Time at which the last frame ends; `duration` is its stored duration in seconds, 0 if unknown.

    A stored duration counts as at least one frame length, because AVI may count fields.
    """
    return self._now + (max(self._unrounded(duration), self._length) if duration else self._gap)

  def _unrounded(self, time: float) -> float:
    nearest = round(time / self._length) * self._length
    rounding = MILLISECOND if self._begin else MILLISECOND / 2  # the first frame's time may be rounded, too
    return nearest if abs(time - nearest) < 1.001 * rounding else time


def shown(frames: Iterable[Any], clock: Clock, fps: float) -> Iterator[tuple[Any, int, int]]:
  """Yields the frame shown at each instant of a fixed rate: the last one that starts no later.

  Args:
    frames: frames in display order, each with `time`, `duration` and `time_base`.
    clock: converts their times.
    fps: instant i is i / fps seconds after the first frame.

  Yields:
    (frame, i, j): `frame` is shown at the instants i to j - 1. Frames that are shown at no instant are left out.

  Raises:
    ValueError: if one frame is shown for more than MAX_STILL seconds.
  """

  def instant(time):
    return max(math.ceil((time - clock.tolerance) * fps - 1e-6), 0)

  last, begin = None, 0
  for frame, stored in _sorted(frames):
    stop = instant(clock.time(stored))
    if last is not None and stop > begin:
      yield last, begin, _not_too_long(begin, stop, fps)
    last, begin = frame, stop
  if last is not None:
    duration = float(last.duration * last.time_base) if last.duration else 0.0
    stop = instant(clock.end(duration))
    if stop > begin:
      yield last, begin, _not_too_long(begin, stop, fps)


def _sorted(frames: Iterable[Any]) -> Iterator[tuple[Any, float | None]]:
  """Yields the frames with their times in ascending order, because AVI stores times in decoding order."""
  waiting, times = collections.deque(), []

  def first():
    time = heapq.heappop(times)
    return waiting.popleft(), None if time < 0 and math.isinf(time) else time

  for frame in frames:
    waiting.append(frame)
    heapq.heappush(times, -math.inf if frame.time is None else frame.time)
    if len(waiting) > DISORDER:
      yield first()
  while waiting:
    yield first()


def _not_too_long(begin: int, stop: int, fps: float) -> int:
  if stop - begin > MAX_STILL * fps:
    raise ValueError(f'a gap in time: one frame is shown for {(stop - begin) / fps:.0f} s')
  return stop


def part(found: Iterable[tuple[Any, int, int]], first: int, count: float) -> Iterator[tuple[Any, int]]:
  """Selects the instants `first` to `first + count - 1` from the items of `shown`.

  Yields:
    (frame, repeats). No further frame is requested after the last of these instants.
  """
  for frame, begin, stop in found:
    repeats = min(stop, first + count) - max(begin, first)
    if repeats > 0:
      yield frame, int(repeats)
    if stop >= first + count:
      return
