"""Kinetics-600 class-conditional synthesis at 64x64, 16 frames, stride 1.

Command:  python -m dvd_gan.main --mode=train --config=configs/kinetics600_64x16.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas, 12 to 96 hours (the paper).
Expected: FVD 32.3 train, 31.1 test (paper, the synthesis row of the prediction table).
Measured: not run.
"""

from dvd_gan.configs import kinetics600_64x12


def get_config():
  config = kinetics600_64x12.get_config()
  config.data.frames = 16
  config.data.stride = 1
  return config
