"""Kinetics-600 video prediction at 64x64: 5 context frames, 11 generated, stride 1.

Command:  python -m dvd_gan.main --mode=train --config=configs/kinetics600_fp_64x16.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas, 12 to 96 hours (the paper).
Expected: FVD 68.66 +- 0.78 (train), 69.15 +- 1.16 (test) (paper).
Measured: not run.
"""

from dvd_gan.configs import kinetics600_64x16


def get_config():
  config = kinetics600_64x16.get_config()
  config.data.context = 5
  config.data.use_labels = False
  config.train.steps = 1_000_000
  return config
