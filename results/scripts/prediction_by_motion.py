"""Compares predictions of moving shapes with the real frames, by kind of motion, and with copying the last frame.

python results/scripts/prediction_by_motion.py WORKDIR [STEP] [TRUNCATION]

STEP: 0, the default, for the newest checkpoint. TRUNCATION: standard deviation of z, 1 by default.

Uses 300 held-out clips with three futures each, EMA weights and standing statistics. Prints PSNR in dB and SSIM, means
over the generated frames: of all futures, of each clip's best future, and of copying the last context frame. Also
prints the distance between a clip's futures in grey levels, and PSNR by frame for the classes that move.
"""

import pathlib
import sys

import ml_collections
import numpy as np
from etils import epath

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dvd_gan import prediction, sample  # noqa: E402
from dvd_gan.datasets import evaluation_windows, shapes  # noqa: E402
from dvd_gan.metrics import similarity  # noqa: E402
from dvd_gan.runtime import run_config  # noqa: E402

CLIPS = 300
ROWS = ('mean', 'best', 'copy_last')


def main(workdir: str, step: str = '0', truncation: str = '1') -> None:
  folder = epath.Path(workdir).expanduser().absolute()
  config = ml_collections.ConfigDict(run_config.read(folder / 'config.json'))
  scale = float(truncation)
  config.sample.num, config.sample.futures, config.sample.batch_size = CLIPS, 3, 60
  config.sample.step, config.sample.truncation = int(step), (scale,)
  video, label = clips = evaluation_windows.Windows(config, 'validation').first(CLIPS, frames=config.data.frames)
  opened = sample.open_checkpoint(config, folder)
  futures = prediction.futures(opened.sampler, opened.standing(scale), clips, truncation=scale)
  motion = label % len(shapes.MOTIONS)
  groups = {name: motion == i for i, name in enumerate(shapes.MOTIONS)}
  groups |= {'all that move': motion != shapes.MOTIONS.index('still'), 'all': motion >= 0}

  print(
    f'step {opened.step}, truncation {scale:g}, {CLIPS} clips, {config.data.context} context frames, {futures.shape[2]} generated\n'
  )
  print(
    '| motion | clips | PSNR: mean, best of 3 | copying the last | SSIM: mean, best of 3 | copying the last | apart |'
  )
  print('|---|---|---|---|---|---|---|')
  context = config.data.context
  for name, of in groups.items():
    found = similarity.summary(futures[of], video[of, context:], video[of, context - 1])
    cells = []
    for metric, digits in (('psnr', 1), ('ssim', 2)):
      mean, best, copied = (f'{np.mean(found[metric][row]):.{digits}f}' for row in ROWS)
      cells += [f'{mean}, {best}', copied]
    print(f'| {name} | {of.sum()} | {" | ".join(cells)} | {similarity.spread(futures[of]):.1f} |')
    if name == 'all that move':
      by_frame = {row: ' '.join(f'{value:.1f}' for value in found['psnr'][row]) for row in ROWS}
  print('\nPSNR by frame of all that move: ' + '; '.join(f'{row} {values}' for row, values in by_frame.items()))


if __name__ == '__main__':
  main(*sys.argv[1:])
