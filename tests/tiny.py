"""The tiny config as a file, for processes that tests start: `--config=tests/tiny.py`."""

from dvd_gan.configs import default


def get_config():
  """The smallest config that has every part: 16 pixels, 5 frames, 3 classes, attention in both networks."""
  config = default.get_config()
  config.data.resolution = 16
  config.data.frames = 5
  config.data.num_classes = 3
  config.data.clips = 30
  config.gen.ch = 2
  config.gen.multipliers = (4, 2, 2)
  config.gen.z_dim = 5
  config.gen.embed_dim = 3
  config.gen.attention = (8,)
  config.disc.ch = 4
  config.disc.multipliers = (1, 2, 2)
  config.disc.frames_k = 3
  config.mesh.loops = 'scan'  # all tests share one compiled step, and a scan compiles faster
  config.train.batch_size = 8
  config.train.steps = 4
  config.train.ema_start = 2
  config.train.ema_decay = 0.9
  config.train.log_every = 1
  config.train.checkpoint_every = 2
  config.train.sample_every = 0
  config.sample.num = 4
  config.sample.batch_size = 4
  config.sample.statistics_batches = 2
  config.sample.statistics_batch_size = 4
  return config
