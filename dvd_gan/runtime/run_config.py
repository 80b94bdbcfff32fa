"""config.json: what a run was started with, and whether it may go on."""

import contextlib
import difflib
import functools
import importlib.metadata
import json
import os
import pathlib
import subprocess
from typing import Any

import jax
from etils import epath

import dvd_gan
from dvd_gan import models
from dvd_gan.configs import default
from dvd_gan.datasets import shapes
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError

FILE = 'config.json'
# Fields that were renamed: an old config.json is read with the new names, an old flag is refused with its new name.
RENAMED = {'data.given': 'data.context', 'gen.given_multipliers': 'gen.context_multipliers'}
# What an empty gen.context_multipliers was in a run from before it was written out: half of D's widths.
HALF_WIDTHS = {8: (2,), 16: (1, 2), 32: (1, 2, 4), 64: (1, 2, 4, 8), 128: (1, 1, 2, 4, 8), 256: (1, 1, 2, 4, 4, 8)}
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow', 'tensorflow-cpu', 'tensorflow-datasets',
            'ml_collections', 'clu', 'numpy', 'av', 'pillow')  # fmt: skip


def open_workdir(workdir: epath.Path) -> None:
  """Makes the workdir; UsageError if it cannot be made or written, RunError if its bucket does not answer."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe = workdir / f'.probe-{jax.process_index()}'
    probe.write_text('')
    probe.unlink()
  except files.errors() as error:
    raise files.failure(error, f'cannot write to workdir {workdir}') from None


def write(config: Any, workdir: epath.Path, classes: tuple[str, ...] = ()) -> None:
  """Writes config.json from the first process: config, names of classes, packages' versions, CPUs that XLA may use.

  On a CPU their number decides how XLA splits its sums: with another one the results differ in their last digits.
  """
  if jax.process_index() == 0:
    content = {'config': json.loads(config.to_json_best_effort()), 'classes': list(classes)}
    content |= {'versions': versions(), 'cpus': cpus()}
    files.write(workdir / FILE, (json.dumps(content, indent=2) + '\n').encode())


def read(path: epath.Path) -> dict[str, Any]:
  """The config in a config.json, as nested dicts, with today's names of its fields and what was left open filled in.

  Raises:
    UsageError: if the file is damaged.
  """
  try:
    config = json.loads(path.read_text())['config']
    if not isinstance(config, dict):
      raise ValueError('no config in it')
  except (ValueError, KeyError, TypeError) as error:
    raise UsageError(f'{path} is damaged ({error}); it is written anew once it is gone') from None
  for old, new in RENAMED.items():
    (group, old), (_, new) = old.split('.'), new.split('.')
    if old in config.get(group, {}):
      config[group][new] = config[group].pop(old)
  data, gen = config.get('data', {}), config.get('gen', {})
  if data.get('context') and not gen.get('context_multipliers'):
    gen['context_multipliers'] = list(HALF_WIDTHS.get(data.get('resolution'), ()))
  return config


def settle(config: Any, workdir: epath.Path) -> None:
  """Fills in what a config leaves open, widths and classes, as the run in `workdir` has it, or by default."""
  path = workdir / FILE
  earlier = read(path) if path.exists() and (workdir / 'checkpoints').exists() else {}
  if config.data.context and not config.gen.context_multipliers:
    widths = earlier.get('gen', {}).get('context_multipliers')
    config.gen.context_multipliers = tuple(widths or models.context_multipliers(config))
  if not config.data.num_classes:
    config.data.num_classes = earlier.get('data', {}).get('num_classes', 0)


def saved_versions(workdir: epath.Path) -> dict[str, str]:
  """`versions` when the run in `workdir` was last started; empty where that is not known."""
  path = workdir / FILE
  return json.loads(path.read_text()).get('versions', {}) if path.exists() else {}


def class_names(config: Any, workdir: epath.Path) -> tuple[str, ...]:
  """Names of a run's classes by label; of one from before they were saved their numbers, but of moving_shapes."""
  path = workdir / FILE
  saved = json.loads(path.read_text()).get('classes') if path.exists() else None
  return padded(config, tuple(saved or (shapes.CLASSES if config.data.name == 'moving_shapes' else ())))


def padded(config: Any, names: tuple[str, ...]) -> tuple[str, ...]:
  """A name for each label that the networks know: those of the data set's classes, then numbers; '' for the only one."""
  if not config.data.use_labels:
    return ('',)
  return (*names, *(str(label) for label in range(len(names), models.num_labels(config))))


def number_classes(config: Any, names: tuple[str, ...]) -> None:
  """Makes numbers of the names in `sample.classes`, which may be joined by commas; what is a number stays.

  Raises:
    UsageError: for a name or a number that there is not, with the names that are most like it.
  """
  found: list[int] = []
  for one in config.sample.classes:
    parts = [one] if one in names or not isinstance(one, str) else [part.strip() for part in one.split(',')]
    for part in parts:
      if part in names:
        found.append(names.index(part))
      elif str(part).isdigit() and int(part) < len(names):
        found.append(int(part))
      else:
        near = difflib.get_close_matches(str(part), names) or names[:10]
        raise UsageError(f'sample.classes: there is no class {part} among {len(names)}; there is {", ".join(near)}')
  config.sample.classes = tuple(found)


def statistics_size(workdir: epath.Path) -> tuple[int, int] | None:
  """Of how many batches of how many videos a run's standing statistics are by its config; None where that is missing."""
  path = workdir / FILE
  found = read(path).get('sample', {}) if path.exists() else {}
  size = found.get('statistics_batches'), found.get('statistics_batch_size')
  return size if all(size) else None


def check(config: Any, workdir: epath.Path) -> None:
  """Raises UsageError naming the first field of the model that differs from what `workdir` was trained with."""
  path = workdir / FILE
  if not path.exists():
    return
  earlier = read(path)
  now, before = (json.loads(one.to_json_best_effort()) for one in (config, default.get_config()))
  model = [(group, field) for group in ('gen', 'disc') for field in now[group]]
  model += [('data', field) for field in ('resolution', 'frames', 'context', 'use_labels')]
  model += [('data', 'num_classes')] * config.data.use_labels
  for group, field in model:
    new = now[group][field]
    old = earlier.get(group, {}).get(field, before[group][field])  # a field younger than the run
    if old != new:
      raise UsageError(
        f'{workdir} was trained with {group}.{field}={old}, not {new}: take another workdir, or say '
        '--config.train.allow_config_change=True'
      )


def cpus() -> int:
  """The CPUs that this process may run on."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def versions() -> dict[str, str]:
  """Installed versions of the packages that decide results, and of this code."""
  found = {'dvd-gan': code_version()}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


@functools.cache
def code_version() -> str:
  """This program's version, and its commit where it is known: of a clone, or of what launch/tpu_pod.sh has shipped."""
  root, commit = pathlib.Path(dvd_gan.__file__).resolve().parents[1], ''
  if (root / 'COMMIT').exists():
    commit = (root / 'COMMIT').read_text().strip()[:10]
  elif (root / '.git').exists():
    command = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--exclude=*']
    with contextlib.suppress(OSError):
      commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
  return f'{dvd_gan.__version__} ({commit})' if commit else dvd_gan.__version__
