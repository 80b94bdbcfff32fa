"""Moving shapes at 32x32, 8 frames: an hour or two on two CPU cores show that the model learns.

Command:  python -m dvd_gan.main --mode=train --config=configs/moving_shapes_32.py --workdir=DIR
Hardware: 2 CPU cores. Expected: shapes of the right kind that move the right way. Measured: results/moving_shapes_32.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.data.resolution = 32
  config.data.frames = 8
  config.gen.ch = 4
  config.gen.attention = ()
  config.gen.multipliers = (16, 12, 6, 4)
  config.disc.ch = 4
  config.disc.multipliers = (3, 6, 12, 16)
  config.disc.frames_k = 4
  config.train.batch_size = 16
  config.train.steps = 10_000
  # Higher than the paper's, whose batch is 32 times larger, because the run is 30 times shorter.
  config.train.gen_lr = 4e-4
  config.train.disc_lr = 8e-4
  config.train.ema_decay = 0.998
  config.train.ema_start = 500
  config.train.log_every = 20
  config.train.checkpoint_every = 500
  config.train.sample_every = 500
  config.sample.num = 30
  config.sample.batch_size = 30
  config.sample.columns = 5  # a row for each shape
  config.sample.statistics_batches = 16
  return config
