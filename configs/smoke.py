"""The whole program in minutes on two CPU cores; `launch/local.sh` trains this config.

Command:  bash launch/local.sh
Hardware: 2 CPU cores, under 10 minutes. Expected: one coloured shape on a plain background, with the motion of its
class. Measured: results/smoke.
"""

from dvd_gan.configs import default


def get_config():
  config = default.get_config()
  config.data.resolution = 16
  config.data.frames = 6
  config.data.clips = 3000
  config.gen.ch = 8
  config.gen.z_dim = 16  # small, so that the class embedding has more weight from the start
  config.gen.embed_dim = 32
  config.gen.attention = ()
  config.disc.ch = 4
  config.disc.multipliers = (2, 6, 12)
  config.disc.frames_k = 3
  config.disc.pool = 1  # the paper's pooling would leave 8x8 pixels, too few to see motion
  config.train.batch_size = 8
  config.train.steps = 2500
  # Higher than the paper's: the batch is 64 times smaller and the run 120 times shorter.
  config.train.gen_lr = 1e-3
  config.train.disc_lr = 2e-3
  config.train.ema_decay = 0.995
  config.train.ema_start = 200
  config.train.log_every = 10
  config.train.checkpoint_every = 500
  config.train.sample_every = 500
  config.sample.num = 30
  config.sample.batch_size = 30
  config.sample.columns = 5  # a row for each shape
  config.sample.statistics_batches = 8
  return config
