"""Video prediction on the embedded set at 32x32: 4 frames given, 4 generated; an hour on a CPU.

Command:  python -m dvd_gan.main --mode=train --config=configs/moving_shapes_fp_32.py --workdir=DIR
Hardware: two CPU cores.
Expected: shapes that go on moving as they did.
Measured: not run.
"""

from configs import moving_shapes_32


def get_config():
  config = moving_shapes_32.get_config()
  config.data.given = 4
  config.data.stride = 2
  config.data.use_labels = False
  config.gen.multipliers = (12, 8, 6, 4)
  config.gen.given_multipliers = (4, 6, 8)  # gen.ch is 4 here: the widths of the units that they feed
  config.disc.frames_k = 2
  # Colours must come through batch norm unchanged: of few videos, their mean is too uncertain.
  config.train.batch_size = 32
  config.train.d_steps = 1
  config.train.steps = 3000
  config.train.gen_lr = config.train.disc_lr = 1e-3
  return config
