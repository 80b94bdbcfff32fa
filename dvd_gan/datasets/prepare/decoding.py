"""A video file of any kind -> frames at a fixed rate and size, or a reason why not. PyAV."""

import io
import math
import os
import time as clock
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dvd_gan.runtime import files

DEFAULT_RATE = 25.0  # frames a second, where neither file nor caller says
MAX_STILL = 30.0  # seconds that one frame may be shown: more is a broken clock
COMPLETE = 0.95  # share of the announced frames that must come out: less is a truncated file
SLACK = 0.2  # seconds by which sound may outlast the images


class RejectedError(Exception):
  """The file cannot be used; the message is the reason.

  Attributes:
    lasting: whether it will be so another time: not where time ran out or the disk failed.
  """

  def __init__(self, reason: str, *, lasting: bool = True):
    super().__init__(reason)
    self.lasting = lasting


def decode(
  source: str | os.PathLike | bytes,
  *,
  short_side: int,
  fps: float | None,
  min_frames: int = 1,
  seconds: float = math.inf,
  threads: int = 0,
) -> np.ndarray:
  """Decodes a video at a fixed rate, upright, its short side resized bilinearly.

  Args:
    source: path of a file, local or gs://, or its bytes.
    short_side: pixels; the other side follows the aspect ratio.
    fps: frames a second of the result: at each instant the last frame shown by then. None for the file's own rate.
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
  if isinstance(source, str) and files.is_remote(source):
    source = epath.Path(source).read_bytes()
  if not isinstance(source, bytes):
    with open(source, 'rb') as file:  # what fails here is the disk, not the file
      size = os.fstat(file.fileno()).st_size
      file.seek(max(size - 2, 0))
      last_bytes = file.read()
  else:
    size, last_bytes = len(source), source[-2:]
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
      rate = float(stream.average_rate or stream.guessed_rate or fps or DEFAULT_RATE)
      fps = fps or rate
      clip = _Resampler(short_side, fps)
      for packet, frame in _frames(container, stream):
        packets += packet is not None
        hidden += packet is not None and packet.is_discard
        if clock.monotonic() > deadline:
          raise RejectedError(f'takes longer than {seconds:g} s', lasting=False)
        if frame is not None:
          clip.add(frame, frame.time if frame.time is not None else decoded / rate)
          decoded += 1
      if not decoded:
        raise RejectedError('no frames')
      account = _Account(
        packets=packets,
        hidden=hidden,
        decoded=decoded,
        announced=stream.frames,
        end=clip.finish(1 / rate),
        duration=_duration(container, stream),
        open_gif=container.format.name == 'gif' and last_bytes != b'\0;',
      )
  except (av.FFmpegError, OSError, ValueError) as error:
    how = f'damaged after {decoded} frames' if decoded else 'cannot be decoded'
    reason = ' '.join((getattr(error, 'strerror', None) or str(error)).split())
    disk = isinstance(error, OSError) and 0 < (error.errno or 0) < 1000  # FFmpeg's own numbers are letters
    raise RejectedError(f'{how}: {reason}', lasting=not disk) from None
  account.check()
  if clip.count < min_frames:
    raise RejectedError(f'too short: {clip.count} frames at {fps:g} fps, {min_frames} needed')
  return np.repeat(np.stack(clip.images), clip.repeats, axis=0)


def middle(video: np.ndarray, side: int) -> np.ndarray:
  """The middle square of uint8 [T, H, W, 3], [T, side, side, 3]."""
  top, left = ((length - side) // 2 for length in video.shape[1:3])
  return video[:, top : top + side, left : left + side]


class _Account(NamedTuple):
  """What a file said it holds, and what came out."""

  packets: int
  hidden: int  # packets of frames that are not to be shown
  decoded: int
  announced: int  # frames; 0 where the file does not say
  end: float  # of the last frame, seconds
  duration: float  # seconds; 0 where the file does not say
  open_gif: bool  # a GIF without its last bytes

  def check(self) -> None:
    """RejectedError where something is missing."""
    # An edit list hides frames that the file announces: its packets are there all the same.
    if self.packets < COMPLETE * self.announced or self.decoded < COMPLETE * (self.packets - self.hidden):
      raise RejectedError(f'truncated: {min(self.packets, self.decoded)} of {self.announced or self.packets} frames')
    # Matroska announces a duration instead of frames, and of a GIF FFmpeg announces what it found.
    if not self.announced and self.end < COMPLETE * self.duration - SLACK:
      raise RejectedError(f'truncated: {self.end:.1f} of {self.duration:.1f} s')
    if self.open_gif:
      raise RejectedError('truncated: a GIF without its end')


def _frames(container: Any, stream: Any) -> Iterator[tuple[Any, Any]]:
  """(packet, None) for every packet of the file, and (None, frame) for every frame that comes out."""
  for packet in container.demux(stream):
    if packet.size:  # the last, empty one flushes the decoder
      yield packet, None
    for frame in packet.decode():
      yield None, frame


def _duration(container: Any, stream: Any) -> float:
  """Seconds that a file says the stream lasts; 0 if it does not say."""
  if 'DURATION' in stream.metadata:  # Matroska, 00:00:10.010000000: the stream's own
    hours, minutes, seconds = stream.metadata['DURATION'].split(':')
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
  return (container.duration or 0) / 1e6


class _Resampler:
  """Frames at their times -> images at a fixed rate, each kept once with how often it is shown."""

  def __init__(self, short_side: int, fps: float):
    self.images: list[np.ndarray] = []
    self.repeats: list[int] = []
    self.count = 0  # instants filled so far
    self._short_side, self._fps = short_side, fps
    self._shown: Any = None
    self._begin = self._time = 0.0

  def add(self, frame: Any, time: float) -> None:
    """The next frame, shown from `time`, in seconds, on."""
    if self._shown is None:
      self._begin = time
    else:
      self._show_until(time - self._begin)
    self._shown, self._time = frame, time

  def finish(self, default: float) -> float:
    """Shows the last frame for as long as it says, or `default` seconds; returns when it ends in the file's time."""
    last = float(self._shown.duration * self._shown.time_base) if self._shown.duration else default
    self._show_until(self._time - self._begin + last)
    return self._time + last

  def _show_until(self, seconds: float) -> None:
    """Fills the instants before that time, where there are any left for it: only such frames are converted."""
    count = int(np.ceil(seconds * self._fps - 1e-3)) - self.count
    if count > MAX_STILL * self._fps:
      raise RejectedError(f'a gap in time: one frame shown {count} times')
    if count > 0:
      self.images.append(_image(self._shown, self._short_side))
      if self.images[-1].shape != self.images[0].shape:
        raise RejectedError('its size changes on the way')
      self.repeats.append(count)
      self.count += count


def _image(frame: Any, short_side: int) -> np.ndarray:
  scale = short_side / min(frame.width, frame.height)
  width, height = max(short_side, round(frame.width * scale)), max(short_side, round(frame.height * scale))
  image = frame.reformat(width, height, 'rgb24', interpolation='BILINEAR').to_ndarray()
  # PyAV leaves the rotation to the player; it is in degrees, counter-clockwise.
  return np.rot90(image, frame.rotation // 90 % 4)
