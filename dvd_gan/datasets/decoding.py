"""A video file of any kind -> frames at a fixed rate and size, or a reason why not. PyAV."""

from typing import Any

import numpy as np

COMPLETE = 0.95  # share of the announced frames that must come out: less is a truncated file


class RejectedError(Exception):
  """The file cannot be used; the message is the reason."""


def decode(path: Any, *, short_side: int, fps: float, min_frames: int = 1) -> np.ndarray:
  """Decodes a video at a fixed rate, upright, its short side resized bilinearly.

  Args:
    path: of the file, local.
    short_side: pixels; the other side follows the aspect ratio.
    fps: frames a second of the result: at each instant the last frame shown by then.
    min_frames: fewer than these, after resampling, is a rejection.

  Returns:
    uint8 [T, H, W, 3] RGB.

  Raises:
    RejectedError: if the file is not a video, is truncated or is too short.
  """
  import av

  try:
    with av.open(str(path)) as container:
      if not container.streams.video:
        raise RejectedError('no video stream')
      stream = container.streams.video[0]
      stream.thread_type = 'AUTO'
      frames, times = [], []
      decoded = 0
      for frame in container.decode(stream):
        rate = float(stream.average_rate or stream.guessed_rate or fps)
        time = frame.time if frame.time is not None else decoded / rate
        decoded += 1
        # Only frames that the fixed rate shows are converted and kept.
        if times and _tick(time - times[0], fps) == _tick(times[-1] - times[0], fps):
          frames[-1], times[-1] = frame, time
          continue
        if frames:
          frames[-1] = _picture(frames[-1], short_side)
        frames.append(frame)
        times.append(time)
      announced = stream.frames
  except (av.FFmpegError, OSError, ValueError) as error:
    raise RejectedError(f'cannot be decoded: {" ".join(str(error).split())}') from None
  if not frames:
    raise RejectedError('no frames')
  frames[-1] = _picture(frames[-1], short_side)
  if decoded < COMPLETE * announced:
    raise RejectedError(f'truncated: {decoded} of {announced} frames')
  ticks = np.array([_tick(time - times[0], fps) for time in times])
  shown = np.searchsorted(ticks, np.arange(ticks[-1] + 1), side='right') - 1
  if len(shown) < min_frames:
    raise RejectedError(f'too short: {len(shown)} frames at {fps:g} fps, {min_frames} needed')
  return np.stack(frames)[shown]


def _tick(seconds: float, fps: float) -> int:
  """The first instant of the fixed rate at which a frame of that time is shown."""
  return int(np.ceil(seconds * fps - 1e-3))


def _picture(frame: Any, short_side: int) -> np.ndarray:
  scale = short_side / min(frame.width, frame.height)
  width, height = max(short_side, round(frame.width * scale)), max(short_side, round(frame.height * scale))
  picture = frame.reformat(width, height, 'rgb24', interpolation='BILINEAR').to_ndarray()
  # PyAV leaves the rotation to the player; it is in degrees, counter-clockwise.
  return np.rot90(picture, frame.rotation // 90 % 4)
