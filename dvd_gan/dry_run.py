"""`--mode=dry_run`: compiles a config's real train step for a TPU slice, without one, and says whether it fits.

XLA's TPU compiler (libtpu) runs on any machine; the step is lowered from shapes alone. Times are a roofline: what the
chip's peaks allow for the arithmetic, the memory's traffic (what each instruction reads and writes, hlo.py) and the
network's.
"""

import functools
import json
import math
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from dvd_gan import arithmetic, flops, hlo, memory, overlap, sharding, topology, train_step
from dvd_gan.errors import UsageError

# Not on a TPU, perhaps beside a process that is: ask no metadata server, take no lock, tell no story.
ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}
ADVICE = 'Try more devices, gen.remat=True and disc.remat=True, mesh.shard=8 or more, train.microbatches=2 or more, dtype=bfloat16.'


def dry_run(config: Any, name: str, workdir: epath.Path | None) -> dict[str, Any]:
  """Compiles, prints a table and the result as one JSON line, and leaves it in `dry_run/TOPOLOGY.json`.

  Args:
    config: the whole config; `dry_run.topology` names the slice.
    name: of the config, for the result.
    workdir: where to leave the result; None for nowhere.

  Returns:
    The result, flat. Sizes are per device, in GiB; times in seconds for a step.

  Raises:
    UsageError: if the slice is unknown, the batch does not divide over it, or libtpu is missing.
  """
  jax.config.update('jax_platforms', 'cpu')  # the devices here, if there are any, are left alone
  slice_ = topology.parse(config.dry_run.topology)
  batch, shard = config.train.batch_size, config.mesh.shard
  for field, value, fits in (
    ('train.batch_size', batch, batch % slice_.devices == 0),
    ('mesh.shard', shard, slice_.devices % shard == 0),
  ):
    if not fits:
      raise UsageError(f'{field}={value} does not divide over the {slice_.devices} devices of {slice_.name}')
  if batch // slice_.devices % config.train.microbatches:
    raise UsageError(
      f'train.microbatches={config.train.microbatches} does not divide the {batch // slice_.devices} videos of a device'
    )
  # The estimate needs as many devices as share a copy of the state, and no real ones.
  devices = describe(slice_).devices if config.dry_run.compile else None
  mesh = sharding.make_mesh(shard, devices) if devices else sharding.abstract_mesh(slice_.devices, shard)
  recipe = train_step.make_recipe(
    config, unroll=config.mesh.loops == 'unroll', resample_in_kernel=config.mesh.resampling == 'in_kernel'
  )
  arguments = abstract_arguments(config, mesh, batch)
  step = functools.partial(train_step.train_step, recipe)
  chip = slice_.chip
  # One device's part of the batch: what is done to the weights is done whole on each.
  alone = abstract_arguments(config, mesh, batch // slice_.devices)
  tflop = flops.count(step, *alone) / 1e12
  result = {
    'config': name,
    'topology': slice_.name,
    'devices': slice_.devices,
    'batch': batch,
    'batch_per_device': batch // slice_.devices,
    'dtype': config.dtype,
    'shard': shard,
    'remat': config.gen.remat,
    'microbatches': config.train.microbatches,
    'overlap': config.mesh.overlap,
    'hbm_limit_gib': chip.hbm_gib,
    **{f'{kind}_gib': gib(tree) for kind, tree in state_parts(arguments[0]).items()},
    'tflop_per_device': _short(tflop),
    'compute_s': _short(tflop / chip.tflops),
    'jax': jax.__version__,
  }
  if config.dry_run.compile:
    result |= compiled(train_step.jitted(recipe, mesh, arguments[0]), arguments, slice_, result['compute_s'])
  else:
    result |= estimated(config, arguments[0], slice_, result)
  if workdir is not None:
    folder = workdir / 'dry_run'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{slice_.name.replace(":", "-")}.json').write_text(json.dumps(result, indent=1) + '\n')
  print(table(result, config.train.steps))
  print(json.dumps(result))
  return result


def describe(slice_: topology.Topology) -> Any:
  """The slice's devices, from the TPU compiler."""
  for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  options = {'chip_config_name': 'megacore'} if slice_.kind == 'v4' else {}
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=slice_.name, **options)
  except Exception as error:
    first = str(error).strip().splitlines()[0]
    if 'libtpu' in str(error) or isinstance(error, (ImportError, NotImplementedError)):
      raise UsageError(f"the dry run needs XLA's TPU compiler: pip install -e '.[tpu]' ({first})") from None
    raise UsageError(f'libtpu knows no slice {slice_.name}: {first}') from None


def abstract_arguments(config: Any, mesh: jax.sharding.Mesh, batch_size: int) -> tuple[Any, Any, Any]:
  """The train step's arguments as ShapeDtypeStructs on a mesh."""
  data, shape = config.data, (config.train.d_steps, batch_size)
  whole, rows = sharding.replicated(mesh), sharding.train_batch(mesh)
  state = train_step.state_shapes(config)
  state = sharding.placed(state, sharding.state(mesh, state))
  video = (*shape, data.frames, data.resolution, data.resolution, 3)
  batch = {
    'video': jax.ShapeDtypeStruct(video, jnp.uint8, sharding=rows),
    'label': jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows),
  }
  key = jax.eval_shape(lambda: jax.random.key(0))
  return state, batch, jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)


def state_parts(state: train_step.TrainState) -> dict[str, Any]:
  """The state by kind."""
  nets = (state.gen, state.disc)
  return {
    'parameters': [net.params for net in nets],
    'optimizer': [net.opt_state for net in nets],
    'ema': state.ema_params,
    'spectral': [net.spectral for net in nets],
  }


def gib(tree: Any) -> float:
  """What a device holds of a tree."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    total += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
  return _short(total / memory.GIB)


def compiled(step: Any, arguments: Any, slice_: topology.Topology, compute_s: float) -> dict[str, Any]:
  """What the compiler says of a step: memory, traffic, collectives; that it does not fit is a result."""
  chip = slice_.chip
  lowered = step.lower(*arguments)
  try:
    program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    match = re.search(r'([\d.]+)([GM]).{0,40}exceeds .{0,60}?([\d.]+)G', str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or not match:
      raise
    needed = float(match[1]) / (1 if match[2] == 'G' else 1024)
    level = jax.config.jax_optimization_level
    return {'optimization': level, 'fits': False, 'hbm_used_gib': _short(needed), 'roofline_s': None}
  account = program.memory_analysis()
  used = account.argument_size_in_bytes + account.output_size_in_bytes - account.alias_size_in_bytes
  used += account.temp_size_in_bytes + account.generated_code_size_in_bytes
  text = program.as_text()
  moved, computed = hlo.traffic(text), arithmetic.count(text)
  cost = program.cost_analysis()
  reduced = sum(row['bytes'] for row in moved.collectives.values())
  # Below the compiler's own level on-chip memory stays unused: such traffic is not the real program's.
  traffic_known = jax.config.jax_optimization_level not in ('O0', 'O1')
  hbm_s = moved.bytes / chip.hbm_gbps / 1e9 if traffic_known else None
  ici_s = over_network(reduced, slice_)
  # Communication that no arithmetic hides comes on top of the rest.
  exposed_s = overlap.exposed(text, chip.tflops * 1e12, functools.partial(over_network, slice_=slice_))
  roofline = max(compute_s, hbm_s or 0) + exposed_s
  return {
    'optimization': jax.config.jax_optimization_level,  # UNKNOWN: the compiler's default
    'fits': used <= chip.hbm_gib * memory.GIB,
    'hbm_used_gib': _short(used / memory.GIB),
    'temporaries_gib': _short(account.temp_size_in_bytes / memory.GIB),
    'program_tflop_per_device': _short(computed.flop / 1e12),  # beside tflop_per_device, the mathematics
    'padded_tflop_per_device': _short(computed.padded / 1e12),
    'xla_tflop_per_device': _short(cost['flops'] / 1e12),  # loop bodies counted once
    'hbm_gb': _short(moved.bytes / 1e9) if traffic_known else None,
    'collectives': ' '.join(sorted(moved.collectives)),
    **{f'{kind}_count': round(row['count']) for kind, row in moved.collectives.items()},
    **{f'{kind}_gb': _short(row['bytes'] / 1e9) for kind, row in moved.collectives.items()},
    **{f'{kind}_dtypes': ' '.join(sorted(dtypes)) for kind, dtypes in moved.dtypes.items()},
    'hbm_s': _short(hbm_s) if traffic_known else None,
    'ici_s': _short(ici_s),
    'ici_exposed_s': _short(exposed_s),
    'roofline_s': _short(roofline),
  }


def estimated(config: Any, state: Any, slice_: topology.Topology, result: dict[str, Any]) -> dict[str, Any]:
  """What can be said without compiling: memory by memory.py, the gradients' way over the network."""
  temporaries = memory.temporaries(config, result['batch_per_device'])
  used = sum(result[f'{kind}_gib'] for kind in state_parts(state)) + temporaries
  reduced = config.train.microbatches * gradient_bytes(config, state)
  ici_s = over_network(reduced, slice_)
  return {
    'optimization': 'ESTIMATE',
    'fits': used <= slice_.chip.hbm_gib,
    'hbm_used_gib': _short(used),
    'temporaries_gib': _short(temporaries),
    'hbm_gb': None,
    'collectives': 'all-reduce',
    'all-reduce_gb': _short(reduced / 1e9),
    'hbm_s': None,
    'ici_s': _short(ici_s),
    'ici_exposed_s': _short(ici_s),
    'roofline_s': _short(result['compute_s'] + ici_s),
  }


def gradient_bytes(config: Any, state: Any) -> int:
  """Bytes of the gradients, float32, of one G update and the D updates before it."""
  gen, disc = (sum(leaf.size * 4 for leaf in jax.tree.leaves(net.params)) for net in (state.gen, state.disc))
  return gen + config.train.d_steps * disc


def over_network(reduced: float, slice_: topology.Topology) -> float:
  """Seconds of an all-reduce of so many bytes on every device, at the links' peak."""
  return 2 * (slice_.devices - 1) / slice_.devices * reduced / slice_.chip.ici_gbps / 1e9


def _short(value: float) -> float:
  """Four digits: enough of a measured figure."""
  return float(f'{value:.4g}')


def table(result: dict[str, Any], steps: int) -> str:
  """The result for people."""
  lines = [
    f'{result["config"]} on {result["topology"]}: {result["devices"]} devices, batch {result["batch"]} '
    f'({result["batch_per_device"]} each), {result["dtype"]}, shard {result["shard"]}',
  ]
  parts = ('parameters', 'optimizer', 'ema', 'spectral', 'temporaries')
  sizes = [f'{part} {result[f"{part}_gib"]:.2f}' for part in parts if f'{part}_gib' in result]
  lines.append(f'HBM per device, GiB: {", ".join(sizes)}')
  used, limit = result['hbm_used_gib'], result['hbm_limit_gib']
  how = ' (an estimate)' if result['optimization'] == 'ESTIMATE' else ''
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
    program, padded, needed = (result[f'{kind}tflop_per_device'] for kind in ('program_', 'padded_', ''))
    lines.append(
      f'the compiled program does {program / needed:.2f} times that arithmetic; its matrix units, filled up to whole '
      f'rows, {padded / needed:.2f} times'
    )
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
