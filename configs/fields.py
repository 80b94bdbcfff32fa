"""Valid values of each field of default.py. Checks that involve several fields: dvd_gan/runtime/validation.py."""

import dataclasses
import math
import numbers
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rule:
  """Valid values of a field.

  Attributes:
    kind: bool, int, float (integers are valid, inf and nan are not) or str.
    least: the smallest value.
    most: the largest value.
    above_least: `least` itself is excluded.
    choices: the valid strings; empty for any.
    several: the field is a tuple of such values.
    path: a file or folder, local or gs://.
    named: names (non-blank strings) are valid, too.
  """

  kind: type
  least: float = -math.inf
  most: float = math.inf
  above_least: bool = False
  choices: tuple[str, ...] = ()
  several: bool = False
  path: bool = False
  named: bool = False

  def fault(self, value: Any) -> str | None:
    """The error in a value, as text to append to the value; None if it is valid."""
    if not self.several:
      return None if self._suits(value) else f'is not {self._wanted()}'
    if not isinstance(value, (tuple, list)):
      return f'is not a tuple, each value in it {self._wanted()}'
    wrong = next((one for one in value if not self._suits(one)), self)
    return None if wrong is self else f'holds {wrong!r}, which is not {self._wanted()}'

  def _suits(self, value: Any) -> bool:
    if self.named and isinstance(value, str):
      return bool(value.strip())
    if isinstance(value, bool) or self.kind is bool:
      return isinstance(value, bool) and self.kind is bool
    if self.kind is str:
      readable = not self.path or '://' not in str(value) or str(value).startswith('gs://')
      return isinstance(value, str) and readable and (not self.choices or value in self.choices)
    right = isinstance(value, numbers.Integral if self.kind is int else numbers.Real) and math.isfinite(value)
    return right and self.least <= value <= self.most and not (self.above_least and value == self.least)

  def _wanted(self) -> str:
    if self.choices:
      return ', '.join(self.choices[:-1]) + f' or {self.choices[-1]}'
    if self.path:
      return 'a path, local or gs://: download what a URL names first'
    words = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'text'}[self.kind]
    if self.above_least:
      words += f' above {self.least:g}'
    elif self.least > -math.inf and self.most < math.inf:
      words += f' of {self.least:g} to {self.most:g}'
    elif self.least > -math.inf:
      words += f' of {self.least:g} or more'
    return f'a name or {words}' if self.named else words


FLAG = Rule(bool)
TEXT = Rule(str)
PATH = Rule(str, path=True)
TEXTS = Rule(str, several=True)
COUNT = Rule(int, least=1)
COUNTS = Rule(int, least=1, several=True)
COUNT_OR_0 = Rule(int, least=0)
NUMBER = Rule(float)
POSITIVE = Rule(float, least=0, above_least=True)
NOT_NEGATIVE = Rule(float, least=0)


def one_of(*choices: str) -> Rule:
  """The rule of a field whose value is one of `choices`."""
  return Rule(str, choices=choices)


# Number of classes of data sets where it is fixed.
KNOWN_CLASSES = {'moving_shapes': 30, 'ucf101': 101, 'kinetics600': 600}

RULES = {
  'seed': COUNT_OR_0,
  'dtype': one_of('float32', 'bfloat16'),
  'data.name': one_of('moving_shapes', 'video_folder', 'ucf101', 'kinetics600', 'bair', 'array_file'),
  'data.dir': PATH,
  'data.source': PATH,
  'data.split': TEXT,
  'data.num_classes': COUNT_OR_0,
  'data.resolution': Rule(int, least=8),
  'data.frames': COUNT,
  'data.context': COUNT_OR_0,
  'data.use_labels': FLAG,
  'data.stride': COUNT,
  'data.crop': one_of('random', 'centre'),
  'data.flip': FLAG,
  'data.clips': COUNT,
  'data.jpeg_quality': Rule(int, least=1, most=100),
  'data.fps': POSITIVE,
  'data.short_clips': one_of('skip', 'repeat'),
  'data.threads': COUNT_OR_0,
  'data.prefetch': COUNT,
  'data.ram_gib': POSITIVE,
  'data.stage': PATH,
  'data.cache': PATH,
  'data.file_seconds': POSITIVE,
  'data.runner': TEXT,
  'data.beam_options': TEXTS,
  'gen.ch': COUNT,
  'gen.multipliers': COUNTS,
  'gen.context_multipliers': COUNTS,
  'gen.from_last_frame': FLAG,
  'gen.z_dim': COUNT,
  'gen.embed_dim': COUNT,
  'gen.attention': COUNTS,
  'gen.upsampling': one_of('bilinear', 'nearest'),
  'gen.activation': one_of('relu', 'tanh'),
  'gen.bn_over_time': FLAG,
  'gen.remat': FLAG,
  'disc.ch': COUNT,
  'disc.multipliers': COUNTS,
  'disc.frames_k': COUNT,
  'disc.phi': one_of('pool', 'crop'),
  'disc.pool': COUNT,
  'disc.parts': Rule(str, choices=('spatial', 'temporal'), several=True),
  'disc.attention': COUNTS,
  'disc.remat': FLAG,
  'train.steps': COUNT,
  'train.batch_size': COUNT,
  'train.microbatches': COUNT,
  'train.d_steps': COUNT,
  'train.gen_lr': POSITIVE,
  'train.disc_lr': POSITIVE,
  'train.truth_weight': NOT_NEGATIVE,
  'train.decay_start': COUNT_OR_0,
  'train.truth_decay_start': COUNT_OR_0,
  'train.augment': Rule(str, choices=('colour', 'translation', 'cutout'), several=True),
  'train.lecam': NOT_NEGATIVE,
  'train.b1': Rule(float, least=0, most=0.999999),  # with 1 Adam divides by 0
  'train.b2': Rule(float, least=0, most=0.999999),
  'train.ema_decay': Rule(float, least=0, most=1),
  'train.ema_start': COUNT_OR_0,
  'train.log_every': COUNT,
  'train.checkpoint_every': COUNT,
  'train.keep_checkpoints': COUNT_OR_0,
  'train.keep_every': COUNT_OR_0,
  'train.keep_best': COUNT_OR_0,
  'train.best_metric': TEXT,
  'train.sample_every': COUNT_OR_0,
  'train.profile_steps': COUNTS,
  'train.allow_config_change': FLAG,
  'sample.step': COUNT_OR_0,
  'sample.num': COUNT,
  'sample.classes': Rule(int, least=0, several=True, named=True),
  'sample.truncation': Rule(float, least=0, several=True),
  'sample.seed': COUNT_OR_0,
  'sample.batch_size': COUNT,
  'sample.columns': COUNT_OR_0,
  'sample.fps': POSITIVE,
  'sample.interpolate': one_of('none', 'latent', 'class'),
  'sample.each': FLAG,
  'sample.statistics_batches': COUNT,
  'sample.statistics_batch_size': COUNT,
  'sample.split': TEXT,
  'sample.video': PATH,
  'sample.start': NUMBER,
  'sample.futures': COUNT,
  'sample.frames': COUNT_OR_0,
  'eval.protocols': TEXTS,
  'eval.videos': PATH,
  'eval.step': COUNT_OR_0,
  'eval.follow': FLAG,
  'eval.samples': COUNT_OR_0,
  'eval.truncation': Rule(float, least=0, several=True),
  'eval.seed': COUNT_OR_0,
  'eval.batch_size': COUNT,
  'eval.cache': PATH,
  'eval.i3d_400': PATH,
  'eval.i3d_600': PATH,
  'eval.c3d': PATH,
  'eval.c3d_mean': PATH,
  'export.folder': PATH,
  'export.truncation': Rule(float, least=0, several=True),
  'export.dtype': one_of('float32', 'float16'),
  'dry_run.topology': TEXT,
  'dry_run.compile': FLAG,
  'mesh.shard': Rule(int, least=1, most=32),
  'mesh.loops': one_of('auto', 'scan', 'unroll'),
  'mesh.resampling': one_of('auto', 'in_kernel', 'apart'),
  'mesh.overlap': FLAG,
}
