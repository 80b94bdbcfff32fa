"""Measures the floor of FVD at its full size, 2,048 moving shapes against another 2,048, and the time that it takes.

python results/metrics/full_size.py FOLDER [I3D_WEIGHTS]

Features are cached in FOLDER, so a stopped run can be resumed; the time is that of the clips computed in the last run.
Writes full_size.json beside this file. I3D_WEIGHTS: file of Kinetics-400, if the extra [metrics] is not installed.
"""

import json
import pathlib
import sys
import time

import numpy as np
from etils import epath

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dvd_gan import sharding  # noqa: E402
from dvd_gan.configs import default  # noqa: E402
from dvd_gan.datasets import shapes  # noqa: E402
from dvd_gan.metrics import frechet, scores  # noqa: E402
from dvd_gan.metrics.features import Extractor  # noqa: E402
from dvd_gan.metrics.protocols import PROTOCOLS  # noqa: E402
from dvd_gan.metrics.video_sets import VideoSet  # noqa: E402
from dvd_gan.runtime import run_config  # noqa: E402

SIDE = 64
SIZES = (256, 512, 1024, 2048)  # N; the last is the protocol's


def main(folder: str, weights: str = '') -> None:
  config = default.get_config()
  config.eval.i3d_400, config.eval.batch_size = weights, 4
  protocol = PROTOCOLS['fvd_google']
  extractor = Extractor(config, epath.Path(folder), sharding.make_mesh())
  computed = 0

  def batches(first, size):
    nonlocal computed
    for start in range(first, 2 * SIZES[-1], size):
      clips, label = zip(
        *(shapes.draw(1, start + i, frames=protocol.frames, size=SIDE) for i in range(size)), strict=True
      )
      computed += size
      yield np.stack(clips), np.array(label)

  videos = VideoSet({'moving_shapes': [1, protocol.frames, SIDE]}, 2 * SIZES[-1], batches)
  # The sets of N clips lie in the first and the second half. All are gathered in one pass over the clips.
  ranges = [(half * SIZES[-1], half * SIZES[-1] + n) for n in SIZES for half in (0, 1)]
  started = time.monotonic()
  found = scores.gather(protocol, extractor.parts(protocol, videos, 'moving shapes'), ranges)
  seconds = time.monotonic() - started
  pairs = [(one.moments, other.moments) for one, other in zip(found[::2], found[1::2], strict=True)]
  result = {
    'protocol': 'fvd_google',
    'floor': {str(n): frechet.distance(*pair, ddof=protocol.ddof) for n, pair in zip(SIZES, pairs, strict=True)},
    'warning': {str(n): one.warning() for n, (one, _) in zip(SIZES, pairs, strict=True)},
    'clips_computed': computed,
    'seconds': round(seconds, 1),
    'seconds_per_clip': round(seconds / computed, 3) if computed else None,
    'network_sha256': extractor.network('i3d_400').sha256,
    'versions': run_config.versions(),
  }
  (HERE / 'full_size.json').write_text(json.dumps(result, indent=1) + '\n')


HERE = pathlib.Path(__file__).resolve().parent

if __name__ == '__main__':
  main(*sys.argv[1:])
