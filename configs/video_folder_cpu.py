"""Your own videos at 32x32, 8 frames, within an hour on two CPU cores: a folder with one subfolder per class.

Command:  python -m dvd_gan.main --mode=train --config=configs/video_folder_cpu.py --workdir=DIR --config.data.source=FOLDER
Hardware: 2 CPU cores, 54 minutes at 0.93 steps a second, training on 96,000 windows. Expected: motion and recognisable
classes. Measured: both, after 64,000 windows of five videos: results/long_runs/footage_32.
"""

from dvd_gan.configs import moving_shapes_32


def get_config():
  config = moving_shapes_32.get_config()
  config.data.name = 'video_folder'
  config.data.stride = 2  # with stride 1, 8 frames at 25 frames a second last only a third of a second
  config.data.flip = True
  config.train.augment = ('translation', 'cutout')  # D soon overfits a few minutes of footage
  config.train.steps = 3_000
  config.train.decay_start = 1_500
  config.train.gen_lr = 5e-4
  config.train.disc_lr = 1e-3
  config.train.ema_decay = 0.998
  config.train.ema_start = 200
  config.train.keep_every = 0
  config.train.sample_every = 250
  config.sample.num = 16
  config.sample.batch_size = 16
  config.sample.columns = 0
  return config
