"""Frames as JPEG: how they are stored, and how a window of them becomes an array. libjpeg-turbo through simplejpeg."""

import io
from typing import Any

import numpy as np
import simplejpeg


def encode(video: np.ndarray, quality: int) -> list[bytes]:
  """uint8 [T, H, W, 3] as one JPEG a frame, colour at full resolution.

  TFDS stores bytes as they are; its own encoder would go through ffmpeg, which keeps 29 dB after the first frame.
  """
  return [simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality, colorsubsampling='444') for frame in video]


def decode(data: Any, scratch: np.ndarray | None = None) -> np.ndarray:
  """An encoded image, a JPEG or anything else that Pillow reads, as uint8 [H, W, 3].

  Args:
    data: bytes or a view of them.
    scratch: uint8, where to put a JPEG's pixels if they fit: fresh memory for each costs a quarter of the decoding.

  Raises:
    ValueError: if it cannot be decoded.
  """
  if data[:2] == b'\xff\xd8':
    try:
      return simplejpeg.decode_jpeg(data, buffer=scratch)
    except ValueError:
      if scratch is None:
        raise
      return simplejpeg.decode_jpeg(data)  # larger than `scratch`, or damaged
  from PIL import Image

  try:
    with Image.open(io.BytesIO(data)) as image:
      return np.asarray(image.convert('RGB'))
  except (OSError, SyntaxError) as error:
    raise ValueError(str(error)) from None


def resize(image: np.ndarray, short_side: int) -> np.ndarray:
  """uint8 [H, W, 3] with its short side made that long, bilinearly (antialiased)."""
  from PIL import Image

  height, width = image.shape[:2]
  scale = short_side / min(height, width)
  size = max(short_side, round(width * scale)), max(short_side, round(height * scale))
  return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
