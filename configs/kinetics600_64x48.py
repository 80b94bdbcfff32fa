"""Kinetics-600 class-conditional synthesis at 64x64, 48 frames, stride 2.

Command:  python -m dvd_gan.main --mode=train --config=configs/kinetics600_64x48.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas, 12 to 96 hours (the paper).
Expected: FID 13.75, IS 104.09; at the best-IS truncation FID 47.86, IS 264.12 (paper).
Measured: not run.
"""

from dvd_gan.configs import kinetics600_64x12


def get_config():
  config = kinetics600_64x12.get_config()
  config.data.frames = 48
  return config
