"""Kinetics-600 class-conditional synthesis at 64x64, 16 frames, stride 1.

Command:  python -m dvd_gan.main --mode=train --config=configs/kinetics600_64x16.py --workdir=gs://BUCKET/RUN
Hardware: 32 to 512 TPU replicas, 12 to 96 hours (the paper). Expected: FVD 32.3 train, 31.1 test (the synthesis row of the prediction table) (paper). Measured: not run.
"""

from configs import default


def get_config():
  config = default.get_config()
  config.dtype = 'bfloat16'
  config.data.name = 'kinetics600'
  config.data.num_classes = 600
  config.data.resolution = 64
  config.data.frames = 16
  config.data.stride = 1
  config.gen.ch = 128
  config.disc.ch = 128
  return config
