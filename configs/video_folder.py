"""Your own videos at 64x64, 12 frames: a folder with one subfolder per class.

Command:  python -m dvd_gan.main --mode=train --config=configs/video_folder.py --workdir=DIR --config.data.source=FOLDER
Hardware: one GPU; configs/video_folder_cpu.py is for a CPU. Expected: depends on the videos. Measured: not run.
"""

from dvd_gan.configs import default


def get_config():
  config = default.get_config()
  config.data.name = 'video_folder'
  config.data.flip = True
  config.gen.ch = 32
  config.disc.ch = 32
  config.train.batch_size = 16
  config.train.steps = 50_000
  config.train.ema_start = 2_000
  config.train.ema_decay = 0.999
  config.train.checkpoint_every = 1_000
  config.train.sample_every = 1_000
  return config
