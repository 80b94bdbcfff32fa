"""Video prediction on the embedded set at 32x32: 4 frames given, 6 generated; an hour on a CPU.

Command:  python -m dvd_gan.main --mode=train --config=configs/moving_shapes_fp_32.py --workdir=DIR
Hardware: two CPU cores.
Expected: shapes that go on moving as they did.
Measured: not run.
"""

from configs import moving_shapes_32


def get_config():
  config = moving_shapes_32.get_config()
  config.data.frames = 10
  config.data.given = 4
  config.data.stride = 2
  config.data.use_labels = False
  config.gen.given_multipliers = (4, 8, 12)
  config.gen.z_dim = 8  # the future of such clips is nearly certain
  config.gen.update_bias = 2.0  # what is given lasts from the start; a run as short as this could hardly learn it
  config.disc.frames_k = 3
  config.train.d_steps = 1
  config.train.gen_lr = config.train.disc_lr = 1e-3
  return config
