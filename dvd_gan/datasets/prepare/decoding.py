"""Decodes a video file to the frames that a player shows, at a fixed rate and size, or rejects it. Uses PyAV."""

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

# Incremented when the same file would give other frames. Cached results of earlier versions are then not reused.
# 2: each frame once for any container, square pixels, mirrored and interlaced files, no corrupt frames.
VERSION = 2

DEFAULT_RATE = 25.0  # frames per second, if the rate of the file is unknown
COMPLETE = 0.95  # share of the announced frames that must be decoded; with fewer a file is truncated
SLACK = 0.2  # seconds by which a file may be shorter than announced
FRAMES_BEFORE = 8  # minimum number of frames decoded before a part
WORTH_A_JUMP = 5.0  # seconds; an earlier part is reached by decoding, not by a seek
BEFORE_THE_END = 2.0  # seconds by which a stream may be shorter than in its header
FROM_ZERO = ('matroska,webm', 'asf')  # formats whose durations count from 0, not from the first packet
INDEXED = ('mov,mp4,m4a,3gp,3g2,mj2', 'matroska,webm', 'avi')  # formats with an index of key frames


class RejectedError(Exception):
  """The file cannot be used; the message is the reason.

  Attributes:
    lasting: whether another attempt would fail, too; False after a timeout or a disk error.
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
  """The central square of uint8 [T, H, W, 3], as [T, side, side, 3]."""
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
    fps: frames per second of the result, which has the frame shown at each instant. None for each stored frame once,
      whatever its time.
    min_frames: a video with fewer frames, after resampling, is rejected.
    first: index of the first frame, after resampling; negative to count from the end.
    count: number of frames; None for all. If only a part is decoded, the rest of the file is not checked.
    seconds: limit of the wall-clock time, checked between packets; a file that takes longer is rejected.
    threads: number of decoder threads; 0 for one per core.
    name: name of the file, for messages; by default the path.

  Yields:
    (image uint8 [H, W, 3] RGB, number of consecutive frames of the result that show it).

  Raises:
    RejectedError: if the file is no video, is damaged or truncated, is too short or takes too long.
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
  """A file object for FFmpeg, which would take the path a:b.mp4 for a protocol."""
  if isinstance(source, bytes):
    file, size = io.BytesIO(source), len(source)
    file.name = name  # FFmpeg uses its suffix
  elif not files.is_remote(source):
    about = os.stat(source)
    if not stat.S_ISREG(about.st_mode):
      raise RejectedError('not a regular file')  # reading a pipe may block
    file, size = open(source, 'rb'), about.st_size
  elif not str(source).startswith('gs://'):
    raise RejectedError('a URL; download it first')
  else:
    file, size = epath.Path(source).open('rb'), 1
  if not size:
    raise RejectedError('empty file')
  return file


class _Reader:
  """Reads the video stream of a container and counts packets and frames for `check`.

  Attributes:
    stream: the video stream that a player shows.
    decoded: number of frames decoded so far.
  """

  def __init__(self, container: Any, seconds: float, threads: int, name: str):
    self.stream = _shown_stream(container, name)
    # No slice threads, with which the H.264 decoder does not mark corrupt frames.
    self.stream.thread_type, self.stream.thread_count = 'FRAME', threads
    self.decoded = 0
    self._container = container
    self._seconds, self._deadline = seconds, time.monotonic() + seconds
    self._packets = self._hidden = 0
    # Start of the first packet and end of the last, in seconds: over all streams, and over this stream.
    self._all, self._own = (math.inf, -math.inf), (math.inf, -math.inf)
    self._wanted_from = -math.inf  # seconds, as stored; corrupt frames before this time are skipped

  def frames(self, fps: float | None, first: int, count: int | None) -> Iterator[tuple[Any, int]]:
    """Iterates over (frame, repeats) of a part of the result; the arguments are those of `pictures`."""
    begin = self._jump(first / fps) if fps else None
    found = self._shown(fps, begin)
    if first < 0:
      tail = _tail(found, -first)
      if begin is not None and sum(stop - start for _, start, stop in tail) < -first:
        self._container.seek(0)  # the stream is shorter than in its header
        tail = _tail(self._shown(fps, None), -first)
      found, first = tail, max(tail[-1][2] + first, 0) if tail else 0
    return frame_times.part(found, first, math.inf if count is None else count)

  def check(self, file: BinaryIO) -> None:
    """Raises RejectedError if the file is incomplete."""
    if not self.decoded:
      raise RejectedError('no frames')
    kind, announced, own = self._container.format.name, self.stream.frames, _own_duration(self.stream)
    if kind == 'avi':  # AVI counts pauses as frames
      announced, own = 0, float(announced * self.stream.time_base)
    # An edit list hides announced frames, but not their packets.
    if self._packets < COMPLETE * announced or self.decoded < COMPLETE * (self._packets - self._hidden):
      raise RejectedError(f'truncated: {min(self._packets, self.decoded)} of {announced or self._packets} frames')
    if not announced:
      # The container's duration may be that of the audio.
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
    """Yields the frames from the position of the container, in display order."""
    for packet in self._demux():
      if time.monotonic() > self._deadline:
        raise RejectedError(f'takes longer than {self._seconds:g} s', lasting=False)
      own = packet.stream is self.stream  # not by stream_index, which the last packet lacks
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
            continue  # after a seek its reference frames are missing
          raise RejectedError(f'damaged: the decoder marks frame {self.decoded} as corrupt')
        self.decoded += 1
        yield frame

  def _demux(self) -> Iterator[Any]:
    """Yields the packets of all streams; loses the first of a stream found after PyAV has counted the streams."""
    packets = self._container.demux()
    while True:
      try:
        yield next(packets)
      except StopIteration:
        return
      except IndexError:
        packets = self._container.demux()

  def _jump(self, seconds: float) -> float | None:
    """Seeks to the last key frame before a time, in seconds from the first frame, or from the end if negative.

    Returns:
      The stored time of the first frame; None if the container is at its start.
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
    # Some frames earlier, because AVI's times are in decoding order and bwdif uses the preceding frames.
    goal = round((begin + seconds - FRAMES_BEFORE / self._rate()) / float(stream.time_base))
    container.seek(goal, stream=stream)
    self._wanted_from = begin + seconds
    landed = next(self._decode(), None)
    found = landed is not None and landed.pts is not None and landed.pts <= goal
    container.seek(goal if found else 0, stream=stream)
    return begin if found else None


def _shown_stream(container: Any, name: str) -> Any:
  """The video stream that a player shows; cover art and still images do not count."""
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
  """Duration of a stream in seconds, from its header; 0 if unknown."""
  return float(stream.duration * stream.time_base) if stream.duration else _own_duration(stream)


def _own_duration(stream: Any) -> float:
  """Duration of a stream in seconds, from its tag in Matroska (00:00:10.010000000); 0 if unknown."""
  try:
    hours, minutes, seconds = stream.metadata['DURATION'].split(':')
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
  except (KeyError, ValueError):  # no such tag, or another format
    return 0.0


def _tail(found: Iterator[tuple[Any, int, int]], count: int) -> list[tuple[Any, int, int]]:
  """The items of `found` that cover its last `count` instants."""
  tail = collections.deque()
  for one in found:
    tail.append(one)
    while tail[0][2] <= one[2] - count:
      tail.popleft()
  return list(tail)


def _is_whole_gif(file: BinaryIO) -> bool:
  """Whether the last image of a GIF is complete, which FFmpeg does not check. Data after that image are ignored."""
  from PIL import Image

  try:
    file.seek(0)
    with Image.open(file) as gif:
      gif.seek(gif.n_frames - 1)
      gif.load()
  except Exception:  # Pillow raises many types
    return False
  return True
