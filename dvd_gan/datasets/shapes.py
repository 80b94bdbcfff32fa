"""Draws the embedded data set: a coloured shape that moves. numpy only.

`python -m dvd_gan.datasets.shapes --out=shapes.npz` writes an .npz for `data.name=array_file`, which needs no
TensorFlow; prepare/moving_shapes.py wraps the same drawing in a TFDS builder. Precedent: MoCoGAN's shape-motion set
(Tulyakov et al. 2018).
"""

import argparse
import itertools

import numpy as np

SHAPES = ('circle', 'square', 'triangle', 'star', 'ring', 'cross')
MOTIONS = ('still', 'left-right', 'up-down', 'orbit', 'zoom')
CLASSES = tuple(f'{shape} {motion}' for shape, motion in itertools.product(SHAPES, MOTIONS))
PERIOD = (10.0, 20.0)  # frames per period of the motion, at stride 1; short enough that any window shows motion


def draw(seed: int, index: int, *, frames: int, size: int) -> tuple[np.ndarray, int]:
  """One clip, a pure function of its arguments.

  Args:
    seed: seed of the set (one for each split).
    index: index of the clip in the set; its class is index modulo 30, so that classes are balanced.
    frames: number of frames, T.
    size: height and width in pixels.

  Returns:
    (video uint8 [T, size, size, 3] in [0, 255], label in [0, 30)).
  """
  rng = np.random.default_rng((seed, index))
  label = index % len(CLASSES)
  shape, motion = SHAPES[label // len(MOTIONS)], MOTIONS[label % len(MOTIONS)]
  colour, background = _two_colours(rng)
  radius = rng.uniform(0.17, 0.27)  # units: the picture is [0, 1] x [0, 1]
  swing = rng.uniform(0.7, 1.0) * (0.46 - radius)
  centre = rng.uniform(0.46, 0.54, 2)
  angle = 2 * np.pi * (rng.uniform() + np.arange(frames) / rng.uniform(*PERIOD))  # [T]
  x, y, scale = np.full(frames, centre[0]), np.full(frames, centre[1]), np.ones(frames)
  if motion in ('left-right', 'orbit'):
    x = x + swing * np.cos(angle)
  if motion in ('up-down', 'orbit'):
    y = y + swing * np.sin(angle)
  if motion == 'zoom':
    scale = 1 + 0.45 * np.sin(angle)

  grid = (np.arange(size) + 0.5) / size
  dx = (grid[None, None, :] - x[:, None, None]) / (radius * scale)[:, None, None]  # [T, 1, size]
  dy = (grid[None, :, None] - y[:, None, None]) / (radius * scale)[:, None, None]  # [T, size, 1]
  # Signed distances in units of the radius. A ramp one pixel wide antialiases the edge.
  pixel = 1 / (size * radius * scale)[:, None, None]
  cover = np.clip(0.5 - _distance(shape, dx, dy) / pixel, 0, 1)[..., None]  # [T, size, size, 1]
  video = cover * colour + (1 - cover) * background
  return np.round(video).astype(np.uint8), label


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """RGB of the shape and of the background in [0, 255], never close to each other."""
  while True:
    colour, background = rng.uniform(0, 255, (2, 3))
    if np.linalg.norm(colour - background) > 150:
      return colour, background


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Approximate signed distance to a shape of radius 1, negative inside, broadcast over x and y (y points down)."""
  r = np.hypot(x, y)
  if shape == 'circle':
    return r - 1
  if shape == 'square':
    return np.maximum(np.abs(x), np.abs(y)) - 0.85
  if shape == 'triangle':
    return np.maximum(0.87 * np.abs(x) - 0.5 * y, y) - 0.55
  if shape == 'star':
    return 0.8 * (r - (0.65 + 0.35 * np.cos(5 * np.arctan2(x, -y))))
  if shape == 'ring':
    return np.abs(r - 0.75) - 0.25
  bar = np.maximum(np.abs(x) - 1, np.abs(y) - 0.3)
  return np.minimum(bar, np.maximum(np.abs(y) - 1, np.abs(x) - 0.3))


def draw_many(seed: int, count: int, *, frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
  """(video uint8 [count, T, size, size, 3], label int32 [count]), the clips 0 to count - 1 of `draw`."""
  clips = [draw(seed, i, frames=frames, size=size) for i in range(count)]
  return np.stack([video for video, _ in clips]), np.array([label for _, label in clips], np.int32)


def main() -> None:
  parser = argparse.ArgumentParser(description='Draws moving shapes into an .npz for data.name=array_file.')
  parser.add_argument('--out', required=True, help='file to write')
  parser.add_argument('--clips', type=int, default=3000, help='number of clips')
  parser.add_argument('--frames', type=int, default=16, help='frames per clip')
  parser.add_argument('--size', type=int, default=32, help='height and width')
  parser.add_argument('--seed', type=int, default=0, help='0 for training clips, 1 for held-out ones')
  args = parser.parse_args()
  video, label = draw_many(args.seed, args.clips, frames=args.frames, size=args.size)
  np.savez_compressed(args.out, video=video, label=label, classes=np.array(CLASSES))
  print(f'{args.out}: {args.clips} clips of {args.frames} frames, {args.size}x{args.size}, {len(CLASSES)} classes')


if __name__ == '__main__':
  main()
