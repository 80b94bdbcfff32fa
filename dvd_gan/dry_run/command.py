"""`--mode=dry_run`: compiles a config's real train step for a TPU slice, without a TPU, and reports whether it fits.

Times are a roofline: arithmetic, memory traffic (the bytes that each instruction reads and writes, hlo.py) and
communication at the chip's peak rates.
"""

import contextlib
import functools
import importlib.metadata
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import pebble
from etils import epath

from dvd_gan import flops, sharding, train_step
from dvd_gan.dry_run import compile, memory, tpu
from dvd_gan.dry_run.compile import short
from dvd_gan.runtime import validation
from dvd_gan.runtime.errors import RunError, UsageError

ADVICE = 'Try more devices, gen.remat=True and disc.remat=True, mesh.shard=8 or more, train.microbatches=2 or more, dtype=bfloat16.'


def dry_run(config: Any, name: str, workdir: epath.Path | None) -> dict[str, Any]:
  """Compiles the step, prints a table and the result as a line of JSON, and writes `dry_run/TOPOLOGY.json`.

  Args:
    config: the whole config; `dry_run.topology` names the slice.
    name: of the config, for the result.
    workdir: folder for the result file; None writes no file.

  Returns:
    The result, a flat dict. Sizes are in GiB per device; times are in seconds per step.

  Raises:
    UsageError: if the slice is unknown, if the batch does not divide over it, or if libtpu is missing.
    RunError: if the compiler's process ends early.
  """
  compile.leave_devices_alone()
  slice_ = tpu.parse(config.dry_run.topology)
  batch, shard = config.train.batch_size, config.mesh.shard
  each = batch // slice_.devices
  validation.validate_batch(config, slice_.devices)
  mesh = sharding.abstract_mesh(slice_.devices, shard)
  arguments = compile.abstract_arguments(config, mesh, batch)
  step = functools.partial(train_step.train_step, compile.make_spec(config))
  chip = slice_.chip
  # Only the batch is divided: every device repeats the computations on the weights.
  one_device = compile.abstract_arguments(config, mesh, each)
  tflop = flops.count(step, *one_device) / 1e12
  result = {
    'config': name,
    'topology': slice_.name,
    'devices': slice_.devices,
    'batch': batch,
    'batch_per_device': each,
    'dtype': config.dtype,
    'shard': shard,
    'remat': config.gen.remat,
    'microbatches': config.train.microbatches,
    'overlap': config.mesh.overlap,
    'hbm_limit_gib': chip.hbm_gib,
    **{f'{kind}_gib': gib(tree) for kind, tree in state_parts(arguments[0]).items()},
    'tflop_per_device': short(tflop),
    'compute_s': short(tflop / chip.tflops),
    'jax': jax.__version__,
  }
  if config.dry_run.compile:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # nightly builds have another name
      result['libtpu'] = importlib.metadata.version('libtpu')
    result |= in_child(compile.account, config, slice_, result['compute_s'])
  else:
    result |= estimated(config, arguments[0], slice_, result)
  if workdir is not None:
    folder = workdir / 'dry_run'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{slice_.name.replace(":", "-")}.json').write_text(json.dumps(result, indent=1) + '\n')
  print(table(result, config.train.steps))
  print(json.dumps(result))
  if result['fits'] is None:
    raise RunError(f'the compiler for {slice_.name} {result["aborted"]}')
  return result


def in_child(fn: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
  """Calls `fn` in a child process: libtpu aborts its process if it cannot compile a program."""
  with pebble.ProcessPool(1, context=multiprocessing.get_context('spawn')) as pool:
    try:
      return pool.schedule(_watched, args=(fn, *args)).result()
    except KeyboardInterrupt:
      pool.stop()  # do not wait for the compilation, which can take many minutes
      raise
    except pebble.ProcessExpired as error:
      code = error.exitcode
      how = f'was ended by {signal.Signals(-code).name}' if code < 0 else f'ended with exit code {code}'
      return {'optimization': None, 'fits': None, 'hbm_used_gib': None, 'roofline_s': None, 'aborted': how}


def _watched(fn: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
  """Calls `fn`; exits this process when its parent exits."""

  def watch() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
  return fn(*args)


def state_parts(state: train_step.TrainState) -> dict[str, Any]:
  """The arrays of the state, by kind."""
  nets = (state.gen, state.disc)
  return {
    'parameters': [net.params for net in nets],
    'optimizer': [net.opt_state for net in nets],
    'ema': state.ema_params,
    'spectral': [net.spectral for net in nets],
  }


def gib(tree: Any) -> float:
  """GiB of a tree's shards on one device."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    total += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
  return short(total / compile.GIB)


def estimated(config: Any, state: Any, slice_: tpu.Topology, result: dict[str, Any]) -> dict[str, Any]:
  """Estimates memory (memory.py) and the time of the gradients' all-reduce, without compiling."""
  if config.train.microbatches > 1:
    raise UsageError('dry_run.compile=False cannot estimate the memory of microbatches (train.microbatches)')
  temporaries = memory.temporaries(config, result['batch_per_device'])
  used = sum(result[f'{kind}_gib'] for kind in state_parts(state)) + temporaries
  reduced = gradient_bytes(config, state)
  ici_s = slice_.all_reduce_seconds(reduced)
  return {
    'optimization': 'ESTIMATE',
    'fits': used <= slice_.chip.hbm_gib,
    'hbm_used_gib': short(used),
    'temporaries_gib': short(temporaries),
    'hbm_gb': None,
    'collectives': 'all-reduce',
    'all-reduce_gb': short(reduced / 1e9),
    'hbm_s': None,
    'ici_s': short(ici_s),
    'ici_exposed_s': short(ici_s),
    'roofline_s': short(result['compute_s'] + ici_s),
  }


def gradient_bytes(config: Any, state: Any) -> int:
  """Bytes of the float32 gradients of one step: one G update and `train.d_steps` D updates."""
  gen, disc = (sum(leaf.size * 4 for leaf in jax.tree.leaves(net.params)) for net in (state.gen, state.disc))
  return gen + config.train.d_steps * disc


def table(result: dict[str, Any], steps: int) -> str:
  """Formats the result as text."""
  lines = [
    f'{result["config"]} on {result["topology"]}: {result["devices"]} devices, batch {result["batch"]} '
    f'({result["batch_per_device"]} each), {result["dtype"]}, shard {result["shard"]}',
  ]
  parts = ('parameters', 'optimizer', 'ema', 'spectral', 'temporaries')
  sizes = [f'{part} {result[f"{part}_gib"]:.2f}' for part in parts if f'{part}_gib' in result]
  lines.append(f'HBM per device, GiB: {", ".join(sizes)}')
  used, limit = result['hbm_used_gib'], result['hbm_limit_gib']
  how = ' (an estimate)' if result['optimization'] == 'ESTIMATE' else ''
  if result['fits'] is None:
    return '\n'.join([*lines, f'NOT COMPILED: the compiler {result["aborted"]}'])
  if not result['fits']:
    lines.append(f'DOES NOT FIT{how}: needs {used:.2f} of {limit:.2f} GiB, {used - limit:.2f} too much. {ADVICE}')
    return '\n'.join(lines)
  lines.append(f'fits: {used:.2f} of {limit:.2f} GiB{how}')
  gigabytes, hbm_s = (
    'unknown' if value is None else f'{value:.{digits}f}'
    for value, digits in ((result['hbm_gb'], 0), (result['hbm_s'], 3))
  )
  lines.append(
    f'{result["tflop_per_device"]:.1f} TFLOP and {gigabytes} GB per device and step; '
    + ', '.join(f'{kind} {result[f"{kind}_gb"]:.2f} GB' for kind in result['collectives'].split())
  )
  if 'program_tflop_per_device' in result:
    times = result['program_tflop_per_device'] / result['tflop_per_device']
    lines.append(f'the compiled program does {times:.2f} times that arithmetic')
  roofline = result['roofline_s']
  lines.append(
    f'roofline of a step: {roofline:.3f} s (compute {result["compute_s"]:.3f}, memory {hbm_s}, '
    f'network {result["ici_s"]:.3f}, of it hidden {result["ici_s"] - result["ici_exposed_s"]:.3f})'
  )
  for share in (0.6, 0.4):
    hours = steps * roofline / share / 3600
    lines.append(
      f'{steps} steps at {share:.0%} of that: {hours:.0f} hours, {hours * result["devices"]:.0f} device-hours'
    )
  return '\n'.join(lines)
