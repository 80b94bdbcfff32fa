"""Video prediction on the embedded set at 32x32: 4 frames given, 4 generated; hours on a CPU.

Command:  python -m dvd_gan.main --mode=train --config=configs/moving_shapes_fp_32.py --workdir=DIR
Hardware: two CPU cores.
Expected: shapes that go on moving as they did.
Measured: not yet better than copying the last frame, after 1,308 steps: results/moving_shapes_fp_32.
"""

from configs import moving_shapes_32


def get_config():
  config = moving_shapes_32.get_config()
  config.data.given = 4
  config.data.stride = 2
  config.data.use_labels = False
  config.train.batch_size = 8
  config.train.gen_lr = 1e-3
  config.train.disc_lr = 2e-3
  return config
