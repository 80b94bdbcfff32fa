"""A video file of any kind -> frames at a fixed rate and size, or a reason why not. PyAV."""

import io
import math
import os
import time as clock
from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_STILL = 30.0  # seconds that one frame may be shown: more is a broken clock
COMPLETE = 0.95  # share of the announced frames that must come out: less is a truncated file


class RejectedError(Exception):
  """The file cannot be used; the message is the reason."""


def decode(
  source: str | os.PathLike | bytes,
  *,
  short_side: int,
  fps: float,
  min_frames: int = 1,
  seconds: float = math.inf,
  threads: int = 0,
) -> np.ndarray:
  """Decodes a video at a fixed rate, upright, its short side resized bilinearly.

  Args:
    source: path of a local file, or a file's bytes.
    short_side: pixels; the other side follows the aspect ratio.
    fps: frames a second of the result: at each instant the last frame shown by then.
    min_frames: fewer than these, after resampling, is a rejection.
    seconds: of wall clock; taking longer is a rejection. Looked at between frames.
    threads: of the decoder; 0 for one per core.

  Returns:
    uint8 [T, H, W, 3] RGB.

  Raises:
    RejectedError: if the file is not a video, is truncated or is too short.
  """
  import av

  deadline = clock.monotonic() + seconds
  size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
  if not size:
    raise RejectedError('empty file')
  packets = decoded = hidden = 0
  try:
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)) as container:
      if not container.streams.video:
        raise RejectedError('no video stream')
      stream = container.streams.video[0]
      stream.thread_type = 'AUTO'
      stream.thread_count = threads
      rate = float(stream.average_rate or stream.guessed_rate or fps)
      pictures, repeats = [], []
      shown = None
      for packet, frame in _frames(container, stream):
        packets += packet is not None
        hidden += packet is not None and packet.is_discard
        if clock.monotonic() > deadline:
          raise RejectedError(f'takes longer than {seconds:g} s')
        if frame is None:
          continue
        time = frame.time if frame.time is not None else decoded / rate
        decoded += 1
        if shown is None:
          begin = time
        else:
          _show(pictures, repeats, shown, _tick(time - begin, fps), short_side, MAX_STILL * fps)
        shown = frame
      if shown is None:
        raise RejectedError('no frames')
      # The last frame stays for as long as it says, or as one does at this rate.
      last = float(shown.duration * shown.time_base) if shown.duration else 1 / rate
      _show(pictures, repeats, shown, _tick(time - begin + last, fps), short_side, MAX_STILL * fps)
      clip = np.repeat(np.stack(pictures), repeats, axis=0) if pictures else np.empty(0)
      announced = stream.frames
  except (av.FFmpegError, OSError, ValueError) as error:
    how = f'damaged after {decoded} frames' if decoded else 'cannot be decoded'
    raise RejectedError(f'{how}: {" ".join((getattr(error, "strerror", None) or str(error)).split())}') from None
  # An edit list hides frames that the file announces: its packets are there all the same.
  if packets < COMPLETE * announced or decoded < COMPLETE * (packets - hidden):
    raise RejectedError(f'truncated: {min(packets, decoded)} of {announced or packets} frames')
  if len(clip) < min_frames:
    raise RejectedError(f'too short: {len(clip)} frames at {fps:g} fps, {min_frames} needed')
  return clip


def _frames(container: Any, stream: Any) -> Iterator[tuple[Any, Any]]:
  """(packet, None) for every packet of the file, and (None, frame) for every frame that comes out."""
  for packet in container.demux(stream):
    if packet.size:  # the last, empty one flushes the decoder
      yield packet, None
    for frame in packet.decode():
      yield None, frame


def _tick(seconds: float, fps: float) -> int:
  """How many instants of the fixed rate lie before that time."""
  return max(int(np.ceil(seconds * fps - 1e-3)), 0)


def _show(
  pictures: list[np.ndarray], repeats: list[int], frame: Any, until: int, short_side: int, max_still: float
) -> None:
  """Adds the frame shown up to instant `until`, where there is an instant left for it: only such are converted."""
  count = until - sum(repeats)
  if count > max_still:
    raise RejectedError(f'a gap in time: one frame shown {count} times')
  if count > 0:
    pictures.append(_picture(frame, short_side))
    repeats.append(count)


def _picture(frame: Any, short_side: int) -> np.ndarray:
  scale = short_side / min(frame.width, frame.height)
  width, height = max(short_side, round(frame.width * scale)), max(short_side, round(frame.height * scale))
  picture = frame.reformat(width, height, 'rgb24', interpolation='BILINEAR').to_ndarray()
  # PyAV leaves the rotation to the player; it is in degrees, counter-clockwise.
  return np.rot90(picture, frame.rotation // 90 % 4)
