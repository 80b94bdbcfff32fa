"""Prediction on your own videos at 32x32, 3 context frames, 5 generated, on a CPU: a folder with one subfolder per class.

Command:  python -m dvd_gan.main --mode=train --config=configs/video_folder_fp_cpu.py --workdir=DIR --config.data.source=FOLDER
Hardware: 1 CPU core, 1.5 hours for 4,000 steps. Expected: higher PSNR than copying the last frame, sharper than with a
squared error alone. Measured: both, at 10 frames a second with 80 files: results/long_runs/footage_fp_32.
"""

from dvd_gan.configs import moving_shapes_fp_32


def get_config():
  config = moving_shapes_fp_32.get_config()
  config.data.name = 'video_folder'
  config.data.frames = 8
  config.data.stride = 4  # a sixth of a second per frame at 25 frames a second
  config.data.flip = True
  config.gen.context_multipliers = (8, 12, 16)
  config.gen.from_last_frame = True
  config.train.augment = ('translation', 'cutout')
  config.train.batch_size = 16
  config.train.steps = 10_000
  config.train.decay_start = 5_000
  # First the squared error dominates, and G learns the motion; then it falls to 0, and the discriminators sharpen G.
  config.train.truth_weight = 1000.0
  config.train.truth_decay_start = 5_000
  config.train.keep_every = 1_000
  config.sample.split = 'test'
  return config
