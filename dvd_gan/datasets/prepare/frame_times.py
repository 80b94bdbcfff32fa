"""When frames are shown: from the times that a container keeps to the instants of a fixed rate."""

import collections
import heapq
import math
from collections.abc import Iterable, Iterator
from typing import Any

DISORDER = 4  # frames by which times may be out of order
MILLISECOND = 1e-3  # seconds
MAX_STILL = 30.0  # seconds that one frame may be shown: more is a broken clock


class Clock:
  """The times of a stream's frames, in seconds after its first frame.

  MKV, WebM, FLV and WMV round times to milliseconds, and files made from them keep those. A time that the constant rate's
  would be rounded to is taken for that, so that a stream gives the same frames in every container. A frame whose time is
  missing, or not later than that of the frame before, follows it by one frame's length: in raw streams, and in joined
  MPEG files, whose times begin again.

  Attributes:
    tolerance: seconds by which a frame may come too late.
  """

  def __init__(self, tick: float, rate: float, begin: float | None = None):
    """Starts before the first frame, or before any other.

    Args:
      tick: of the container's clock, seconds.
      rate: frames a second, by the file's header or FFmpeg's guess.
      begin: the first frame's time as it is stored, where the next frame is not the first.
    """
    self._begin, self._now, self._length = begin, -math.inf, 1 / rate
    self._gap = self._length
    # GIF rounds to hundredths; AVI counts frames and does not round.
    self.tolerance = tick / 2 if MILLISECOND < tick < self._length / 2 else MILLISECOND / 2

  def time(self, stored: float | None) -> float:
    """When the next frame is shown; `stored` is the time that the container keeps, None where it keeps none."""
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
    """When the frame before is no longer shown; `duration` is how long the container says it is, 0 for unknown.

    At least a frame's length: AVI may count fields.
    """
    return self._now + (max(self._unrounded(duration), self._length) if duration else self._gap)

  def _unrounded(self, time: float) -> float:
    nearest = round(time / self._length) * self._length
    rounding = MILLISECOND if self._begin else MILLISECOND / 2  # the first frame's time may be rounded, too
    return nearest if abs(time - nearest) < 1.001 * rounding else time


def shown(frames: Iterable[Any], clock: Clock, fps: float) -> Iterator[tuple[Any, int, int]]:
  """Which frame is shown at each instant of a fixed rate: the last one whose time has come.

  Args:
    frames: in the order in which they are shown, each with `time`, `duration` and `time_base`.
    clock: mends their times.
    fps: instant i is i / fps seconds after the first frame.

  Yields:
    (frame, i, j): `frame` is shown at the instants i to j - 1. Frames that are shown at none are left out.

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
  """The frames with their times in order: AVI keeps in which order frames are decoded, not shown."""
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
  """The instants `first` to `first + count - 1` of what `shown` yields.

  Yields:
    (frame, repeats). No further frame is asked for once there are enough.
  """
  for frame, begin, stop in found:
    repeats = min(stop, first + count) - max(begin, first)
    if repeats > 0:
      yield frame, int(repeats)
    if stop >= first + count:
      return
