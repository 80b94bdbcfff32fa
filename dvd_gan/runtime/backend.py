"""Settings that depend on the backend (CPU, GPU or TPU): compiler options and arguments of the train step."""

import functools
import os
from typing import Any

import jax

GRADIENTS_SENT_TOGETHER = 32 << 20  # bytes; a full-width kernel has 37 MB, so most are reduced on their own


def resamples_in_kernel(choice: str, platform: str) -> bool:
  """Whether to fuse a convolution with the average pooling after it or the upsampling before it.

  The result is the same, with 4/9 of the convolution's arithmetic (8/27 in 3-D). This saves time on a CPU
  (results/performance). It has not been measured on other backends, where `mesh.resampling` has to enable it.
  """
  return platform == 'cpu' if choice == 'auto' else choice == 'in_kernel'


def step_options(mesh_config: Any, platform: str = '') -> dict[str, bool]:
  """Backend-dependent arguments of train_step.make_spec, from `config.mesh`; `platform` defaults to this machine's."""
  in_kernel = resamples_in_kernel(mesh_config.resampling, platform or jax.default_backend())
  return {'unroll': mesh_config.loops == 'unroll', 'resample_in_kernel': in_kernel}


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
  """XLA options for every jit with convolutions, by platform ('cpu', 'gpu', 'tpu').

  On a CPU, jaxlib 0.10 passes convolutions to YNNPACK, which runs most of ours on one core: a step takes 1.25 times as
  long. YNNPACK is faster than XLA for reductions and matrix products, so only those use it. The
  memory-optimised scheduler takes a fifth less memory at 0.99 to 1.06 times the time. LLVM's optimisation level 1
  compiles in three quarters of the time, and steps are as fast as at level 3 (all measured in results/performance).
  Options that this jaxlib does not know, or that XLA_FLAGS sets, are omitted.
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
  """XLA options that overlap gradient all-reduces with the backward pass on a TPU; empty on other platforms.

  By default the compiler combines all gradients into a few all-reduces and waits for each. The first option limits how
  much is combined, and the second makes all-reduces asynchronous. The last two let them run inside later fusions.
  """
  if platform != 'tpu':
    return {}
  return {
    'xla_jf_crs_combiner_threshold_in_bytes': str(GRADIENTS_SENT_TOGETHER),
    'xla_enable_async_all_reduce': 'true',
    'xla_tpu_enable_async_collective_fusion': 'true',
    'xla_tpu_enable_async_collective_fusion_fuse_all_reduce': 'true',
  }
