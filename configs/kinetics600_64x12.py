"""Kinetics-600 class-conditional synthesis at 64x64, 12 frames, stride 2.

Command:  python -m dvd_gan.main --mode=train --config=configs/kinetics600_64x12.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas, 12 to 96 hours (the paper).
Expected: FID 0.85, IS 53.81; at the best-IS truncation FID 7.13, IS 187.23 (paper).
Measured: not run.
"""

from dvd_gan.configs import default


def get_config():
  config = default.get_config()
  config.dtype = 'bfloat16'
  config.data.name = 'kinetics600'
  config.data.num_classes = 600
  config.data.stride = 2
  return config
