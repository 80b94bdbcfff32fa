"""Messages of a training run before its first step: machine, networks, data, batch, disk, compilation."""

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from dvd_gan.runtime import files, progress, run_config

COMPILED = 'dvd_gan_compile_seconds.json'  # kept in JAX's compilation cache, whose content determines these times


def announce(config: Any, workdir: epath.Path, mesh: jax.sharding.Mesh, state: Any, source: Any) -> None:
  """Prints a summary of the run in a few lines.

  Args:
    config: the run's config.
    workdir: the run's workdir.
    mesh: all devices.
    state: the TrainState.
    source: the open data set, see `sources.open_source`.
  """
  data, train, devices = config.data, config.train, mesh.devices.flat
  hosts = f' on {jax.process_count()} hosts' if jax.process_count() > 1 else ''
  cores = f', {run_config.cpus()} cores' if devices[0].platform == 'cpu' else ''
  sizes = ', '.join(f'{name} {_millions(net)}' for name, net in networks(state).items())
  classes = f', {len(source.classes)} classes' if source.classes and data.use_labels else ''
  each = f', {train.batch_size // len(devices)} on each device' if len(devices) > 1 else ''
  progress.say(f'devices     {len(devices)} x {devices[0].device_kind}{hosts}{cores}')
  progress.say(f'parameters  {sizes}')
  progress.say(f'data        {data.name}, {data.split}: {len(source.lengths):,} clips{classes}')
  progress.say(f'batch       {train.batch_size} videos{each}; {train.d_steps} D steps on new batches, then 1 G step')
  if not files.is_remote(workdir):
    progress.say(f'disk        {_disk(config, workdir, state)}')


def networks(state: Any) -> dict[str, Any]:
  """The parameters of a TrainState by network: G, D_S, D_T."""
  return {'G': state.gen.params} | {f'D_{name[0].upper()}': net for name, net in state.disc.params.items()}


def _millions(params: Any) -> str:
  return f'{sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6:.2f} M'


def _disk(config: Any, workdir: epath.Path, state: Any) -> str:
  """Compares free disk space with the size of the checkpoints still to be written."""
  train = config.train
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  saved = math.ceil(train.steps / train.checkpoint_every)
  kept = train.keep_checkpoints + train.keep_best if train.keep_checkpoints else saved
  kept += train.steps // train.keep_every if train.keep_every else 0
  most = min(kept, saved) + 1  # plus the one being written
  most = max(most - len(list((workdir / 'checkpoints').glob('[0-9]*'))), 1)  # minus the existing ones
  free = shutil.disk_usage(workdir).free
  words = f'{_bytes(free)} free; up to {most} more checkpoints of {_bytes(size)}'
  return words + ('' if most * size < free else ': WARNING, they do not fit; free space or set train.keep_checkpoints')


def _bytes(size: float) -> str:
  return f'{size / 1e9:.1f} GB' if size > 1e9 else f'{size / 1e6:.0f} MB'


@contextlib.contextmanager
def compiling(config: Any, mesh: jax.sharding.Mesh) -> Iterator[None]:
  """Context manager for compiling the train step; shows the elapsed time and the duration of the last compilation."""
  folder = jax.config.jax_compilation_cache_dir
  path = epath.Path(folder) / COMPILED if folder else None
  device = mesh.devices.flat[0]
  what = [jax.__version__, device.device_kind, mesh.devices.shape, jax.process_count(), run_config.cpus()]
  what += [config[group].to_dict() for group in ('gen', 'disc', 'mesh')]
  what += [config.dtype, *(config.data[name] for name in ('resolution', 'frames', 'context', 'num_classes'))]
  what += [config.train[name] for name in ('batch_size', 'microbatches', 'd_steps', 'augment', 'lecam', 'truth_weight')]
  key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
  known = _read(path)
  before = f' ({known[key]:.0f} s last time)' if key in known else ''
  start = time.monotonic()
  with progress.clock(f'compiling the train step{before}'), _without_alarms():
    yield
  if path is None or jax.process_index():
    return
  with contextlib.suppress(*files.errors()):  # the cache may not be writable
    files.write(path, json.dumps(_read(path) | {key: round(time.monotonic() - start, 1)}).encode())


def _read(path: epath.Path | None) -> dict[str, float]:
  try:
    return json.loads(path.read_text()) if path else {}
  except (ValueError, *files.errors()):
    return {}


@contextlib.contextmanager
def _without_alarms() -> Iterator[None]:
  """Suppresses XLA's message 'Very slow compile? If you want to file a bug ...', which it logs as an error."""
  before = jax.config.jax_logging_level
  if before not in (None, 'NOTSET') or os.environ.get('TF_CPP_MIN_LOG_LEVEL') == '0':  # the user has set a level
    yield
    return
  jax.config.update('jax_logging_level', 'CRITICAL')
  try:
    yield
  finally:
    jax.config.update('jax_logging_level', 'WARNING')  # JAX's default for XLA; restoring `before` does not reset it
    jax.config.update('jax_logging_level', before)
