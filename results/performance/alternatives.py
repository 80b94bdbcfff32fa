"""Times the train step and variants of it alternately in one process.

python results/performance/alternatives.py [--size=SIZE] [--rounds=3] [--repeats=3] [--only=0,1] [--out=FILE.json]

Compiles each of VARIANTS for the same random state and batch, times their steps alternately and prints a table: median
step, its ratio to the first variant's, share of the rate of a matrix product measured in the same run, temporary memory
and compile time. Sizes are those of `python -m dvd_gan.benchmark`.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dvd_gan import benchmark, train_step  # noqa: E402
from dvd_gan.models.ops import convolution, resampling  # noqa: E402
from dvd_gan.runtime import backend  # noqa: E402
from results.scripts import measured  # noqa: E402


@contextlib.contextmanager
def other_platforms_forms() -> Iterator[None]:
  """The operations that GPUs and TPUs get, instead of a CPU's: see `platform_dependent` in dvd_gan/models/ops."""

  def default_only(*args: Any, default: Callable[..., Any], **_: Any) -> Any:
    return default(*args)

  with mock.patch.object(jax.lax, 'platform_dependent', default_only):
    yield


@contextlib.contextmanager
def no_options() -> Iterator[None]:
  """jaxlib's defaults for all of XLA's options."""
  with mock.patch.object(backend, 'compiler_options', lambda platform: {}):
    yield


@contextlib.contextmanager
def without(option: str) -> Iterator[None]:
  """jaxlib's default for one of XLA's options."""
  ours = backend.compiler_options

  def others(platform: str) -> dict[str, str]:
    return {name: value for name, value in ours(platform).items() if name != option}

  with mock.patch.object(backend, 'compiler_options', others):
    yield


@contextlib.contextmanager
def neither() -> Iterator[None]:
  with other_platforms_forms(), no_options():
    yield


@contextlib.contextmanager
def separate_passes() -> Iterator[None]:
  """The discriminators process real and fake videos in two passes instead of one."""
  fused = train_step.disc_loss

  class Twice:
    def __init__(self, disc: Any):
      self._disc = disc

    def apply(self, variables: Any, *inputs: Any) -> Any:
      real, fake = (self._disc.apply(variables, *(part[i::2] for part in inputs)) for i in range(2))
      return jax.tree.map(train_step.interleave, real, fake)

  def disc_loss(spec: train_step.StepSpec, *rest: Any) -> Any:
    return fused(spec._replace(disc=Twice(spec.disc)), *rest)

  with mock.patch.object(train_step, 'disc_loss', disc_loss):
    yield


@contextlib.contextmanager
def upsampling_apart() -> Iterator[None]:
  """G upsamples before its convolutions; D's average pooling stays in the kernels."""
  with mock.patch.object(resampling, 'SMALLEST_UPSAMPLED_IN_KERNEL', float('inf')):
    yield


@contextlib.contextmanager
def fused_transposes() -> Iterator[None]:
  """XLA may fuse transposes with the operations before them."""
  with (
    mock.patch.object(convolution, 'transpose_apart', jax.numpy.transpose),
    mock.patch.object(resampling, 'transpose_apart', jax.numpy.transpose),
  ):
    yield


@contextlib.contextmanager
def few_channels_as_others() -> Iterator[None]:
  """Convolutions with few input channels are computed like the rest."""
  with mock.patch.object(convolution, 'NARROW', 0):
    yield


@contextlib.contextmanager
def rgb_as_others() -> Iterator[None]:
  """Convolutions to RGB are computed like the rest."""
  with mock.patch.object(convolution, 'FEW', 0):
    yield


# name: (config fields, context manager to trace and compile in)
VARIANTS = {
  'as it is': ({}, contextlib.nullcontext),
  "jaxlib's default kernels": ({}, no_options),
  "the other platforms' forms": ({}, other_platforms_forms),
  'both of these: the step before': ({}, neither),
  'D steps unrolled': ({'mesh.loops': 'unroll'}, contextlib.nullcontext),
  'bfloat16': ({'dtype': 'bfloat16'}, contextlib.nullcontext),
  'remat': ({'gen.remat': True, 'disc.remat': True}, contextlib.nullcontext),
  'real and fake in a pass each': ({}, separate_passes),
  'resampling apart': ({'mesh.resampling': 'apart'}, contextlib.nullcontext),
  'resampling in the kernels': ({'mesh.resampling': 'in_kernel'}, contextlib.nullcontext),
  'upsampling apart, pools in the kernels': ({}, upsampling_apart),
  'convolutions to RGB as the others': ({}, rgb_as_others),
  "jaxlib's default schedule": ({}, lambda: without('xla_cpu_scheduler_type')),
  "LLVM's default level of optimisation": ({}, lambda: without('xla_backend_optimization_level')),
  'transposes in fusions': ({}, fused_transposes),
  'convolutions of few channels as the others': ({}, few_channels_as_others),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--size', choices=sorted(benchmark.SIZES), default='smoke')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--repeats', type=int, default=3, help='steps in each round')
  parser.add_argument('--only', default=','.join(map(str, range(len(VARIANTS)))), help='numbers of variants, from 0')
  parser.add_argument('--out', type=pathlib.Path, help='write the rows there as JSON too')
  args = parser.parse_args()
  names = [list(VARIANTS)[int(i)] for i in args.only.split(',')]
  steps = {}
  for name in names:
    fields, undone = VARIANTS[name]
    config = benchmark.SIZES[args.size]()
    config.update_from_flattened_dict(fields)
    with undone():
      steps[name] = benchmark.Step(config)
  dtype = benchmark.SIZES[args.size]().dtype
  rates = [benchmark.matmul_rate(dtype)]
  seconds = {name: [] for name in names}
  for _ in range(args.rounds):
    for name, step in steps.items():
      seconds[name] += step.seconds(args.repeats)
    rates.append(benchmark.matmul_rate(dtype))
  rate, first = statistics.median(rates), statistics.median(seconds[names[0]])
  print(f'{args.size}: {steps[names[0]].flop / 1e9:.1f} GFLOP a step; matrix product {rate / 1e9:.0f} GFLOP/s')
  print(
    '| variant | step, s: median (range) | times the first | share of matmul rate | temporaries, GiB | compile, s |'
  )
  print('|---|---|---|---|---|---|')
  rows = []
  for name, step in steps.items():
    found = seconds[name]
    median = statistics.median(found)
    cells = [f'{median:.3f} ({min(found):.3f} to {max(found):.3f})', f'{median / first:.2f}']
    cells += [f'{step.flop / median / rate:.0%}', f'{step.temporary_gib:.2f}', f'{step.compile_s:.0f}']
    print(f'| {name} | {" | ".join(cells)} |')
    rows.append({'variant': name, 'size': args.size, 'step_s': found, 'times_the_first': median / first})
    rows[-1] |= {
      'gflop': step.flop / 1e9,
      'matmul_gflops': rate / 1e9,
      'share_of_matmul_rate': step.flop / median / rate,
    }
    rows[-1] |= {'temporary_gib': step.temporary_gib, 'compile_s': step.compile_s, 'jax': jax.__version__}
  if args.out:
    measured.save(args.out, rows)


if __name__ == '__main__':
  main()
