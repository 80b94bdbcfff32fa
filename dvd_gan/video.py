"""Tiles videos into grids and writes them as MP4 (PyAV) and GIF (Pillow)."""

import fractions
import functools
import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

MIN_TILE = 96  # pixels; smaller videos are enlarged in grids
MIN_SINGLE = 256  # pixels; the same for a video in its own file
BORDER = 3  # pixels
LINE = 16  # pixels: height of a caption
PAPER = 235  # grey level of the background
# Border colours of frames in predictions.
CONTEXT = (0, 200, 0)
GENERATED = (0, 0, 0)
ROLLED = (255, 140, 0)  # after the T-th frame: generated from generated frames


def grid(
  videos: np.ndarray,
  columns: int = 0,
  borders: np.ndarray | None = None,
  captions: Sequence[str | Sequence[str]] = (),
  least: int = MIN_TILE,
) -> np.ndarray:
  """Tiles videos into a grid; small videos are enlarged by an integer factor.

  Args:
    videos: uint8 [N, T, H, W, 3].
    columns: number of columns; 0 for a roughly square grid.
    borders: colours of a border around each frame, uint8, broadcast to [N, T, 3]; None for no border.
    captions: a line of text above each video, or one per frame; no captions if empty. Long lines are cut off.
    least: pixels; videos of a smaller height are enlarged to at least this height.

  Returns:
    uint8 [T, rows * H', columns * W', 3].
  """
  scale = math.ceil(least / videos.shape[2])
  videos = videos.repeat(scale, 2).repeat(scale, 3)
  if borders is not None:
    videos = np.pad(videos, ((0, 0), (0, 0), (BORDER, BORDER), (BORDER, BORDER), (0, 0)))
    inside = np.zeros(videos.shape[2:4], bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    videos[:, :, ~inside] = np.broadcast_to(borders, (*videos.shape[:2], 3))[:, :, None]
  if captions:
    each = [[text] * videos.shape[1] if isinstance(text, str) else text for text in captions]
    above = np.stack([[_line(text, videos.shape[3]) for text in one] for one in each])  # [N, T, h, W', 3]
    videos = np.concatenate([above, videos], axis=2)
  n, t, h, w, c = videos.shape
  columns = min(columns or math.ceil(math.sqrt(n)), n)
  rows = math.ceil(n / columns)
  blank = np.full((rows * columns - n, t, h, w, c), PAPER, videos.dtype)
  tiles = np.concatenate([videos, blank]).reshape(rows, columns, t, h, w, c)
  return tiles.transpose(2, 0, 3, 1, 4, 5).reshape(t, rows * h, columns * w, c)


@functools.lru_cache
def _line(text: str, width: int) -> np.ndarray:
  """A line of dark text on a light background, uint8 [LINE, width, 3]."""
  from PIL import Image, ImageDraw, ImageFont

  image = Image.new('RGB', (width, LINE), (PAPER,) * 3)
  ImageDraw.Draw(image).text((2, 1), text, fill=(40, 40, 40), font=ImageFont.load_default(size=11))
  return np.asarray(image)


def borders(context: int, trained: int, length: int) -> np.ndarray:
  """Border colour of each frame, uint8 [length, 3]: `context` frames, generated ones up to `trained`, later ones."""
  colours = np.array([CONTEXT, GENERATED, ROLLED], np.uint8)
  return np.repeat(colours, (context, trained - context, max(length - trained, 0)), axis=0)[:length]


def write(path: Any, video: np.ndarray, fps: float) -> list[str]:
  """Writes PATH.mp4 (where PyAV is installed) and PATH.gif.

  Args:
    path: path without suffix, in an existing folder.
    video: uint8 [T, H, W, 3].
    fps: frames per second; above 50 the GIF drops frames.

  Returns:
    The names of the files written.
  """
  path, written = epath.Path(path), []
  encoded = {'.mp4': mp4(video, fps), '.gif': gif(video, fps)}
  for suffix, data in encoded.items():
    if data is not None:
      target = path.parent / (path.name + suffix)
      target.write_bytes(data)
      written.append(str(target))
  return written


def mp4(video: np.ndarray, fps: float) -> bytes | None:
  """Encodes uint8 [T, H, W, 3] as H.264 yuv420p; odd sizes are edge-padded to even ones. None without PyAV."""
  try:
    import av
  except ImportError:
    warnings.warn('PyAV is not installed (pip install av): videos are written as GIF only', stacklevel=2)
    return None
  video = np.pad(video, ((0, 0), (0, video.shape[1] % 2), (0, video.shape[2] % 2), (0, 0)), mode='edge')
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    rate = fractions.Fraction(fps).limit_denominator(1001)
    stream = container.add_stream('libx264', rate=rate, options={'crf': '12', 'preset': 'medium'})
    stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], 'yuv420p'
    for frame in video:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())
  return buffer.getvalue()


def gif(video: np.ndarray, fps: float) -> bytes:
  """Encodes uint8 [T, H, W, 3] as a looping GIF with a palette of 256 colours per frame.

  GIF durations are in hundredths of a second, and browsers slow down frames shorter than two. Above 50 frames per
  second, frames are dropped so that the GIF lasts as long as the video.
  """
  from PIL import Image

  if fps > 50:
    shown = np.arange(max(round(len(video) * 50 / fps), 1)) * fps / 50
    video, fps = video[shown.astype(int)], 50.0
  frames = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in video]
  duration = np.diff(np.rint(np.arange(len(frames) + 1) * 100 / fps)).astype(int) * 10
  buffer = io.BytesIO()
  frames[0].save(
    buffer, 'GIF', save_all=True, append_images=frames[1:], duration=duration.tolist(), loop=0, optimize=False
  )
  return buffer.getvalue()
