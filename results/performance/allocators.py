"""Times the train step with glibc's allocator and with another one, alternately, each run in its own process.

python results/performance/allocators.py LIBRARY [--sizes=smoke] [--rounds=3] [--repeats=10] [--out=FILE.json]

LIBRARY is the value of LD_PRELOAD, for example libtcmalloc_minimal.so.4. Prints the median step of each size and its
ratio to glibc's. Sizes are those of `python -m dvd_gan.benchmark`.
"""

import argparse
import pathlib
import statistics
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from results.scripts import measured  # noqa: E402


def run(library: str, size: str, repeats: int) -> dict[str, Any]:
  """Runs the benchmark with a library preloaded; an empty name stands for glibc's allocator."""
  return measured.benchmark(measured.ROOT, size, repeats, LD_PRELOAD=library) | {'allocator': library or 'glibc'}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('library')
  parser.add_argument('--sizes', default='smoke')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--repeats', type=int, default=10)
  parser.add_argument('--out', type=pathlib.Path, help='write every run there as JSON too')
  args = parser.parse_args()
  rows = []
  print("| size | allocator | step, s (range over runs) | times glibc's | share of the matmul rate |")
  print('|---|---|---|---|---|')
  for size in args.sizes.split(','):
    runs = [[run(library, size, args.repeats) for library in ('', args.library)] for _ in range(args.rounds)]
    base = statistics.median(glibc['step_s'] for glibc, _ in runs)
    for found in zip(*runs, strict=True):
      steps, shares = ([one[key] for one in found] for key in ('step_s', 'share_of_matmul_rate'))
      step = statistics.median(steps)
      print(
        f'| {size} | {found[0]["allocator"]} | {step:.3f} ({min(steps):.3f} to {max(steps):.3f}) | {step / base:.2f} '
        f'| {statistics.median(shares):.0%} |',
        flush=True,
      )
    rows += [one for pair in runs for one in pair]
  if args.out:
    measured.save(args.out, rows)


if __name__ == '__main__':
  main()
