"""Kinetics-600 class-conditional synthesis at 256x256, 12 frames, stride 2.

Command:  python -m dvd_gan.main --mode=train --config=configs/kinetics600_256x12.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas, 12 to 96 hours (the paper).
Expected: FID 2.05, IS 62.78; at the best-IS truncation FID 10.17, IS 162.44 (paper).
Measured: not run.
"""

from dvd_gan.configs import kinetics600_64x12


def get_config():
  config = kinetics600_64x12.get_config()
  config.data.resolution = 256
  config.gen.ch = 96
  config.gen.attention = (128,)
  config.disc.ch = 96
  return config
