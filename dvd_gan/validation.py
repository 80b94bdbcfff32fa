"""Checks of a config, before anything compiles."""

from typing import Any

import jax

from dvd_gan import models
from dvd_gan.errors import UsageError
from dvd_gan.models import conv_gru


def validate(config: Any) -> None:
  """Raises UsageError with one line for the first thing in a config that cannot work."""
  data, gen, disc, train, sample = config.data, config.gen, config.disc, config.train, config.sample
  res = data.resolution
  _require(
    res >= 8 and res & (res - 1) == 0, f'data.resolution={res} is not 4 * 2^n with n >= 1 (8, 16, 32, 64, 128, ...)'
  )
  units = res.bit_length() - 3
  for name, net, table, extra in (
    ('gen', gen, models.GEN_MULTIPLIERS, 1),
    ('disc', disc, models.DISC_MULTIPLIERS, None),
  ):
    if not net.multipliers:
      _require(res in table, f'data.resolution={res} has no default widths: give {name}.multipliers')
    elif extra:
      _require(
        len(net.multipliers) == units + extra,
        f'gen.multipliers has {len(net.multipliers)} entries; {res} pixels need {units + extra}, the stem and {units} units',
      )
  blocks = len(disc.multipliers or models.DISC_MULTIPLIERS[res])
  _require(
    disc.pool in (1, 2, 4, 8) and res // disc.pool >= 4,
    f'disc.pool={disc.pool} is not 1, 2, 4 or 8, or leaves too little',
  )
  smallest = res // disc.pool >> (blocks - 1)
  _require(
    blocks >= 3 and smallest >= 1,
    f'disc.multipliers has {blocks} entries; {res} pixels allow 3 to {(res // disc.pool).bit_length()}',
  )
  _require(data.frames >= 4, f'data.frames={data.frames} is too short: D_T pools time twice and needs 4')
  _require(
    1 <= disc.frames_k <= data.frames, f'disc.frames_k={disc.frames_k} is not within 1 and data.frames={data.frames}'
  )
  _require(gen.activation in conv_gru.ACTIVATIONS, f'gen.activation={gen.activation} is not one of relu, tanh')
  _require(gen.upsampling in ('bilinear', 'nearest'), f'gen.upsampling={gen.upsampling} is not bilinear or nearest')
  _require(config.dtype in ('float32', 'bfloat16'), f'dtype={config.dtype} is not float32 or bfloat16')
  _require(
    config.mesh.loops in ('auto', 'scan', 'unroll'), f'mesh.loops={config.mesh.loops} is not auto, scan or unroll'
  )
  _require(config.mesh.shard == 1, f'mesh.shard={config.mesh.shard}: sharding of the state is not here yet, only 1 is')
  devices = jax.device_count()
  _require(
    train.batch_size > 0 and train.batch_size % devices == 0,
    f'train.batch_size={train.batch_size} does not divide over the {devices} devices',
  )
  for group, field in (
    ('data', 'stride'), ('data', 'num_classes'), ('data', 'prefetch'), ('gen', 'ch'), ('disc', 'ch'),
    ('gen', 'z_dim'), ('gen', 'embed_dim'), ('train', 'steps'), ('train', 'd_steps'), ('train', 'log_every'),
    ('train', 'checkpoint_every'), ('sample', 'num'), ('sample', 'batch_size'), ('sample', 'statistics_batches'),
  ):  # fmt: skip
    value = config[group][field]
    _require(value >= 1, f'{group}.{field}={value} is less than 1')
  _require(train.sample_every >= 0, f'train.sample_every={train.sample_every} is negative')
  _require(sample.fps > 0, f'sample.fps={sample.fps} is not positive')
  wrong = [label for label in sample.classes if not 0 <= label < data.num_classes]
  _require(not wrong, f'sample.classes: {wrong} not within 0 and data.num_classes - 1 = {data.num_classes - 1}')
  _require(
    all(t >= 0 for t in sample.truncation) and len(sample.truncation) > 0,
    f'sample.truncation={tuple(sample.truncation)} needs standard deviations, 0 or more',
  )


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise UsageError(message)
