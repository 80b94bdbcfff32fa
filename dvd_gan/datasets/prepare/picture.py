"""Converts decoded frames to the images that a player shows: deinterlaced, with square pixels, upright, in RGB."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

MAX_SIDE = 65_500  # pixels: limit of a JPEG


def deinterlaced(frames: Iterable[Any]) -> Iterator[Any]:
  """Applies FFmpeg's bwdif to frames that are marked interlaced, one frame for each frame; others are unchanged.

  Otherwise FFmpeg would resize such a frame field by field, and the result would show combing at any size.
  """
  graph = size = None
  for frame in frames:
    if graph is None and frame.interlaced_frame:
      graph, size = _bwdif(frame), (frame.width, frame.height)
    if graph is None or (frame.width, frame.height) != size:
      yield frame
    else:
      graph.push(frame)
      yield from _pulled(graph)
  if graph is not None:
    graph.push(None)
    yield from _pulled(graph)


def _bwdif(frame: Any) -> Any:
  import av.filter

  graph = av.filter.Graph()
  source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
  graph.link_nodes(source, graph.add('bwdif', 'mode=send_frame:deint=interlaced'), graph.add('buffersink')).configure()
  return graph


def _pulled(graph: Any) -> Iterator[Any]:
  import av

  while True:
    try:
      yield graph.pull()
    except (av.BlockingIOError, av.EOFError):
      return


def upright(frame: Any, short_side: int, pixel_aspect: float) -> np.ndarray:
  """Converts a frame to uint8 [H, W, 3] RGB, upright, resized bilinearly.

  Args:
    frame: a frame of PyAV.
    short_side: pixels; the other side follows the display aspect ratio.
    pixel_aspect: width of a pixel / its height.

  Raises:
    ValueError: if the other side would be longer than MAX_SIDE.
  """
  shown = frame.width * pixel_aspect, frame.height
  width, height = (max(short_side, round(side * short_side / min(shown))) for side in shown)
  if max(width, height) > MAX_SIDE:
    raise ValueError(f'{width}x{height} pixels at this size; a JPEG has at most {MAX_SIDE} on a side')
  image = frame.reformat(width, height, 'rgb24', interpolation='BILINEAR').to_ndarray()
  # The stream's display matrix [[a, b], [c, d]] moves a pixel at (x, y) to (a x + c y, b x + d y).
  if (matrix := frame.side_data.get('DISPLAYMATRIX')) is None:
    return image
  a, b, _, c, d = np.frombuffer(matrix, np.int32, 5).tolist()
  if abs(a) < abs(b):
    image, a, d = image.transpose(1, 0, 2), c, b
  return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
