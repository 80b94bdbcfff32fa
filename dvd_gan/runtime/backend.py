"""What depends on the backend (CPU, GPU or TPU): the compiler's options, and how a train step is computed."""

import functools
import os
from typing import Any

import jax

GRADIENTS_SENT_TOGETHER = 32 << 20  # bytes; a full-width kernel is 37 MB, so most are sent on their own


def resamples_in_kernel(choice: str, platform: str) -> bool:
  """Whether a convolution and the average after it, or the upsampling before it, are computed as one.

  The same numbers from 4/9 of that convolution's arithmetic (8/27 where it is 3-D). On a CPU this saves time
  (results/performance); on other backends it has not been measured, so it has to be asked for (`mesh.resampling`).
  """
  return platform == 'cpu' if choice == 'auto' else choice == 'in_kernel'


def step_options(mesh_config: Any, platform: str = '') -> dict[str, bool]:
  """Backend-dependent arguments of train_step.make_spec, from `config.mesh`; the backend is this machine's by default."""
  in_kernel = resamples_in_kernel(mesh_config.resampling, platform or jax.default_backend())
  return {'unroll': mesh_config.loops == 'unroll', 'resample_in_kernel': in_kernel}


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
  """XLA's options for every jit of a program with convolutions, by platform ('cpu', 'gpu', 'tpu').

  On a CPU jaxlib 0.10 hands convolutions to YNNPACK, which runs most of ours on one core, half as fast as XLA's own
  kernels on two; YNNPACK's reductions and matrix products are faster than XLA's. The schedule that frees memory early
  takes a quarter less memory at 0.98 to 1.04 times the time. LLVM's first level of optimisation compiles in three
  quarters of the time, to steps as fast as at its third level (all: results/performance). Options that this jaxlib does
  not know, or that XLA_FLAGS sets, are left out.
  """
  if platform != 'cpu':
    return {}
  kinds = ('REDUCE', 'INDIVIDUAL_DOT')
  options = {
    'xla_cpu_experimental_ynn_fusion_type': ','.join(f'LIBRARY_FUSION_TYPE_{kind}' for kind in kinds),
    'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
    'xla_backend_optimization_level': '1',
  }
  flags = {flag.lstrip('-').partition('=')[0] for flag in os.environ.get('XLA_FLAGS', '').split()}
  return {name: value for name, value in options.items() if name not in flags and _is_known({name: value})}


def _is_known(option: dict[str, str]) -> bool:
  try:
    jax.jit(lambda: 0, compiler_options=option).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True


def overlap_options(platform: str) -> dict[str, str]:
  """XLA's options with which a TPU sends finished gradients while it computes the next ones; elsewhere none.

  Without them the compiler joins all gradients into a few all-reduces and waits for each. The first two limit how much
  is joined and let an all-reduce be split in time; the others let it run inside the fusions that follow it.
  """
  if platform != 'tpu':
    return {}
  return {
    'xla_jf_crs_combiner_threshold_in_bytes': str(GRADIENTS_SENT_TOGETHER),
    'xla_enable_async_all_reduce': 'true',
    'xla_tpu_enable_async_collective_fusion': 'true',
    'xla_tpu_enable_async_collective_fusion_fuse_all_reduce': 'true',
  }
