"""Video files for tests, valid and broken."""

from fractions import Fraction

import av
import numpy as np
from etils import epath

from dvd_gan.datasets import index, input_pipeline, record_files, window


def encode(
  path,
  frames=30,
  width=48,
  height=32,
  fps=25,
  *,
  codec=None,
  pixel_aspect=None,
  times=None,
  options=None,
  sound=0.0,
  step=None,
  container_options=None,
):
  """Writes a clip: green grows with time, red from left to right and blue from top to bottom.

  `times` are the timestamps of the frames in milliseconds; they replace the fixed rate.  `sound` is the length of a
  silent audio track in seconds.  `step` is the increase of green per frame; by default 200 per second, 8 at 25 fps.
  """
  codec = codec or ('gif' if path.suffix == '.gif' else 'libx264')
  with av.open(str(path), 'w', options=container_options or {}) as container:
    stream = container.add_stream(codec, rate=fps, options=options or {})
    stream.width, stream.height = width, height
    stream.bit_rate = 4_000_000
    stream.pix_fmt = 'rgb8' if codec == 'gif' else 'yuv420p'
    if pixel_aspect:
      stream.codec_context.sample_aspect_ratio = pixel_aspect
    if times:
      stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
    if sound:
      track = container.add_stream({'.wmv': 'wmav2', '.mpg': 'mp2'}.get(path.suffix, 'aac'), rate=44100, layout='mono')
      track.bit_rate = 64_000
    for t in range(frames):
      frame = av.VideoFrame.from_ndarray(picture(t, width, height, step or 200 / fps), format='rgb24')
      if times:
        frame.pts, frame.time_base = times[t], stream.time_base
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
    if sound:
      silence = np.zeros((1, round(44100 * sound)), np.float32 if track.format.is_planar else np.int16)
      for begin in range(0, silence.shape[1], 1024):
        part = av.AudioFrame.from_ndarray(silence[:, begin : begin + 1024], format=track.format.name, layout='mono')
        part.sample_rate, part.pts = 44100, begin
        container.mux(track.encode(part))
      container.mux(track.encode())


def picture(t, width=48, height=32, step=8):
  """Frame `t` of `encode`'s clips."""
  made = np.zeros((height, width, 3), np.uint8)
  made[..., 0] = np.linspace(0, 250, width)
  made[..., 1] = min(round(step * t), 255)
  made[..., 2] = np.linspace(0, 250, height)[:, None]
  return made


def numbers(video, step=8):
  """The index in `encode`'s clip of each frame of uint8 [T, H, W, 3]."""
  return (video[..., 1].mean((1, 2)) / step).round().astype(int).tolist()


def encode_audio(path):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', rate=16000, layout='mono')
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
    frame.sample_rate = 16000
    for _ in range(10):
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def with_matrix(content, a, b, c, d, x=0, y=0):
  """The bytes of a 48x32 mp4 with a display matrix that moves a pixel from (u, v) to (a u + c v + x, b u + d v + y)."""
  content = bytearray(content)
  # In the track header, in 16.16 and 2.30 fixed point.
  at = content.index(b'tkhd') + 4 + 40
  matrix = np.frombuffer(bytes(content[at : at + 36]), '>i4')
  assert matrix.tolist() == [65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]
  content[at : at + 36] = (np.array([a, b, 0, c, d, 0, x, y, 1 << 14]) << 16).astype('>i4').tobytes()
  return bytes(content)


def quarter_turn(content):
  """The bytes of an mp4 of 48x32 pixels, with a display matrix that turns it clockwise."""
  return with_matrix(content, 0, 1, -1, 0, x=32)


def variable_rate(source, target):
  """Copies a clip, with its second half at half the frame rate."""
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


def mux(path, template, packets):
  """Writes packets of a stream into a container."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream_from_template(template)
    if path.suffix == '.avi' and template.codec_context.name == 'h264':
      annex_b = av.BitStreamFilterContext('h264_mp4toannexb', template)
      packets = [filtered for packet in [*packets, None] for filtered in annex_b.filter(packet)]
    for packet in packets:
      packet.stream = stream
      container.mux(packet)


def examples(folder, split):
  """Returns [(label, [bytes of each frame])] in the order of our index."""
  files = sorted(folder.glob(f'*-{split}.tfrecord*'))
  found = index.build(files, 'video', ('label',))
  read = []
  for clip, shard in enumerate(found.shard):
    begin, end = found.place(clip, np.arange(found.frames[clip]))
    content = files[shard].read_bytes()
    read.append((found.numbers['label'][clip], [content[a:b] for a, b in zip(begin, end, strict=True)]))
  return read


def open_files(config, folder, paths):
  """Opens record files that were not written by a builder."""
  files = [epath.Path(path) for path in paths]
  clips = index.load(epath.Path(folder), files, 'train')
  return record_files.Records(config, epath.Path(folder), clips, files, clips.numbers['label'])


def read(source, clip, start=0):
  """Reads the window of a clip from frame `start`, cropped at the top left, and the label."""
  video, label = source.read(window.Plan(np.array([clip]), np.array([start]), np.zeros((1, 2)), np.array([False])))
  return video[0], label[0]


def batch(config, source, step=0, rows=None):
  """The host batch of a step, as training reads it."""
  rows = np.arange(config.train.batch_size) if rows is None else rows
  (only,) = input_pipeline.host_batches(config, source, range(step, step + 1), rows)
  return only
