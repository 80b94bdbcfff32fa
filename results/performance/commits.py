"""Times the train step of two clones of the project alternately, each compiled without a cache in its own process.

python results/performance/commits.py BEFORE AFTER [--sizes=smoke] [--rounds=2] [--repeats=20] [--out=FILE.json]

BEFORE and AFTER are the folders of the clones. Prints medians of the compile time, the step and its share of the matmul
rate for each size and commit. Uses the CPUs that `taskset` allows.
"""

import argparse
import os
import pathlib
import statistics
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from results.scripts import measured  # noqa: E402


def run(folder: str, size: str, repeats: int) -> dict[str, Any]:
  """Runs the benchmark of a clone without a compilation cache; adds the commit to its result."""
  found = measured.benchmark(folder, size, repeats, JAX_ENABLE_COMPILATION_CACHE='0')
  return found | {'commit': measured.commit(folder)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('before', type=os.path.abspath)
  parser.add_argument('after', type=os.path.abspath)
  parser.add_argument('--sizes', default='smoke')
  parser.add_argument('--rounds', type=int, default=2)
  parser.add_argument('--repeats', type=int, default=20)
  parser.add_argument('--out', type=pathlib.Path, help='write every run there as JSON too')
  args = parser.parse_args()
  rows = []
  print('| size | commit | compile, s | step, s | fastest | share of matmul rate |')
  print('|---|---|---|---|---|---|')
  for size in args.sizes.split(','):
    runs = [[run(folder, size, args.repeats) for folder in (args.before, args.after)] for _ in range(args.rounds)]
    for found in zip(*runs, strict=True):
      compile_s, step_s, share = (
        statistics.median(one[name] for one in found) for name in ('compile_s', 'step_s', 'share_of_matmul_rate')
      )
      fastest = min(one['step_s_min'] for one in found)
      print(
        f'| {size} | {found[0]["commit"]} | {compile_s:.1f} | {step_s:.3f} | {fastest:.3f} | {share:.0%} |', flush=True
      )
    rows += [one for pair in runs for one in pair]
  if args.out:
    measured.save(args.out, rows)


if __name__ == '__main__':
  main()
