"""Compiles the train step for a TPU slice with XLA's TPU compiler (libtpu), and analyses the compiled program.

The compiler runs on any machine; the step is lowered from shapes only.
"""

import os
import re
from typing import Any

import jax
import jax.numpy as jnp

from dvd_gan import sharding, train_step
from dvd_gan.dry_run import arithmetic, hlo, overlap, tpu
from dvd_gan.runtime import backend
from dvd_gan.runtime.errors import UsageError

GIB = 2**30
# libtpu must not query the metadata server, lock the TPU or log: this machine may have no TPU, or another process may
# be using it.
ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}


def leave_devices_alone() -> None:
  """Restricts JAX to the CPU and disables the compilation cache, which cannot load programs for a TPU topology."""
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_enable_compilation_cache', False)


def abstract_arguments(config: Any, mesh: jax.sharding.Mesh, batch_size: int) -> tuple[Any, Any, Any]:
  """The train step's arguments as ShapeDtypeStructs on a mesh."""
  data, shape = config.data, (config.train.d_steps, batch_size)
  everywhere, rows = sharding.replicated(mesh), sharding.train_batch(mesh)
  state = train_step.state_shapes(config)
  state = sharding.placed(state, sharding.state(mesh, state))
  video = (*shape, data.frames, data.resolution, data.resolution, 3)
  batch = {
    'video': jax.ShapeDtypeStruct(video, jnp.uint8, sharding=rows),
    'label': jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows),
  }
  key = jax.eval_shape(lambda: jax.random.key(0))
  return state, batch, jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)


def make_spec(config: Any) -> train_step.StepSpec:
  """The step's static arguments for a TPU."""
  return train_step.make_spec(config, **backend.step_options(config.mesh, 'tpu'))


def describe(slice_: tpu.Topology) -> Any:
  """The slice's topology description, from the TPU compiler; raises UsageError if libtpu or the slice is missing."""
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


def account(config: Any, slice_: tpu.Topology, compute_s: float) -> dict[str, Any]:
  """Memory, traffic and collectives of the compiled train step; a step that does not fit also gives a result.

  Args:
    config: the whole config.
    slice_: the slice to compile for.
    compute_s: seconds of the arithmetic at the chip's peak.

  Raises:
    UsageError: see `describe`.
  """
  leave_devices_alone()
  chip = slice_.chip
  mesh = sharding.make_mesh(config.mesh.shard, describe(slice_).devices)
  arguments = abstract_arguments(config, mesh, config.train.batch_size)
  lowered = train_step.jitted(make_spec(config), mesh, arguments[0]).lower(*arguments)
  try:
    program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    match = re.search(r'([\d.]+)([GM]).{0,40}exceeds .{0,60}?([\d.]+)G', str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or not match:
      raise
    needed = float(match[1]) / (1 if match[2] == 'G' else 1024)
    level = jax.config.jax_optimization_level
    return {'optimization': level, 'fits': False, 'hbm_used_gib': short(needed), 'roofline_s': None}
  memory = program.memory_analysis()
  used = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  used += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
  text = program.as_text()
  moved, computed = hlo.traffic(text), arithmetic.count(text)
  cost = program.cost_analysis()
  reduced = sum(row['bytes'] for row in moved.collectives.values())
  # At O0 and O1 the compiler does not use on-chip memory, so the traffic differs from that of the real program.
  traffic_known = jax.config.jax_optimization_level not in ('O0', 'O1')
  hbm_s = moved.bytes / chip.hbm_gbps / 1e9 if traffic_known else None
  ici_s = slice_.all_reduce_seconds(reduced)
  # Communication that arithmetic does not hide adds to the step time.
  exposed_s = overlap.exposed(text, chip.tflops * 1e12, slice_.all_reduce_seconds)
  roofline = max(compute_s, hbm_s or 0) + exposed_s
  return {
    'optimization': jax.config.jax_optimization_level,  # UNKNOWN: the compiler's default
    'fits': used <= chip.hbm_gib * GIB,
    'hbm_used_gib': short(used / GIB),
    'temporaries_gib': short(memory.temp_size_in_bytes / GIB),
    'program_tflop_per_device': short(computed / 1e12),  # tflop_per_device counts the JAX function instead
    'xla_tflop_per_device': short(cost['flops'] / 1e12),  # loop bodies counted once
    'hbm_gb': short(moved.bytes / 1e9) if traffic_known else None,
    'collectives': ' '.join(sorted(moved.collectives)),
    **{f'{kind}_count': round(row['count']) for kind, row in moved.collectives.items()},
    **{f'{kind}_gb': short(row['bytes'] / 1e9) for kind, row in moved.collectives.items()},
    **{f'{kind}_dtypes': ' '.join(sorted(dtypes)) for kind, dtypes in moved.dtypes.items()},
    'hbm_s': short(hbm_s) if traffic_known else None,
    'ici_s': short(ici_s),
    'ici_exposed_s': short(exposed_s),
    'roofline_s': short(roofline),
  }


def short(value: float) -> float:
  """Rounds to four significant digits."""
  return float(f'{value:.4g}')
