"""BAIR robot pushing, video prediction at 64x64: 1 context frame, 15 generated.

Command:  python -m dvd_gan.main --mode=train --config=configs/bair_fp_64x16.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas, 12 to 96 hours (the paper).
Expected: FVD 109.8 (paper).
Measured: not run.
"""

from dvd_gan.configs import kinetics600_fp_64x16


def get_config():
  config = kinetics600_fp_64x16.get_config()
  config.data.name = 'bair'
  config.data.context = 1
  config.sample.split = 'test'
  return config
