"""Time of a train step on one CPU core, by kind of operation.

python results/performance/operations.py [--size=SIZE] [--steps=5] [--cpu=0] [--top=0] [--out=FILE.json]

Traces the step on one core, where operations do not overlap. Prints a table of kinds of operations and, with --top, the
slowest ones; --out writes the kinds as JSON. Sizes are those of
`python -m dvd_gan.benchmark`.
"""

import argparse
import collections
import math
import os
import pathlib
import re
import statistics
import sys
import tempfile
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from results.scripts import measured  # noqa: E402

NARROW = 9  # channels in or out, up to which packing patches takes longer than multiplying


def kind(name: str, opcode: str, op_name: str, shapes: list[list[int]]) -> str:
  """The kind of an operation, a row of the table; `shapes` are those of a convolution's operands and result."""
  net = 'Generator' in op_name or 'Discriminator' in op_name
  if opcode == 'convolution':
    image, kernel, _ = shapes
    if kernel[0] > 3 or kernel[1] > 3:
      return "convolutions: kernels' gradients"
    narrow = min(kernel[2], kernel[3]) <= NARROW
    return f'convolutions, {"narrow" if narrow else "wide"}'
  if opcode == 'dot' or 'dot' in name:
    return 'matrix products' if net else 'spectral norm, optimizer, average'
  if not net and op_name:
    return 'spectral norm, optimizer, average'
  if 'transpose' in name or 'copy' in name:
    return 'transposes and copies'
  if 'ynn' in name:
    return 'sums and products by YNNPACK'
  return 'element-wise, padding, slices'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--size', default='smoke')
  parser.add_argument('--steps', type=int, default=5)
  parser.add_argument('--cpu', type=int, default=0, help='the core to run on')
  parser.add_argument('--top', type=int, default=0, help='print so many of the costliest operations')
  parser.add_argument('--out', type=pathlib.Path)
  args = parser.parse_args()
  os.sched_setaffinity(0, {args.cpu})  # before JAX starts its threads

  import jax

  from dvd_gan import benchmark
  from dvd_gan.dry_run import arithmetic, hlo

  step = benchmark.Step(benchmark.SIZES[args.size]())
  rates, seconds = [], []
  for _ in range(3):
    rates.append(benchmark.matmul_rate('float32'))
    seconds += step.seconds(args.steps)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      traced = statistics.median(step.seconds(args.steps)) * 1e3
    (path,) = pathlib.Path(folder).rglob('*.xplane.pb')
    trace = jax.profiler.ProfileData.from_file(str(path))

  computations, _ = hlo.parse(step.text)
  instructions = {one.name: (one, inside) for inside in computations.values() for one in inside}
  taken: dict[str, list[float]] = collections.defaultdict(list)
  for plane in trace.planes:
    for line in plane.lines:
      for event in line.events:
        if event.name in instructions and instructions[event.name][0].opcode != 'while':
          taken[event.name].append(event.duration_ns / 1e6)

  rate = statistics.median(rates)
  rows: dict[str, Any] = collections.defaultdict(lambda: {'calls': 0.0, 'ms': 0.0, 'gflop': 0.0, 'gflop_padded': 0.0})
  each = []
  for name, times in taken.items():
    one, inside = instructions[name]
    op_name = re.search(r'op_name="([^"]*)"', one.rest)
    shapes, flop, padded = [], 0.0, 0.0
    if one.opcode in ('convolution', 'dot'):
      operands = hlo.operands(one)[:2]
      flop = arithmetic.of(
        {'': [other._replace(opcode='parameter') for other in inside if other.name in operands] + [one]}, ''
      )
    if one.opcode == 'convolution':
      by_name = {other.name: other.shape for other in inside}
      shapes = [arithmetic.sides(shape) for shape in (*map(by_name.get, operands), one.shape)]
      padded = 2 * math.prod(shapes[2]) * math.prod(shapes[1][:3])
    row = rows[kind(name, one.opcode, op_name[1] if op_name else '', shapes)]
    calls, ms = len(times) / args.steps, sum(times) / args.steps
    row['calls'] += calls
    row['ms'] += ms
    row['gflop'] += calls * flop / 1e9
    row['gflop_padded'] += calls * padded / 1e9
    each.append(
      (ms, calls, calls * padded / 1e6 / ms if padded else 0, name, shapes or one.shape.split('{')[0], op_name)
    )

  median = statistics.median(seconds) * 1e3
  rows['between operations'] = {'calls': 0, 'ms': traced - sum(row['ms'] for row in rows.values())}
  result = {
    'size': args.size,
    'step_ms': median,
    'traced_step_ms': traced,
    'model_gflop': step.flop / 1e9,
    'matmul_gflops': rate / 1e9,
    'share_of_matmul_rate': step.flop / rate / median * 1e3,
    'kinds': dict(sorted(rows.items(), key=lambda item: -item[1]['ms'])),
  }
  print(
    f'{args.size}, one core: {median:.1f} ms a step, {result["model_gflop"]:.2f} GFLOP as described: '
    f'{result["share_of_matmul_rate"]:.0%} of {rate / 1e9:.0f} GFLOP/s'
  )
  print('| operations | calls | ms | share | GFLOP | with taps on padding | of the matmul rate |')
  print('|---|---|---|---|---|---|---|')
  for name, row in result['kinds'].items():
    padded = row.get('gflop_padded')
    cells = [f'{row["calls"]:.0f}', f'{row["ms"]:.1f}', f'{row["ms"] / traced:.0%}']
    cells += [f'{row["gflop"]:.2f}', f'{padded:.2f}', f'{padded / row["ms"] / rate * 1e12:.0%}'] if padded else [''] * 3
    print(f'| {name} | {" | ".join(cells)} |')
  for ms, calls, gflops, name, shape, op_name in sorted(each, key=lambda row: -row[0])[: args.top]:
    where = op_name[1].replace('jit(train_step)/', '')[-70:] if op_name else ''
    print(f'{ms:8.3f} ms x{calls:4.0f} {gflops:4.0f} GFLOP/s {name:32s} {shape} {where}')
  if args.out:
    measured.save(args.out, result)


if __name__ == '__main__':
  main()
