"""Moving shapes at 32x32, 8 frames: one day on one CPU core.

Command:  python -m dvd_gan.main --mode=train --config=configs/moving_shapes_32.py --workdir=DIR
Hardware: 1 CPU core, training on 1.5 million real clips. Expected: shape and motion correct in 95 % of samples,
Inception Score 95 % of real clips', Frechet distance at most twice the floor. Measured: results/long_runs.
"""

from dvd_gan.configs import moving_shapes_16


def get_config():
  config = moving_shapes_16.get_config()
  config.data.resolution = 32
  config.data.clips = 60_000
  config.gen.ch = 4
  config.gen.multipliers = (16, 12, 6, 4)
  config.disc.multipliers = (2, 4, 8, 8)
  config.disc.pool = 2
  config.train.steps = 48_000
  config.train.gen_lr = 4e-4
  config.train.disc_lr = 8e-4
  config.train.decay_start = 24_000
  config.train.ema_decay = 0.9995
  config.train.ema_start = 1_000
  config.train.keep_every = 2_000
  config.train.sample_every = 2_000
  config.sample.statistics_batches = 16
  return config
