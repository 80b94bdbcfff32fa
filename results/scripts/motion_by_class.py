"""Measures how the shape moves in samples and in real held-out clips, for each motion class.

python results/scripts/motion_by_class.py WORKDIR [STEP]    e.g. ~/dvd_gan_runs/smoke

Prints, over 600 samples from EMA weights with standing statistics and 600 real clips, the median range over a clip's
frames of the shape's centre (x and y, as a share of the picture's side) and of its area (as a share of its mean). The
shape is all pixels that differ from the background, which is the median of the border.
"""

import pathlib
import sys

import jax
import ml_collections
import numpy as np
from etils import epath

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dvd_gan import (
  sampling,
  sharding,  # noqa: E402
)
from dvd_gan.checkpoint import Checkpoints  # noqa: E402
from dvd_gan.datasets import shapes  # noqa: E402
from dvd_gan.runtime import run_config  # noqa: E402

COUNT = 600
THRESHOLD = 90  # difference summed over RGB; smaller differences are noise of the background


def ranges(video: np.ndarray) -> np.ndarray:
  """uint8 [N, T, H, W, 3] -> [N, 3]: range over time of the centre's x and y and of the area."""
  video = video.astype(float)
  side = video.shape[2]
  edge = np.concatenate([video[:, :, 0], video[:, :, -1], video[:, :, :, 0], video[:, :, :, -1]], 2)
  distance = np.abs(video - np.median(edge, 2)[:, :, None, None]).sum(-1)
  weight = np.where(distance > THRESHOLD, distance, 0) + 1e-9
  weight /= weight.max((2, 3), keepdims=True)
  area, grid = weight.sum((2, 3)), np.arange(side)
  x, y = weight.sum(2) @ grid / area, weight.sum(3) @ grid / area
  return np.stack([np.ptp(x, 1) / side, np.ptp(y, 1) / side, np.ptp(area, 1) / area.mean(1)], 1)


def main(workdir: str, step: int = 0) -> None:
  folder = epath.Path(workdir).expanduser().absolute()
  config = ml_collections.ConfigDict(run_config.read(folder / 'config.json'))
  config.sample.num, config.sample.batch_size = COUNT, 30
  checkpoints = Checkpoints(folder / 'checkpoints')
  mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
  state, standing = checkpoints.restore(step or checkpoints.newest(), config, mesh)
  sampler = sampling.make_sampler(config, state.ema_params, state.gen.spectral)
  labels = sampling.labels_for(config)
  videos = sampler.videos(standing or sampler.standing(), labels, truncation=1.0, seed=1)
  real, real_labels = shapes.draw_many(1, COUNT, frames=config.data.frames, size=config.data.resolution)
  print('| motion | samples: x, y, area | real: x, y, area |\n|---|---|---|')
  for i, motion in enumerate(shapes.MOTIONS):
    cells = [
      ', '.join(f'{value:.2f}' for value in np.median(ranges(clips)[of % len(shapes.MOTIONS) == i], 0))
      for clips, of in ((videos, labels), (real, real_labels))
    ]
    print(f'| {motion} | {cells[0]} | {cells[1]} |')


if __name__ == '__main__':
  main(sys.argv[1], *map(int, sys.argv[2:]))
