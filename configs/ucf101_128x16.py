"""UCF-101 class-conditional synthesis at 128x128, 16 frames, on all 13,320 clips.

Command:  python -m dvd_gan.main --mode=train --config=configs/ucf101_128x16.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas (the paper). Expected: IS 32.97 +- 1.7 by C3D (paper). Measured: not run.
"""

from dvd_gan.configs import default


def get_config():
  config = default.get_config()
  config.dtype = 'bfloat16'
  config.data.name = 'ucf101'
  config.data.split = 'all'
  config.data.num_classes = 101
  config.data.resolution = 128
  config.data.frames = 16
  config.data.flip = True
  config.gen.ch = 96
  config.gen.attention = (64,)
  config.disc.ch = 96
  return config
