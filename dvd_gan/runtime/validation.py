"""Checks of a config, before anything compiles."""

import operator
from typing import Any

from dvd_gan import models
from dvd_gan.configs import fields
from dvd_gan.models import discriminators
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError
from dvd_gan.runtime.run_config import RENAMED


def validate(config: Any) -> None:
  """Raises UsageError with one line about the first invalid field of a config."""
  for name in names(config):
    new = f'; it is now {RENAMED[name]}' if name in RENAMED else ''
    _require(name in fields.RULES, f'the config has no field {name}{new}')
    value = operator.attrgetter(name)(config)
    fault = fields.RULES[name].fault(value)
    _require(not fault, f'{name}={value} {fault}')
    if fields.RULES[name].path:
      files.check_remote(value)
  data, res = config.data, config.data.resolution
  _require('://' not in data.stage, f'data.stage={data.stage} must be a local folder, not a URL')
  _require(res & (res - 1) == 0, f'data.resolution={res} is not a power of two (8, 16, 32, 64, 128, ...)')
  _validate_networks(config)
  _require(data.frames >= 4, f'data.frames={data.frames} must be 4 or more, because D_T halves time twice')
  _require(
    0 <= data.context < data.frames,
    f'data.context={data.context} must be from 0 to data.frames - 1 = {data.frames - 1}',
  )
  generated = data.frames - data.context
  _require(
    1 <= config.disc.frames_k <= generated,
    f'disc.frames_k={config.disc.frames_k} must be from 1 to the number of generated frames, {generated}',
  )
  _validate_prediction(config)
  steps = tuple(config.train.profile_steps)
  _require(
    not steps or (len(steps) == 2 and 1 <= steps[0] <= steps[1]),
    f'train.profile_steps={steps} must be empty, or the first and the last step to profile, such as (100, 110)',
  )
  _validate_sample(config)


def _validate_networks(config: Any) -> None:
  """Checks the fields of the networks against the resolution."""
  gen, disc, res = config.gen, config.disc, config.data.resolution
  units = res.bit_length() - 3
  if gen.multipliers:
    count = len(gen.multipliers)
    _require(
      count == units + 1,
      f'gen.multipliers has {count} entries, but data.resolution={res} needs {units + 1}: the stem and {units} units',
    )
  for name, net, table in (('gen', gen, models.GEN_MULTIPLIERS), ('disc', disc, models.DISC_MULTIPLIERS)):
    known = net.multipliers or res in table
    _require(known, f'data.resolution={res} has no default widths: set {name}.multipliers')
  blocks = len(disc.multipliers or models.DISC_MULTIPLIERS[res])
  _require(
    disc.pool in (1, 2, 4, 8) and res // disc.pool >= 4,
    f'disc.pool={disc.pool} must be 1, 2, 4 or 8, and at most data.resolution / 4 = {res // 4}',
  )
  _require(
    set(disc.parts) in ({'spatial'}, {'temporal'}, set(discriminators.PARTS)),
    f'disc.parts={tuple(disc.parts)} is not spatial, temporal or both',
  )
  smallest = res // disc.pool >> (blocks - 1)
  _require(
    blocks >= 3 and smallest >= 1,
    f'disc.multipliers has {blocks} entries, but data.resolution={res} and disc.pool={disc.pool} allow 3 to '
    f'{(res // disc.pool).bit_length()}',
  )
  places = [4 << i for i in range(units)]
  _require(set(gen.attention) <= set(places), f'gen.attention={tuple(gen.attention)}: G has units only at {places}')
  places = [res >> i for i in range(1, blocks)]
  _require(
    set(disc.attention) <= set(places), f'disc.attention={tuple(disc.attention)}: D_S has blocks only at {places}'
  )


def _validate_prediction(config: Any) -> None:
  """Checks fields that depend on whether there are context frames."""
  data, res = config.data, config.data.resolution
  units = res.bit_length() - 3
  count = len(models.context_multipliers(config))
  _require(
    not data.context or count == units,
    f'gen.context_multipliers has {count} entries, but data.resolution={res} needs {units}',
  )
  _require(
    data.context or not config.train.truth_weight,
    f'train.truth_weight={config.train.truth_weight} is for prediction, but data.context is 0',
  )
  _require(
    data.context or not config.gen.from_last_frame, 'gen.from_last_frame is for prediction, but data.context is 0'
  )


def _validate_sample(config: Any) -> None:
  """Checks fields of sampling, evaluation and export."""
  data, sample = config.data, config.sample
  _require(
    not (sample.video and data.context and data.use_labels) or len(sample.classes) == 1,
    'sample.video needs one class, because the model has classes: set --config.sample.classes=(CLASS,)',
  )
  for name in ('video', 'frames'):
    _require(data.context or not sample[name], f'sample.{name} is for prediction, but data.context is 0')
  _require(
    not data.context or sample.interpolate == 'none',
    f'sample.interpolate={sample.interpolate} is for synthesis, but data.context is {data.context}',
  )
  labels = (data.num_classes or fields.KNOWN_CLASSES.get(data.name, 0)) if data.use_labels else 1
  wrong = [label for label in sample.classes if not isinstance(label, str) and 0 < labels <= label]
  _require(not wrong, f'sample.classes: {wrong} must be from 0 to {labels - 1}, the labels of the model')
  for name in ('sample', 'eval', 'export'):
    _require(config[name].truncation, f'{name}.truncation is empty: set standard deviations of z, such as (1.0,)')


def validate_batch(config: Any, devices: int) -> None:
  """Raises UsageError if a train step's batch, or its state, cannot be split over `devices` devices."""
  size, shard = config.train.batch_size, config.mesh.shard
  _require(devices % shard == 0, f'mesh.shard={shard} does not divide the {devices} devices')
  _require(size % devices == 0, f'train.batch_size={size} does not divide over the {devices} devices; use a multiple')
  each, parts = size // devices, config.train.microbatches
  _require(each % parts == 0, f'train.microbatches={parts} does not divide the {each} videos on each device')


def names(config: Any) -> list[str]:
  """Names of the fields of a config, 'field' or 'group.field'."""
  groups = config.to_dict()
  inner = {group: found for group, found in groups.items() if isinstance(found, dict)}
  return [
    *(name for name in groups if name not in inner),
    *(f'{group}.{name}' for group, found in inner.items() for name in found),
  ]


def listing(config: Any) -> str:
  """All fields of a config as text, one `field=value` or `group.field=value` per line."""
  return '\n'.join(f'{name}={operator.attrgetter(name)(config)}' for name in names(config))


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise UsageError(message)
