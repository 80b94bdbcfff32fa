"""A video file of any kind -> the pictures that a player shows, at a fixed rate and size, or a reason why not. PyAV."""

import collections
import io
import math
import os
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from etils import epath

from dvd_gan.datasets.prepare import frame_times, picture
from dvd_gan.runtime import files

# Counts up where the same file would give other frames: what was decoded before is decoded anew where that is possible.
# 2: each frame once whatever the container's clock, square pixels, mirrored and interlaced files, no corrupt frames.
VERSION = 2

DEFAULT_RATE = 25.0  # frames a second, where the file does not say
COMPLETE = 0.95  # share of the announced frames that must come out: less is a truncated file
SLACK = 0.2  # seconds by which a file may be shorter than it says
FRAMES_BEFORE = 8  # decoded before a part, at least
WORTH_A_JUMP = 5.0  # seconds: what is nearer is decoded on the way
BEFORE_THE_END = 2.0  # seconds by which a stream may be shorter than its header says
FROM_ZERO = ('matroska,webm', 'asf')  # formats whose durations count from 0, not from the first packet
INDEXED = ('mov,mp4,m4a,3gp,3g2,mj2', 'matroska,webm', 'avi')  # formats that say where their key frames are


class RejectedError(Exception):
  """The file cannot be used; the message is the reason.

  Attributes:
    lasting: whether it will be so another time: not where time ran out or the disk failed.
  """

  def __init__(self, reason: str, *, lasting: bool = True):
    super().__init__(reason)
    self.lasting = lasting


def decode(source: str | os.PathLike | bytes, **wanted: Any) -> np.ndarray:
  """Decodes a video; the arguments and errors are those of `pictures`.

  Returns:
    uint8 [T, H, W, 3] RGB.
  """
  images, repeats = zip(*pictures(source, **wanted), strict=True)
  return np.repeat(np.stack(images), repeats, axis=0)


def middle(video: np.ndarray, side: int) -> np.ndarray:
  """The middle square of uint8 [T, H, W, 3], [T, side, side, 3]."""
  top, left = ((length - side) // 2 for length in video.shape[1:3])
  return video[:, top : top + side, left : left + side]


def pictures(
  source: str | os.PathLike | bytes,
  *,
  short_side: int,
  fps: float | None,
  min_frames: int = 1,
  first: int = 0,
  count: int | None = None,
  seconds: float = math.inf,
  threads: int = 0,
  name: str = '',
) -> Iterator[tuple[np.ndarray, int]]:
  """Decodes a video as a player shows it: upright, square pixels, deinterlaced; the short side resized bilinearly.

  Args:
    source: path of a file, local or gs://, or its bytes.
    short_side: pixels; the other side follows the aspect ratio.
    fps: frames a second of the result: at each instant the last frame shown by then. None for each frame once, as
      stored, whatever its time.
    min_frames: fewer than these, after resampling, is a rejection.
    first: how many frames of the result to leave out, or as a negative number how many there are before the end.
    count: of frames that are wanted; None for all. A part is decoded alone, and whether the rest is whole is not asked.
    seconds: of wall clock; taking longer is a rejection. Looked at between packets.
    threads: of the decoder; 0 for one per core.
    name: of the file, for people; by default the path.

  Yields:
    (image uint8 [H, W, 3] RGB, how many frames of the result it is).

  Raises:
    RejectedError: if the file is no video, is damaged or truncated or is too short.
  """
  import av

  name = name or ('' if isinstance(source, bytes) else os.fspath(source))
  reader, found, shape = None, 0, None
  with _opened(source, name) as file:
    try:
      with av.open(file, metadata_errors='replace') as container:
        reader = _Reader(container, seconds, threads, name)
        aspect = float(reader.stream.sample_aspect_ratio or 1)
        for frame, repeats in reader.frames(fps, first, count):
          image = picture.upright(frame, short_side, aspect)
          shape = shape or image.shape
          if image.shape != shape:
            raise RejectedError('its size changes on the way')
          found += repeats
          yield image, repeats
        if first == 0 and count is None:
          reader.check(file)
    except (av.FFmpegError, OSError, ValueError) as error:
      reason = ' '.join((getattr(error, 'strerror', None) or str(error)).split())
      if isinstance(error, (av.FFmpegError, OSError)):
        how = f'damaged after {reader.decoded} frames' if reader and reader.decoded else 'cannot be decoded'
        reason = f'{how}: {reason}'
      disk = isinstance(error, OSError) and not isinstance(error, av.FFmpegError)
      raise RejectedError(reason, lasting=not disk) from None
  if found < max(min_frames, 1):
    rate, place = f' at {fps:g} fps' if fps else '', f' from frame {first} on' if first > 0 else ''
    raise RejectedError(f'too short: {found} frames{rate}{place}, {min_frames} needed')


def _opened(source: str | os.PathLike | bytes, name: str) -> BinaryIO:
  """A file for FFmpeg to read from: by its name alone it would take a:b.mp4 for a protocol."""
  if isinstance(source, bytes):
    file, size = io.BytesIO(source), len(source)
    file.name = name  # FFmpeg looks at its suffix
  elif not files.is_remote(source):
    about = os.stat(source)
    if not stat.S_ISREG(about.st_mode):
      raise RejectedError('not a regular file')  # a pipe would have us wait
    file, size = open(source, 'rb'), about.st_size
  elif not str(source).startswith('gs://'):
    raise RejectedError('a URL; download it first')
  else:
    file, size = epath.Path(source).open('rb'), 1
  if not size:
    raise RejectedError('empty file')
  return file


class _Reader:
  """The video stream of a container, and an account of what was read.

  Attributes:
    stream: the one that a player shows.
    decoded: frames that have come out.
  """

  def __init__(self, container: Any, seconds: float, threads: int, name: str):
    self.stream = _shown_stream(container, name)
    # Not in slices: of H.264 the decoder would not mark corrupt frames.
    self.stream.thread_type, self.stream.thread_count = 'FRAME', threads
    self.decoded = 0
    self._container = container
    self._seconds, self._deadline = seconds, time.monotonic() + seconds
    self._packets = self._hidden = 0
    # Of the packets, in seconds: when the first begins and when the last ends, of all streams and of this one.
    self._all, self._own = (math.inf, -math.inf), (math.inf, -math.inf)
    self._wanted_from = -math.inf  # seconds, as stored

  def frames(self, fps: float | None, first: int, count: int | None) -> Iterator[tuple[Any, int]]:
    """(frame, repeats) of a part of the result; arguments as those of `pictures`."""
    begin = self._jump(first / fps) if fps else None
    found = self._shown(fps, begin)
    if first < 0:
      tail = _tail(found, -first)
      if begin is not None and sum(stop - start for _, start, stop in tail) < -first:
        self._container.seek(0)  # the stream is shorter than its header says
        tail = _tail(self._shown(fps, None), -first)
      found, first = tail, max(tail[-1][2] + first, 0) if tail else 0
    return frame_times.part(found, first, math.inf if count is None else count)

  def check(self, file: BinaryIO) -> None:
    """RejectedError where something of the file is missing."""
    if not self.decoded:
      raise RejectedError('no frames')
    kind, announced, own = self._container.format.name, self.stream.frames, _own_duration(self.stream)
    if kind == 'avi':  # it counts pauses as frames
      announced, own = 0, float(announced * self.stream.time_base)
    # An edit list hides frames that the file announces: its packets are there all the same.
    if self._packets < COMPLETE * announced or self.decoded < COMPLETE * (self._packets - self._hidden):
      raise RejectedError(f'truncated: {min(self._packets, self.decoded)} of {announced or self._packets} frames')
    if not announced:
      # A duration for all streams may be that of the sound.
      (begin, end), duration = (self._own, own) if own else (self._all, (self._container.duration or 0) / 1e6)
      if kind in FROM_ZERO:
        duration -= begin
      if begin < end < begin + COMPLETE * duration - SLACK:  # a raw stream has no times
        raise RejectedError(f'truncated: {end - begin:.1f} of {duration:.1f} s')
    if kind == 'gif' and not _is_whole_gif(file):
      raise RejectedError('truncated: a GIF without its end')

  def _shown(self, fps: float | None, begin: float | None) -> Iterator[tuple[Any, int, int]]:
    frames = picture.deinterlaced(self._decode())
    if not fps:
      return ((frame, i, i + 1) for i, frame in enumerate(frames))
    clock = frame_times.Clock(float(self.stream.time_base), self._rate(), begin)
    return frame_times.shown(frames, clock, fps)

  def _rate(self) -> float:
    return float(self.stream.guessed_rate or self.stream.average_rate or DEFAULT_RATE)

  def _decode(self) -> Iterator[Any]:
    """The frames from where the container is, in the order in which they are shown."""
    for packet in self._demux():
      if time.monotonic() > self._deadline:
        raise RejectedError(f'takes longer than {self._seconds:g} s', lasting=False)
      own = packet.stream is self.stream  # the last packet has no stream_index
      at = packet.dts if packet.pts is None else packet.pts
      if packet.size and at is not None:
        tick = float(packet.time_base)
        begin, end = at * tick, (at + (packet.duration or 0)) * tick
        self._all = min(self._all[0], begin), max(self._all[1], end)
        self._own = (min(self._own[0], begin), max(self._own[1], end)) if own else self._own
      if not own:
        continue
      if packet.size:  # the last, empty one flushes the decoder
        self._packets += 1
        unseen = self.stream.codec_context.name == 'vp8' and not bytes(packet)[0] >> 4 & 1
        self._hidden += packet.is_discard or unseen
      for frame in packet.decode():
        if frame.is_corrupt:
          if (frame.time or 0.0) < self._wanted_from:
            continue  # after a jump its references are missing
          raise RejectedError(f'damaged: the decoder marks frame {self.decoded} as corrupt')
        self.decoded += 1
        yield frame

  def _demux(self) -> Iterator[Any]:
    """The packets of all streams; of one that begins after PyAV has counted the streams the first is lost."""
    packets = self._container.demux()
    while True:
      try:
        yield next(packets)
      except StopIteration:
        return
      except IndexError:
        packets = self._container.demux()

  def _jump(self, seconds: float) -> float | None:
    """Goes to the last key frame before a time after the first frame, or as a negative number before the end.

    Returns:
      The time of the first frame as it is stored; None where the container was left at its start.
    """
    stream, container = self.stream, self._container
    if seconds < 0:
      seconds += _duration(stream) - BEFORE_THE_END
    if container.format.name not in INDEXED or seconds < WORTH_A_JUMP:
      return None
    first = next(self._decode(), None)
    if first is None:
      return None
    begin = first.time or 0.0
    # Some frames earlier: AVI's times are in the order of decoding, and bwdif looks at the frames before.
    goal = round((begin + seconds - FRAMES_BEFORE / self._rate()) / float(stream.time_base))
    container.seek(goal, stream=stream)
    self._wanted_from = begin + seconds
    landed = next(self._decode(), None)
    found = landed is not None and landed.pts is not None and landed.pts <= goal
    container.seek(goal if found else 0, stream=stream)
    return begin if found else None


def _shown_stream(container: Any, name: str) -> Any:
  """The video stream that a player shows; cover art and single pictures are none."""
  from av.stream import Disposition

  single = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
  streams = [stream for stream in container.streams.video if not stream.disposition & single]
  if not streams:
    raise RejectedError('no video stream' + (', only a picture' if container.streams.video else ''))

  def rank(stream):
    size = stream.codec_context.width * stream.codec_context.height
    return stream.frames != 1, bool(stream.disposition & Disposition.default), size, -stream.index

  best = max(streams, key=rank)
  if len(streams) > 1:
    which = f'{best.index}, {best.codec_context.width}x{best.codec_context.height}'
    print(f'{name} has {len(streams)} video streams; read is stream {which}', file=sys.stderr)
  return best


def _duration(stream: Any) -> float:
  """Seconds that a stream lasts by its header; 0 where that does not say."""
  return float(stream.duration * stream.time_base) if stream.duration else _own_duration(stream)


def _own_duration(stream: Any) -> float:
  """Seconds that Matroska says the stream itself lasts, 00:00:10.010000000; 0 where it does not say."""
  try:
    hours, minutes, seconds = stream.metadata['DURATION'].split(':')
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
  except (KeyError, ValueError):  # or says it in a way of its own
    return 0.0


def _tail(found: Iterator[tuple[Any, int, int]], count: int) -> list[tuple[Any, int, int]]:
  """What `found` yields for its last `count` instants."""
  tail = collections.deque()
  for one in found:
    tail.append(one)
    while tail[0][2] <= one[2] - count:
      tail.popleft()
  return list(tail)


def _is_whole_gif(file: BinaryIO) -> bool:
  """Whether the last image of a GIF is whole; FFmpeg decodes what is there. What follows the last image does not count."""
  from PIL import Image

  try:
    file.seek(0)
    with Image.open(file) as gif:
      gif.seek(gif.n_frames - 1)
      gif.load()
  except Exception:  # Pillow has many
    return False
  return True
