"""config.json: the config of a run, and the checks for resuming it."""

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
# Renamed fields: an old config.json is read with the new names; an old flag is an error that names the new one.
RENAMED = {'data.given': 'data.context', 'gen.given_multipliers': 'gen.context_multipliers'}
# Meaning of an empty gen.context_multipliers in the config.json of earlier runs: half of D's widths.
HALF_WIDTHS = {8: (2,), 16: (1, 2), 32: (1, 2, 4), 64: (1, 2, 4, 8), 128: (1, 1, 2, 4, 8), 256: (1, 1, 2, 4, 4, 8)}
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow', 'tensorflow-cpu', 'tensorflow-datasets',
            'ml_collections', 'clu', 'numpy', 'av', 'pillow')  # fmt: skip


def open_folder(folder: epath.Path, name: str) -> None:
  """Creates a folder. Raises UsageError if it is not writable, RunError if its bucket does not answer."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f'.probe-{jax.process_index()}'
    probe.write_text('')
    probe.unlink()
  except files.errors() as error:
    raise files.failure(
      error, f'cannot write to {name} {folder}; check the path, its permissions and free space'
    ) from None


def write(config: Any, workdir: epath.Path, classes: tuple[str, ...] = ()) -> None:
  """Writes config.json on process 0: config, class names, package versions, number of CPUs that XLA may use.

  The CPU backend splits sums by the number of CPUs, so another number changes the last digits of results.
  """
  if jax.process_index() == 0:
    content = {'config': json.loads(config.to_json_best_effort()), 'classes': list(classes)}
    content |= {'versions': versions(), 'cpus': cpus()}
    files.write(workdir / FILE, (json.dumps(content, indent=2) + '\n').encode())


def read(path: epath.Path) -> dict[str, Any]:
  """Reads the config in a config.json as nested dicts, with current field names and context widths filled in.

  Raises:
    UsageError: if the file is damaged.
  """
  try:
    config = json.loads(path.read_text())['config']
    if not isinstance(config, dict):
      raise ValueError('it has no object "config"')
  except (ValueError, KeyError, TypeError) as error:
    todo = 'delete it and train with --config=configs/FILE.py, which writes it again'
    raise UsageError(f'{path} is damaged ({error}): {todo}') from None
  for old, new in RENAMED.items():
    (group, old), (_, new) = old.split('.'), new.split('.')
    if old in config.get(group, {}):
      config[group][new] = config[group].pop(old)
  data, gen = config.get('data', {}), config.get('gen', {})
  if data.get('context') and not gen.get('context_multipliers'):
    gen['context_multipliers'] = list(HALF_WIDTHS.get(data.get('resolution'), ()))
  return config


def settle(config: Any, workdir: epath.Path) -> None:
  """Fills in context widths and the number of classes from the run in `workdir`; widths also by default."""
  path = workdir / FILE
  earlier = read(path) if path.exists() and (workdir / 'checkpoints').exists() else {}
  if config.data.context and not config.gen.context_multipliers:
    widths = earlier.get('gen', {}).get('context_multipliers')
    config.gen.context_multipliers = tuple(widths or models.context_multipliers(config))
  if not config.data.num_classes:
    config.data.num_classes = earlier.get('data', {}).get('num_classes', 0)


def saved_versions(workdir: epath.Path) -> dict[str, str]:
  """Result of `versions` when the run in `workdir` was last started; empty if unknown."""
  path = workdir / FILE
  return json.loads(path.read_text()).get('versions', {}) if path.exists() else {}


def class_names(config: Any, workdir: epath.Path) -> tuple[str, ...]:
  """Class names of a run, by label. Runs without saved names get numbers, except those on moving_shapes."""
  path = workdir / FILE
  saved = json.loads(path.read_text()).get('classes') if path.exists() else None
  return padded(config, tuple(saved or (shapes.CLASSES if config.data.name == 'moving_shapes' else ())))


def padded(config: Any, names: tuple[str, ...]) -> tuple[str, ...]:
  """One name per label of the networks: class names of the data set, then numbers; ('',) without labels."""
  if not config.data.use_labels:
    return ('',)
  return (*names, *(str(label) for label in range(len(names), models.num_labels(config))))


def number_classes(config: Any, names: tuple[str, ...]) -> None:
  """Replaces class names in `sample.classes` by numbers, in place. An entry may be several names joined by commas.

  Raises:
    UsageError: for an unknown name or number; the message lists similar names.
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
        near = ', '.join(difflib.get_close_matches(str(part), names) or names[:10])
        raise UsageError(f'sample.classes: there is no class {part}; the {len(names)} classes include {near}')
  config.sample.classes = tuple(found)


def statistics_size(workdir: epath.Path) -> tuple[int, int] | None:
  """(number of batches, videos per batch) for standing statistics, from a run's config.json; None if unknown."""
  path = workdir / FILE
  found = read(path).get('sample', {}) if path.exists() else {}
  size = found.get('statistics_batches'), found.get('statistics_batch_size')
  return size if all(size) else None


def check(config: Any, workdir: epath.Path) -> None:
  """Raises UsageError with the first model field that differs from that of the run in `workdir`."""
  path = workdir / FILE
  if not path.exists():
    return
  earlier = read(path)
  now, before = (json.loads(one.to_json_best_effort()) for one in (config, default.get_config()))
  model = [(group, field) for group in ('gen', 'disc') for field in now[group] if field != 'remat']
  model += [('data', field) for field in ('resolution', 'frames', 'context', 'use_labels')]
  model += [('data', 'num_classes')] * config.data.use_labels
  for group, field in model:
    new = now[group][field]
    old = earlier.get(group, {}).get(field, before[group][field])  # the field may be newer than the run
    if old != new:
      raise UsageError(
        f'{workdir} was trained with {group}.{field}={old}, not {new}: use the old value, choose another --workdir, '
        'or set --config.train.allow_config_change=True'
      )


def cpus() -> int:
  """Number of CPUs that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def versions() -> dict[str, str]:
  """Installed versions of the packages that affect results, and of this code."""
  found = {'dvd-gan': code_version()}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


@functools.cache
def code_version() -> str:
  """Version of this program, with its commit in a git clone or in a copy made by launch/tpu_pod.sh."""
  root, commit = pathlib.Path(dvd_gan.__file__).resolve().parents[1], ''
  if (root / 'COMMIT').exists():
    commit = (root / 'COMMIT').read_text().strip()[:10]
  elif (root / '.git').exists():
    command = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--exclude=*']
    with contextlib.suppress(OSError):
      commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
  return f'{dvd_gan.__version__} ({commit})' if commit else dvd_gan.__version__
