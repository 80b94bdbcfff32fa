"""Video prediction on the embedded set at 32x32: 4 frames given, 8 generated; hours on a CPU.

Command:  python -m dvd_gan.main --mode=train --config=configs/moving_shapes_fp_32.py --workdir=DIR
Hardware: two CPU cores.
Expected: shapes that go on moving as they did.
Measured: not run.
"""

from configs import moving_shapes_32


def get_config():
  config = moving_shapes_32.get_config()
  config.data.frames = 12
  config.data.given = 4
  config.data.use_labels = False
  return config
