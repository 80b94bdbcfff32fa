"""Compiles the TPU train step and variants of it; prints the compiler's figures.

python results/performance/tpu_alternatives.py [--topology=v5e:16x16] [--ch=16] [--only=0,5] [--out=FILE.json]

64x64, 12 frames, two videos a device, compiled without a TPU, as in `--mode=dry_run`. Brackets contain the ratio to the
first row. JAX_OPTIMIZATION_LEVEL=O1 compiles in a third of the time, but without the memory traffic.
"""

import argparse
import contextlib
import io
import pathlib
import sys
import time
from unittest import mock

import jax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from alternatives import separate_passes  # noqa: E402

from dvd_gan.configs import kinetics600_64x12  # noqa: E402
from dvd_gan.dry_run import command, tpu  # noqa: E402
from results.scripts import measured  # noqa: E402

# name: (config fields, context manager to trace in)
VARIANTS = {
  'as it is': ({}, contextlib.nullcontext),
  'D steps unrolled': ({'mesh.loops': 'unroll'}, contextlib.nullcontext),
  'float32': ({'dtype': 'float32'}, contextlib.nullcontext),
  'remat': ({'gen.remat': True, 'disc.remat': True}, contextlib.nullcontext),
  'real and fake in a pass each': ({}, separate_passes),
  'resampling in the kernels': ({'mesh.resampling': 'in_kernel'}, contextlib.nullcontext),
}
COLUMNS = {  # key of the dry run's result -> heading
  'program_tflop_per_device': 'TFLOP of the program',
  'temporaries_gib': 'temporaries, GiB',
  'hbm_gb': 'memory traffic, GB',
  'all-reduce_gb': 'all-reduce, GB',
  'compile_s': 'trace and compile, s',
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--topology', default='v5e:16x16')
  parser.add_argument('--ch', type=int, default=16, help='base width of both networks')
  parser.add_argument('--only', default=','.join(map(str, range(len(VARIANTS)))), help='numbers of variants, from 0')
  parser.add_argument('--out', type=pathlib.Path, help='JSON file')
  args = parser.parse_args()
  jax.config.update('jax_enable_compilation_cache', False)
  print(f'| variant | {" | ".join(COLUMNS.values())} |')
  print(f'|{"---|" * (len(COLUMNS) + 1)}')
  rows = []
  for name, (fields, undone) in [list(VARIANTS.items())[int(i)] for i in args.only.split(',')]:
    config = kinetics600_64x12.get_config()
    config.gen.ch = config.disc.ch = args.ch
    config.dry_run.topology = args.topology
    config.train.batch_size = 2 * tpu.parse(args.topology).devices
    config.update_from_flattened_dict(fields)
    start = time.perf_counter()
    in_this_process = mock.patch.object(command, 'in_child', lambda fn, *args: fn(*args))  # where `undone` applies
    with undone(), in_this_process, contextlib.redirect_stdout(io.StringIO()):
      result = command.dry_run(config, 'kinetics600_64x12', None)
    result['compile_s'] = time.perf_counter() - start
    rows.append({'variant': name, **result})
    first = rows[0]
    cells = ['-' if result[key] is None else f'{result[key]:.3g} ({result[key] / first[key]:.2f})' for key in COLUMNS]
    print(f'| {name} | {" | ".join(cells)} |', flush=True)
  if args.out:
    measured.save(args.out, rows)


if __name__ == '__main__':
  main()
