"""What a train step costs as the video grows: time, memory and arithmetic over frames, resolution and batch.

python results/performance/scaling.py [--ch=8] [--repeats=3] [--out=FILE.json]

The paper's widths for each resolution at `ch`, float32, one change at a time from 64x64, 12 frames, batch 2. Prints a
table and the exponents: e where the cost grows as (its pixels)^e between neighbouring rows of a kind.
"""

import argparse
import math
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dvd_gan import benchmark  # noqa: E402
from dvd_gan.configs import default  # noqa: E402
from results.scripts import measured  # noqa: E402

FIRST = {'data.frames': 12, 'data.resolution': 64, 'train.batch_size': 2}
KINDS = {'data.frames': (12, 24, 48), 'data.resolution': (64, 128, 256), 'train.batch_size': (2, 4, 8)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--ch', type=int, default=8, help='base width of both networks')
  parser.add_argument('--repeats', type=int, default=3, help='steps timed; the median is printed')
  parser.add_argument('--out', type=pathlib.Path, help='write the rows there as JSON too')
  args = parser.parse_args()
  print('| changed | GFLOP a step | step, s | temporaries, GiB | exponents: arithmetic, time, memory |')
  print('|---|---|---|---|---|')
  first, rows = cost(FIRST, args.ch, args.repeats), []
  for field, values in KINDS.items():
    before = None
    for value in values:
      fields = FIRST | {field: value}
      found = first if fields == FIRST else cost(fields, args.ch, args.repeats)
      cells = [f'{field}={value}', f'{found[0] / 1e9:.1f}', f'{found[1]:.2f}', f'{found[2]:.2f}']
      if before:
        growth = math.log(pixels(fields) / pixels(before[0]))
        cells.append(
          ', '.join(f'{math.log(now / then) / growth:.2f}' for then, now in zip(before[1], found, strict=True))
        )
      else:
        cells.append('')
      print(f'| {" | ".join(cells)} |', flush=True)
      before = fields, found
      rows.append(fields | dict(zip(('flop', 'step_s', 'temporary_gib'), found, strict=True)))
  if args.out:
    measured.save(args.out, rows)


def cost(fields: dict[str, int], ch: int, repeats: int) -> tuple[float, float, float]:
  """(FLOP, seconds, GiB of temporaries) of a step."""
  config = default.get_config()
  config.gen.ch = config.disc.ch = ch
  config.update_from_flattened_dict(fields)
  step = benchmark.Step(config)
  return step.flop, statistics.median(step.seconds(repeats)), step.temporary_gib


def pixels(fields: dict[str, int]) -> int:
  return fields['data.frames'] * fields['data.resolution'] ** 2 * fields['train.batch_size']


if __name__ == '__main__':
  main()
