"""Writes README.md beside this file: the compiled rows, the estimate's error on them, and estimates for other slices.

python results/dry_run/table.py          two minutes
python results/dry_run/table.py --fit    prints the factors of dvd_gan/dry_run/memory.py fitted to the rows
"""

import importlib
import json
import math
import pathlib
import sys

import jax
import numpy as np

from dvd_gan import flops, models, sharding, train_step
from dvd_gan.dry_run import command, compile, memory, tpu

HERE = pathlib.Path(__file__).parent
CONFIGS = (
  'kinetics600_64x12', 'kinetics600_64x16', 'kinetics600_64x48', 'kinetics600_128x12', 'kinetics600_128x48',
  'kinetics600_256x12', 'ucf101_128x16', 'kinetics600_fp_64x16', 'bair_fp_64x16',
)  # fmt: skip
KINDS = ('v3', 'v4', 'v5e', 'v5p', 'v6e')
DEVICES = (32, 64, 128, 256, 512)
# Options to try in order until the step fits: (name, mesh.shard, remat).
LADDER = (('', 1, False), ('s', 8, False), ('sr', 8, True))
BATCH = 512


def load(name):
  return importlib.import_module(f'dvd_gan.configs.{name}').get_config()


def compiled_rows():
  return [json.loads(path.read_text()) for path in sorted(HERE.glob('*.json'))]


def as_compiled(row):
  """The config that a row was compiled with."""
  config = load(row['config'])
  config.gen.remat = config.disc.remat = row['remat']
  config.train.microbatches, config.mesh.shard = row['microbatches'], row['shard']
  return config


def state_of(row):
  return sum(row[f'{kind}_gib'] for kind in ('parameters', 'optimizer', 'ema', 'spectral'))


def fit(rows):
  """Fits temporaries by least squares of the error relative to the whole memory, with and without remat."""
  for remat in (False, True):
    chosen = [row for row in rows if row['remat'] == remat and row['fits'] and row['microbatches'] == 1]
    sizes = np.array([memory.sizes(as_compiled(row), row['batch_per_device']) for row in chosen])
    whole = np.array([row['hbm_used_gib'] for row in chosen])
    # Factor `kept` is fixed: 1 with remat. Without remat it is 0, because `kept` and `plain` are almost proportional.
    wanted = np.array([row['temporaries_gib'] for row in chosen]) - (sizes[:, 0] if remat else 0)
    factors, *_ = np.linalg.lstsq(sizes[:, 1:] / whole[:, None], wanted / whole, rcond=None)
    print(
      'REMAT' if remat else 'PLAIN', memory.Factors(float(remat), *np.round(factors, 2)), f'from {len(chosen)} rows'
    )
    for row, off in zip(chosen, sizes[:, 1:] @ factors - wanted, strict=True):
      print(f'  {row["config"]} on {row["topology"]}: {off:+.2f} GiB of {row["hbm_used_gib"]}')


def estimates(name):
  """{(kind, devices): cell}: memory and roofline with the first entry of LADDER that fits."""
  kept = {}
  for remat in (False, True):
    config = load(name)
    config.gen.remat = config.disc.remat = remat
    at_two = np.array(memory.sizes(config, 2))
    mesh = sharding.abstract_mesh(1, 1)
    spec = train_step.make_spec(config, unroll=False)
    counts = [
      flops.count(lambda *x, spec=spec: train_step.train_step(spec, *x), *compile.abstract_arguments(config, mesh, b))
      for b in (1, 2)
    ]
    kept[remat] = at_two, counts
  states = {}
  for shard in (1, 8):
    state = train_step.state_shapes(config)
    state = sharding.placed(state, sharding.state(sharding.abstract_mesh(shard, shard), state))
    states[shard] = sum(command.gib(tree) for tree in command.state_parts(state).values())
  reduced = command.gradient_bytes(config, state)
  cells = {}
  for kind in KINDS:
    for count in DEVICES:
      chip = tpu.CHIPS[kind]
      if count > chip.largest * chip.devices:
        cells[kind, count] = ''
        continue
      slice_ = tpu.parse(f'{chip.type}-{count // chip.devices * chip.type_unit}')
      each = BATCH // count
      cells[kind, count] = 'no'
      for rung, shard, remat in LADDER:
        (sizes, (one, two)) = kept[remat]
        scaled = memory.Factors(sizes[0] * each / 2, sizes[1] * each / 2, sizes[2])
        used = states[shard] + memory.combine(scaled, remat)
        if used <= slice_.chip.hbm_gib:
          tflop = (one + (two - one) * (each - 1)) / 1e12
          seconds = tflop / slice_.chip.tflops + slice_.all_reduce_seconds(reduced)
          cells[kind, count] = f'{used:.1f} GiB, {seconds:.2f} s{f" ({rung})" if rung else ""}'
          break
  return cells


def millions(tree):
  return f'{sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) / 1e6:.1f}'


def parameters():
  """Lines of the table of parameters."""
  lines = ['| config | G | of it for context frames | D_S | D_T |', '|---|---|---|---|---|']
  for name in CONFIGS:
    gen, disc = models.shapes(load(name))
    of = [millions(tree) for tree in (gen, gen.get('given', ()), disc['spatial'], disc['temporal'])]
    lines.append(f'| {name} | {" | ".join(of)} |')
  return lines


def main():
  rows = compiled_rows()
  if '--fit' in sys.argv:
    return fit(rows)
  lines = [(HERE / 'head.md').read_text()]
  lines += [
    '## Compiled\n',
    '| config | slice | devices, videos each | settings | fits | GiB used of | of it temporaries | TFLOP | program: times that | all-reduce GB '
    '| roofline s, of it arithmetic | hours at 40 % | level | estimate GiB | libtpu |',
    '|---' * 15 + '|',
  ]
  errors = []
  for row in rows:
    config = as_compiled(row)
    guess = ''
    if row['microbatches'] == 1:
      estimate = state_of(row) + memory.temporaries(config, row['batch_per_device'])
      guess = f'{estimate:.1f}'
      errors += [estimate / row['hbm_used_gib'] - 1] * row['fits']
    settings = [f'shard {row["shard"]}'] * (row['shard'] > 1) + ['remat'] * row['remat']
    settings += [f'microbatches {row["microbatches"]}'] * (row['microbatches'] > 1)
    settings += ['overlap'] * row.get('overlap', False)
    roofline = row['roofline_s']
    limit = '' if roofline is None else f'{roofline}, {row["compute_s"] / roofline:.0%}'
    hours = '' if roofline is None else f'{config.train.steps * roofline / 0.4 / 3600:.0f}'
    done = row.get('program_tflop_per_device')
    times = f'{done / row["tflop_per_device"]:.2f}' if done else ''
    lines.append(
      f'| {row["config"]} | {row["topology"]} | {row["devices"]}, {row["batch_per_device"]} '
      f'| {", ".join(settings) or "plain"} | {"yes" if row["fits"] else "**no**"} | {row["hbm_used_gib"]} of '
      f'{row["hbm_limit_gib"]} | {row.get("temporaries_gib", "")} | {row["tflop_per_device"]} '
      f'| {times} | {row.get("all-reduce_gb", "")} | {limit} | {hours} '
      f'| {row["optimization"].replace("UNKNOWN", "default")} | {guess} | {row["libtpu"]} |'
    )
  lines.append(
    f'\nOn the {len(errors)} rows that fit and have no microbatches, the estimate is off by '
    f'{100 * np.mean(np.abs(errors)):.0f} % on average and by {100 * np.max(np.abs(errors)):.0f} % at most. Its factors were fitted to such rows.\n'
  )
  lines += ['## Parameters, in millions\n', *parameters(), '']
  lines += ['## Estimated\n', (HERE / 'estimated.md').read_text()]
  for name in CONFIGS:
    cells = estimates(name)
    lines += [f'**{name}**\n', '| | ' + ' | '.join(map(str, DEVICES)) + ' |', '|---' * (len(DEVICES) + 1) + '|']
    lines += [f'| {kind} | ' + ' | '.join(cells[kind, count] for count in DEVICES) + ' |' for kind in KINDS]
    lines.append('')
  (HERE / 'README.md').write_text('\n'.join(lines))


if __name__ == '__main__':
  main()
