"""Kinetics-600 class-conditional synthesis at 128x128, 48 frames, stride 2.

Command:  python -m dvd_gan.main --mode=train --config=configs/kinetics600_128x48.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas, 12 to 96 hours (the paper).
Expected: FID 28.44, IS 81.41; at the best-IS truncation FID 45.79, IS 188.32 (paper).
Measured: not run.
"""

from dvd_gan.configs import kinetics600_64x12


def get_config():
  config = kinetics600_64x12.get_config()
  config.data.resolution = 128
  config.data.frames = 48
  config.gen.ch = 96
  config.gen.attention = (64,)
  config.disc.ch = 96
  config.gen.remat = config.disc.remat = True  # without it two videos a chip need 17.8 GiB; a v5e has 15.75 GiB
  return config
