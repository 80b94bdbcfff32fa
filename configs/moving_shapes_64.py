"""Moving shapes at 64x64, 12 frames: the paper's 64x64 model at a quarter of its width.

Command:  python -m dvd_gan.main --mode=train --config=configs/moving_shapes_64.py --workdir=DIR
Hardware: one GPU, a few hours (half a minute a step on two CPU cores). Expected: all 30 classes with the correct shape
and motion. Measured: not run.
"""

from dvd_gan.configs import default


def get_config():
  config = default.get_config()
  config.gen.ch = 32
  config.disc.ch = 32
  config.train.batch_size = 32
  config.train.steps = 50_000
  config.train.gen_lr = 2e-4
  config.train.ema_start = 2_000
  config.train.ema_decay = 0.999
  config.train.checkpoint_every = 1_000
  config.train.sample_every = 1_000
  config.sample.num = 30
  config.sample.batch_size = 30
  config.sample.columns = 5  # a row for each shape
  return config
