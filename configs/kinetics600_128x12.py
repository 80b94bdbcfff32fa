"""Kinetics-600 class-conditional synthesis at 128x128, 12 frames, stride 2.

Command:  python -m dvd_gan.main --mode=train --config=configs/kinetics600_128x12.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas, 12 to 96 hours (the paper).
Expected: FID 1.16, IS 77.45; at the best-IS truncation FID 13.04, IS 246.18 (paper).
Measured: not run.
"""

from dvd_gan.configs import kinetics600_64x12


def get_config():
  config = kinetics600_64x12.get_config()
  config.data.resolution = 128
  config.gen.ch = 96
  config.gen.attention = (64,)
  config.disc.ch = 96
  return config
