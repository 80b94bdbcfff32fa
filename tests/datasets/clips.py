"""Video files for tests, good ones and broken ones."""

import av
import numpy as np
from etils import epath

from dvd_gan.datasets import index, input_pipeline, record_files, window


def encode(path, frames=30, width=48, height=32, fps=25, container_options=None):
  """A clip whose green channel grows with time and whose red one grows from left to right."""
  with av.open(str(path), 'w', options=container_options or {}) as container:
    stream = container.add_stream('libx264' if path.suffix != '.gif' else 'gif', rate=fps)
    stream.width, stream.height = width, height
    stream.pix_fmt = 'yuv420p' if path.suffix != '.gif' else 'rgb8'
    for t in range(frames):
      picture = np.zeros((height, width, 3), np.uint8)
      picture[..., 0] = np.linspace(0, 250, width)
      picture[..., 1] = min(round(8 * 25 * t / fps), 255)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
    container.mux(stream.encode())


def encode_audio(path):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', rate=16000, layout='mono')
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
    frame.sample_rate = 16000
    for _ in range(10):
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def quarter_turn(content):
  """The bytes of an mp4 of 48x32 pixels, with a display matrix that turns it clockwise."""
  content = bytearray(content)
  # The track header's display matrix, identity in 16.16 and 2.30 fixed point, becomes a quarter turn.
  at = content.index(b'tkhd') + 4 + 40
  matrix = np.frombuffer(bytes(content[at : at + 36]), '>i4')
  assert matrix.tolist() == [65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]
  content[at : at + 36] = np.array([0, 65536, 0, -65536, 0, 0, 32 << 16, 0, 1 << 30], '>i4').tobytes()
  return bytes(content)


def variable_rate(source, target):
  """Copies a clip, its second half shown at half the rate."""
  with av.open(str(source)) as container, av.open(str(target), 'w') as out:
    stream = container.streams.video[0]
    copy = out.add_stream_from_template(stream)
    packets = [packet for packet in container.demux(stream) if packet.size]
    tick = packets[1].dts - packets[0].dts
    middle = len(packets) // 2 * tick
    for packet in packets:
      packet.pts, packet.dts = (time + max(time - middle, 0) for time in (packet.pts, packet.dts))
      packet.stream = copy
      out.mux(packet)


def examples(folder, split):
  """[(label, bytes of its frames)] in the order of our index."""
  files = sorted(folder.glob(f'*-{split}.tfrecord*'))
  found = index.build(files, 'video', ('label',))
  read = []
  for clip, shard in enumerate(found.shard):
    begin, end = found.place(clip, np.arange(found.frames[clip]))
    content = files[shard].read_bytes()
    read.append((found.numbers['label'][clip], [content[a:b] for a, b in zip(begin, end, strict=True)]))
  return read


def open_files(config, folder, paths):
  """The clips of record files that no builder wrote."""
  files = [epath.Path(path) for path in paths]
  clips = index.load(epath.Path(folder), files, 'train')
  return record_files.Records(config, epath.Path(folder), clips, files, clips.numbers['label'])


def read(source, clip, start=0):
  """The window of a clip that begins at a frame, uncropped at its top left, and the label."""
  video, label = source.read(window.Plan(np.array([clip]), np.array([start]), np.zeros((1, 2)), np.array([False])))
  return video[0], label[0]


def batch(config, source, step=0, rows=None):
  """The host batch of a step, as training reads it."""
  rows = np.arange(config.train.batch_size) if rows is None else rows
  (only,) = input_pipeline.host_batches(config, source, range(step, step + 1), rows)
  return only
