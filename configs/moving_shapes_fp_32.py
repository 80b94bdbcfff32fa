"""Video prediction on the embedded set at 32x32: 3 context frames, 3 generated, stride 3; an hour on a CPU.

Command:  python -m dvd_gan.main --mode=train --config=configs/moving_shapes_fp_32.py --workdir=DIR
Hardware: two CPU cores.
Expected: the shapes continue their motion.
Measured: PSNR 2.8 dB above copying the last context frame: results/moving_shapes_fp_32.
"""

from dvd_gan.configs import default


def get_config():
  config = default.get_config()
  config.data.resolution = 32
  config.data.context = 3
  config.data.frames = 6
  config.data.stride = 3  # a fifth to a third of a swing per frame, so that copying the last frame is a poor prediction
  config.data.use_labels = False
  config.gen.ch = 4
  config.gen.multipliers = (16, 16, 12, 8)
  config.gen.context_multipliers = (4, 8, 12)
  # z carries no information here, but every gain and bias of G is linear in it: with 120 dimensions the same number of
  # steps reaches 3 dB less.
  config.gen.z_dim = 4
  config.gen.attention = ()
  config.disc.ch = 4
  config.disc.multipliers = (3, 6, 12, 16)
  config.disc.frames_k = 1  # with more, D_S, which does not see the context frames, outweighs D_T
  config.train.d_steps = 1
  config.train.batch_size = 8
  config.train.steps = 10_000
  config.train.gen_lr = 1e-3
  config.train.disc_lr = 1e-3
  # After an hour with only the paper's losses G repeats the last context frame: results/moving_shapes_fp_32.
  config.train.truth_weight = 100.0
  config.train.ema_decay = 0.999
  config.train.ema_start = 500
  config.train.log_every = 20
  config.train.checkpoint_every = 1000
  config.train.sample_every = 1000
  config.sample.num = 30
  config.sample.batch_size = 30
  config.sample.columns = 5
  config.sample.statistics_batches = 16
  return config
