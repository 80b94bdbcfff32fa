"""Ablation: trains the same model with and without each design choice, on moving shapes.

python results/proof/run.py FOLDER [--size=cpu16] [--rows=both,spatial] [--seeds=0,1,2] [--jobs=1]
python results/proof/run.py FOLDER [--size=cpu16] --repeat=0

Trains each of ROWS with each seed in FOLDER/SIZE/ROW-SEED and evaluates it by the protocol `toy` against held-out clips.
Copies config.json, the result and the samples of seed 0 to SIZE/ROW-SEED beside this file, and appends losses and spectral
norms by step to SIZE/logs.jsonl (one run per line). Writes SIZE/README.md: the table, in which a row without results is
"not run", then SIZE/notes.md. The same command resumes a stopped one. --jobs: number of runs in parallel, on a GPU with
enough memory. TensorFlow is not needed, because the clips are an `array_file`.

--repeat: trains the first row with that seed again, in FOLDER/SIZE/repeat-SEED, and prints for each number whether it lies
in the table's 95 % interval for one more run. Exit code 1 if one does not. Copies nothing.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import importlib
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

import scipy.stats

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TRAINING_CLIPS, HELD_OUT_CLIPS = 3000, 1200  # of seeds 0 and 1; the classifier of `toy` was trained on seed 2


@dataclasses.dataclass(frozen=True)
class Size:
  """Attributes:
  about: video size, machine and time of a run, for the title.
  config: the config file.
  overrides: changed fields of the config.
  clip_frames: length of the clips that windows are cut from.
  """

  about: str
  config: str
  overrides: dict[str, object]
  clip_frames: int


SIZES = {
  'cpu16': Size(
    about='16x16, 8 frames; a quarter of an hour a run on one CPU core',
    config='configs/smoke.py',
    overrides={'data.frames': 8, 'disc.frames_k': 4, 'train.steps': 3000, 'train.ema_decay': 0.998},
    clip_frames=16,
  ),
  'gpu32': Size(
    about='32x32, 12 frames; one large GPU, some minutes a run',
    config='configs/moving_shapes_32.py',
    overrides={
      'data.frames': 12,
      'gen.ch': 16,
      'gen.multipliers': (8, 8, 4, 2),
      'gen.z_dim': 120,
      'gen.embed_dim': 120,
      'disc.ch': 16,
      'disc.multipliers': (2, 4, 8, 8),
      'train.batch_size': 64,
      'train.steps': 10_000,
      'train.gen_lr': 2e-4,
      'train.disc_lr': 5e-4,
      'train.ema_decay': 0.999,
      'train.decay_start': 0,
      'train.keep_every': 0,
      'train.checkpoint_every': 1000,
    },
    clip_frames=24,
  ),
}

# Each row is the first row with these fields changed.
ROWS = {
  'both': {},
  'spatial': {'disc.parts': ('spatial',)},
  'temporal': {'disc.parts': ('temporal',)},
  'k_1': {'disc.frames_k': 1},
  'k_8': {'disc.frames_k': 8},
  'phi_identity': {'disc.pool': 1},
  'phi_half': {'disc.pool': 2},
  'phi_quarter': {'disc.pool': 4},
  'bn_over_time': {'gen.bn_over_time': True},
  'attention': {'gen.attention': 'last'},  # the last unit's resolution
  'tanh': {'gen.activation': 'tanh'},
  'one_d_step': {'train.d_steps': 1},
}
SEEDS = (0, 1, 2)
TARGETS = 'accuracy within 5 points of real clips; IS 90 % of theirs; Frechet distance within 3 floors'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--size', choices=SIZES, default='cpu16')
  parser.add_argument('--rows', default=','.join(ROWS))
  parser.add_argument('--seeds', default=','.join(map(str, SEEDS)))
  parser.add_argument('--jobs', type=int, default=1)
  parser.add_argument('--repeat', type=int, metavar='SEED')
  args = parser.parse_args()
  rows = args.rows.split(',')
  if unknown := set(rows) - set(ROWS):
    parser.error(f'no rows {", ".join(sorted(unknown))}; there are {", ".join(ROWS)}')
  folder = args.folder.expanduser().absolute() / args.size
  folder.mkdir(parents=True, exist_ok=True)
  clips = draw(folder, SIZES[args.size])
  if args.repeat is not None:
    sys.exit(repeat(folder, args.size, args.repeat, clips))
  # Seeds are the outer loop, so that a stopped script leaves complete tables of fewer seeds.
  rows = list(dict.fromkeys(first_alike(args.size, row) for row in rows))
  todo = [(row, int(seed)) for seed in args.seeds.split(',') for row in rows]
  with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
    for _ in pool.map(lambda one: run(folder, args.size, *one, clips, args.jobs), todo):
      write_table(args.size)


def draw(folder: pathlib.Path, size: Size) -> tuple[pathlib.Path, pathlib.Path]:
  """Draws the training and held-out clips; returns their files."""
  side = base(size).data.resolution
  made = []
  for seed, (name, count) in enumerate((('train', TRAINING_CLIPS), ('held_out', HELD_OUT_CLIPS))):
    made.append(folder / f'{name}.npz')
    if not made[-1].exists():
      command = ['-m', 'dvd_gan.datasets.shapes', f'--out={made[-1]}', f'--clips={count}', f'--seed={seed}']
      program([*command, f'--frames={size.clip_frames}', f'--size={side}'])
  return tuple(made)


def base(size: Size):
  """The config of the first row."""
  sys.path.insert(0, str(ROOT))
  config = importlib.import_module(size.config.removesuffix('.py').replace('/', '.')).get_config()
  config.update_from_flattened_dict(size.overrides)
  return config


def changed(size: str, row: str) -> dict[str, object]:
  """The fields in which a row differs from the first."""
  config = base(SIZES[size])
  fields = ROWS[row]
  if fields.get('gen.attention') == 'last':
    fields = {'gen.attention': (config.data.resolution // 2,)}
  known = config.to_dict()
  return {name: value for name, value in fields.items() if functools.reduce(dict.get, name.split('.'), known) != value}


def first_alike(size: str, row: str) -> str:
  """The first row that is the same model at this size."""
  return next(other for other in ROWS if changed(size, other) == changed(size, row))


def run(folder: pathlib.Path, size: str, row: str, seed: int, clips: tuple[pathlib.Path, ...], jobs: int) -> None:
  """Trains and evaluates one row with one seed and copies its results, unless they exist."""
  workdir, kept = folder / f'{row}-{seed}', HERE / size / f'{row}-{seed}'
  if (kept / 'toy.json').exists():
    return
  made = train_and_evaluate(workdir, size, row, seed, clips, jobs)
  kept.mkdir(parents=True, exist_ok=True)
  for path, name in ((workdir / 'config.json', 'config.json'), (made, 'toy.json')):
    (kept / name).write_text(path.read_text().replace(str(folder.parent), 'FOLDER'))
  with (HERE / size / 'logs.jsonl').open('a') as logs:
    logs.write(json.dumps({'run': kept.name} | thinned(workdir / 'metrics.jsonl')) + '\n')
  if seed == 0:
    steps = SIZES[size].overrides['train.steps']
    shutil.copy(workdir / 'samples' / f'step_{steps:08d}.gif', kept / 'samples.gif')


def thinned(path: pathlib.Path) -> dict[str, list[float | None]]:
  """The columns of a metrics.jsonl that show how training went, with four digits; None where a line lacks the metric."""
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  names = ('step', 'disc_loss_spatial', 'disc_loss_temporal', 'gen_sigma_max', 'disc_sigma_max', 'sample_deviation')
  table = {name: [float(f'{line[name]:.4g}') if name in line else None for line in lines] for name in names}
  return {name: column for name, column in table.items() if any(value is not None for value in column)}


def train_and_evaluate(
  workdir: pathlib.Path, size: str, row: str, seed: int, clips: tuple[pathlib.Path, ...], jobs: int = 1
) -> pathlib.Path:
  """Trains, or resumes, and evaluates one row with one seed; returns the file of its result."""
  fields = SIZES[size].overrides | changed(size, row) | {'seed': seed, 'data.name': 'array_file'}
  steps = fields['train.steps']
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  command = ['-m', 'dvd_gan.main', f'--config={SIZES[size].config}', f'--workdir={workdir}', *flags]
  program([*command, '--mode=train', f'--config.data.source={clips[0]}'], jobs)
  evaluation = ['--mode=evaluate', "--config.eval.protocols=('toy',)", f'--config.eval.step={steps}']
  program([*command, *evaluation, f'--config.data.source={clips[1]}'], jobs)
  return workdir / 'eval' / f'toy-{steps}.json'


def repeat(folder: pathlib.Path, size: str, seed: int, clips: tuple[pathlib.Path, ...]) -> int:
  """Runs the first row again and compares it with the table; returns 1 if a number lies outside, else 0."""
  row = next(iter(ROWS))
  known = columns(results(size, row))
  if len(known[0][0]) < 2:
    print(f'error: {HERE / size} has no two runs of {row} to compare with', file=sys.stderr)
    return 2
  made = train_and_evaluate(folder / f'repeat-{seed}', size, row, seed, clips)
  outside = 0
  got = columns([json.loads(made.read_text())])
  for name, (values, digits), ((value,), _) in zip(COLUMNS, known, got, strict=True):
    mean, half = statistics.mean(values), one_more(values)
    inside = abs(value - mean) <= half
    outside += not inside
    print(f'{name}: {value:.{digits}f}, {"inside" if inside else "OUTSIDE"} {mean:.{digits}f} +- {half:.{digits}f}')
  return int(outside > 0)


def program(command: list[str], jobs: int = 1) -> None:
  environment = dict(os.environ, PYTHONPATH=str(ROOT))
  if jobs > 1:
    environment |= {'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{0.9 / jobs:.2f}'}
  subprocess.run([sys.executable, *command], check=True, cwd=ROOT, env=environment)


def write_table(size: str) -> None:
  """Writes README.md of a size from the existing results."""
  lines = [
    f'# {size}: {SIZES[size].about}',
    '',
    f'`python results/proof/run.py FOLDER --size={size}`; {SIZES[size].config} with',
    ', '.join(f'`{name}={value}`' for name, value in SIZES[size].overrides.items()) + '.',
    f'Mean and range over seeds. Targets: {TARGETS}.',
    '',
    f'| row | changed | seeds | {" | ".join(COLUMNS)} |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for row in ROWS:
    fields = ', '.join(f'{name}={value}' for name, value in changed(size, row).items()) or '-'
    same = first_alike(size, row)
    found = results(size, same)
    cells = [mean_and_range(values, digits) for values, digits in columns(found)] if found else ['not run', *[''] * 4]
    lines.append(f'| {row} | {fields} | {len(found)} | {" | ".join(cells)} |')
    if row == next(iter(ROWS)) and len(found) > 1:  # --repeat compares with this row
      cells = [
        f'{statistics.mean(values):.{digits}f} ± {one_more(values):.{digits}f}' for values, digits in columns(found)
      ]
      lines.append(f'| 95 % interval for one more run | - | - | {" | ".join(cells)} |')
  if reals := [json.loads(path.read_text()) for path in (HERE / size).glob('*/toy.json')]:
    real = [f'{100 * statistics.mean(one["accuracy_real"][what] for one in reals):.1f}' for what in ACCURACIES]
    score = statistics.mean(one['inception_score']['real'] for one in reals)
    floor = mean_and_range(
      [one['frechet']['floor'] for one in reals], 1
    )  # between two halves of the real clips, which the seed chooses
    lines.append(f'| held-out clips | - | - | {" | ".join(real)} | 100 (IS {score:.1f}) | {floor} |')
  notes = HERE / size / 'notes.md'  # the findings
  lines += ['', notes.read_text().strip()] if notes.exists() else []
  (HERE / size / 'README.md').write_text('\n'.join(lines) + '\n')


ACCURACIES = ('shape', 'motion', 'both')
COLUMNS = ('right, %: shape', 'motion', 'both', 'IS, % of real', 'Frechet distance')


def results(size: str, row: str) -> list[dict]:
  """The stored results of a row, by seed."""
  return [json.loads(path.read_text()) for path in sorted((HERE / size).glob(f'{row}-[0-9]*/toy.json'))]


def columns(found: list[dict]) -> list[tuple[list[float], int]]:
  """(a value for each seed, digits) of each of COLUMNS."""
  made = [([100 * one['accuracy'][what] for one in found], 1) for what in ACCURACIES]
  made.append(([100 * one['inception_score']['score'] / one['inception_score']['real'] for one in found], 1))
  made.append(([one['frechet']['distance'] for one in found], 1))
  return made


def one_more(values: list[float]) -> float:
  """Half width of the 95 % prediction interval for one more value (Student's t)."""
  count = len(values)
  return scipy.stats.t.ppf(0.975, count - 1) * statistics.stdev(values) * math.sqrt(1 + 1 / count)


def mean_and_range(values: list[float], digits: int) -> str:
  mean, low, high = (f'{value:.{digits}f}' for value in (statistics.mean(values), min(values), max(values)))
  return f'{mean} ({low} to {high})' if len(values) > 1 else mean


if __name__ == '__main__':
  main()
