import itertools
import os
import random
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from etils import epath

from dvd_gan import video as video_files
from dvd_gan.datasets.prepare import decoding, frame_times, picture
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError
from tests.datasets import clips
from tests.datasets.clips import encode, numbers, quarter_turn

SIZE = 16
NTSC = Fraction(30000, 1001)


def decode(path, fps=None, **wanted):
  return decoding.decode(path, short_side=SIZE, fps=fps, **wanted)


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
  path = tmp_path_factory.mktemp('clip') / 'a.mp4'
  encode(path)
  return path


@pytest.mark.parametrize(
  ('suffix', 'codec', 'fps'),
  [
    ('.mp4', 'libx264', 25),
    ('.mp4', 'libx265', Fraction(24000, 1001)),
    ('.mkv', 'libx264', 24),
    ('.mkv', 'libx264', 60),
    ('.webm', 'libvpx-vp9', 30),
    ('.flv', 'libx264', 30),
    ('.wmv', 'wmv2', 24),
    ('.avi', 'mpeg4', NTSC),
    ('.avi', 'libx264', 25),
    ('.mov', 'mpeg4', 50),
    ('.ts', 'libx264', 30),
    ('.mpg', 'mpeg2video', 25),
    ('.h264', 'libx264', 25),
  ],
)
def test_each_frame_is_decoded_exactly_once_from_every_container(tmp_path, suffix, codec, fps):
  path = tmp_path / f'a{suffix}'
  encode(path, codec=codec, fps=fps, step=8, options={'x265-params': 'log-level=none'} if codec == 'libx265' else {})
  stored = numbers(decode(path))
  assert stored == list(range(30)), stored
  assert numbers(decode(path, fps=float(fps))) == stored
  assert numbers(decode(path, fps=fps / 2)) == stored[::2]


@pytest.mark.parametrize(('codec', 'other'), [('libvpx-vp9', '.webm'), ('libx264', '.flv')])
def test_a_stream_decodes_to_the_same_frames_from_every_container(tmp_path, codec, other):
  encode(tmp_path / 'a.mkv', codec=codec, fps=NTSC)
  found = {}
  for suffix in (other, '.mkv', '.mp4', '.avi'):
    path = tmp_path / f'b{suffix}'
    with av.open(str(tmp_path / 'a.mkv')) as container:
      stream = container.streams.video[0]
      clips.mux(path, stream, [packet for packet in container.demux(stream) if packet.size])
    for fps in (None, 25, 10, float(NTSC)):
      found.setdefault(fps, []).append(decode(path, fps))
  for first, *others in found.values():
    for other in others:
      np.testing.assert_array_equal(other, first)


def test_our_gif_files_decode_to_their_frames_at_every_rate(tmp_path):
  made = np.stack([clips.picture(t) for t in range(30)])
  for fps in (10, 25, 30, 50):
    path = tmp_path / f'{fps}.gif'
    path.write_bytes(video_files.gif(made, fps))
    assert numbers(decode(path, fps=fps)) == numbers(decode(path)) == list(range(30))


@pytest.mark.parametrize(
  ('times', 'at_20_fps'),
  [
    ([0, 50, 100, 400, 450], [0, 1, 2, 2, 2, 2, 2, 2, 3, 4]),  # a pause
    ([0, 41, 69, 110, 150, 180], [0, 1, 2, 4, 5]),  # a browser's recording
    ([1000, 1050, 1100, 1150], [0, 1, 2, 3]),  # cut out of a longer video
  ],
)
def test_frames_with_uneven_timestamps_are_resampled_by_time(tmp_path, times, at_20_fps):
  encode(tmp_path / 'a.mkv', frames=len(times), times=times)
  assert numbers(decode(tmp_path / 'a.mkv')) == list(range(len(times)))
  assert numbers(decode(tmp_path / 'a.mkv', fps=20)) == at_20_fps


def test_missing_and_disordered_timestamps_are_replaced_by_increasing_ones():
  clock = frame_times.Clock(1 / 12800, 25)
  assert [round(clock.time(t), 3) for t in (None, None, 0.04, 0.16, 0.08, 0.2)] == [0, 0.04, 0.08, 0.16, 0.2, 0.24]


def test_concatenated_mpeg_files_are_decoded_to_the_end(tmp_path):
  encode(tmp_path / 'a.mpg', codec='mpeg2video')
  joined = (tmp_path / 'a.mpg').read_bytes() * 3
  assert numbers(decode(joined)) == numbers(decode(joined, fps=25)) == [*range(30)] * 3


@pytest.mark.parametrize(('transposed', 'right_left', 'upside_down'), itertools.product((False, True), repeat=3))
def test_all_eight_orientations_of_a_display_matrix_are_applied(clip, transposed, right_left, upside_down):
  """A display matrix swaps the axes, then mirrors."""
  upright = decode(clip)
  across, down = -1 if right_left else 1, -1 if upside_down else 1
  matrix = (0, down, across, 0) if transposed else (across, 0, 0, down)
  turned = decode(clips.with_matrix(clip.read_bytes(), *matrix))
  expected = upright.transpose(0, 2, 1, 3) if transposed else upright
  np.testing.assert_array_equal(turned, expected[:, ::down, ::across])


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.mpg'])
def test_pixels_are_made_square_before_the_picture_is_rotated(tmp_path, suffix):
  # MPEG-2 stores the aspect ratio of the picture, from a fixed list, instead of that of a pixel.
  encode(
    tmp_path / f'a{suffix}', 5, 72, 64, codec='mpeg2video' if suffix == '.mpg' else 'libx264',
    pixel_aspect=Fraction(32, 27),
  )  # fmt: skip
  found = decode(tmp_path / f'a{suffix}')
  assert found.shape == (5, 16, 21, 3)
  assert abs(found[2, 8, :, 0] - np.linspace(0, 250, 21)).max() < 16
  if suffix == '.mp4':
    content = (tmp_path / 'a.mp4').read_bytes()
    assert decode(quarter_turn(content)).shape == (5, 21, 16, 3)


def test_interlaced_frames_are_decoded_without_combing(tmp_path):
  made = np.full((10, 72, 96, 3), 40, np.uint8)
  for t, field in itertools.product(range(10), range(2)):
    left = 4 * (2 * t + field)
    made[t, field::2, left : left + 12] = 220
  with av.open(str(tmp_path / 'a.mp4'), 'w') as container:
    stream = container.add_stream('libx264', rate=25, options={'crf': '6', 'x264-params': 'tff=1'})
    stream.width, stream.height, stream.pix_fmt = 96, 72, 'yuv420p'
    for frame in made:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())
  grey = decoding.decode(tmp_path / 'a.mp4', short_side=36, fps=25)[..., 0].astype(int)
  assert len(grey) == 10
  assert abs(grey[:, 1:-1] - (grey[:, :-2] + grey[:, 2:]) / 2).mean() < 1  # 6 with combing
  bright = (grey[5] > 130).nonzero()[1]
  assert 40 / 2 - 2 < bright.min() and bright.max() < 56 / 2 + 2  # only the bar of frame 5


def _with_cover_first(path):
  """Adds cover art before the track, so that FFmpeg lists it as the first video stream."""

  def box(kind, content):
    return struct.pack('>I', 8 + len(content)) + kind + content

  cover = box(b'data', struct.pack('>II', 13, 0) + video_files.gif(np.zeros((1, 8, 8, 3), np.uint8), 1))
  handler = box(b'hdlr', bytes(8) + b'mdirappl' + bytes(9))
  tags = box(b'udta', box(b'meta', bytes(4) + handler + box(b'ilst', box(b'covr', cover))))
  content = path.read_bytes()
  at = content.index(b'moov') + 4  # moov is the last box, so no other box moves
  head = at + struct.unpack('>I', content[at : at + 4])[0]
  moov = content[at:head] + tags + content[head:]
  return content[: at - 8] + box(b'moov', moov)


def test_cover_art_is_not_decoded_as_the_video(clip, tmp_path):
  content = _with_cover_first(clip)
  (tmp_path / 'cover.mp4').write_bytes(content)
  with av.open(str(tmp_path / 'cover.mp4')) as container:
    assert container.streams.video[0].disposition & Disposition.attached_pic
  np.testing.assert_array_equal(decode(content), decode(clip))


def test_the_default_one_of_two_video_streams_is_decoded_and_the_choice_is_reported(tmp_path, capsys):
  with av.open(str(tmp_path / 'two.mkv'), 'w') as container:
    streams = []
    for width, default in ((64, 0), (48, Disposition.default)):
      stream = container.add_stream('libx264', rate=25)
      stream.width, stream.height, stream.pix_fmt, stream.disposition = width, 32, 'yuv420p', default
      streams.append(stream)
    for t, stream in itertools.product(range(10), streams):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(clips.picture(t, stream.width), format='rgb24')))
    for stream in streams:
      container.mux(stream.encode())
  assert decode(tmp_path / 'two.mkv').shape == (10, 16, 24, 3)
  assert 'two.mkv has 2 video streams; read is stream 1, 48x32' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('suffix', 'codec'), [('.mkv', 'libx264'), ('.flv', 'libx264'), ('.wmv', 'wmv2'), ('.mpg', 'mpeg2video')]
)
def test_audio_longer_than_the_video_is_not_taken_for_truncation(tmp_path, suffix, codec):
  path = tmp_path / f'a{suffix}'
  encode(path, codec=codec, sound=2.5)
  content = path.read_bytes().replace(b'DURATION', b'XXXXTION')  # as written by muxers other than FFmpeg's
  assert numbers(decode(content)) == list(range(30))
  if suffix in ('.mkv', '.flv'):  # the other containers do not state their duration
    with pytest.raises(decoding.RejectedError):
      decode(content[: len(content) // 2])


def test_truncation_of_avi_with_sound_and_of_mkv_with_a_late_start_is_detected(tmp_path):
  """An AVI with sound as long as its video, and an MKV that starts at 60 s, each truncated at 20 points."""
  encode(tmp_path / 'a.avi', frames=100, codec='mpeg4', sound=4.0)
  encode(tmp_path / 'a.mkv', frames=100, times=[60_000 + 40 * t for t in range(100)])
  for name in ('a.avi', 'a.mkv'):
    content = (tmp_path / name).read_bytes()
    assert len(decode(content)) == 100
    rejected = 0
    for share in np.linspace(0.1, 0.9, 20):
      try:
        assert len(decode(content[: int(len(content) * share)])) >= 90  # 5 % and 0.2 s may be missing
      except decoding.RejectedError:
        rejected += 1
    assert rejected >= 15
  tag = content.index(b'DURATION') + len('DURATION')
  assert len(decode(content.replace(content[tag : tag + 11], content[tag : tag + 3] + b'one min '))) == 100


def test_hidden_vp8_frames_are_not_counted_as_missing(tmp_path):
  """Packets without a visible frame, as in the two-pass mode of libvpx. Here each is a copy of the next key frame."""
  encode(tmp_path / 'visible.webm', codec='libvpx', options={'g': '5'})
  packets = []
  with av.open(str(tmp_path / 'visible.webm')) as container:
    stream = container.streams.video[0]
    for packet in [packet for packet in container.demux(stream) if packet.size]:
      if packet.is_keyframe:
        content = bytearray(bytes(packet))
        content[0] &= ~0x10  # the bit show_frame
        hidden = av.Packet(bytes(content))
        hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
        packets.append(hidden)
      packets.append(packet)
    clips.mux(tmp_path / 'a.webm', stream, packets)
  assert decoding.COMPLETE * len(packets) > 30  # if hidden frames counted, this file would be rejected as truncated
  assert numbers(decode(tmp_path / 'a.webm')) == list(range(30))


@pytest.mark.parametrize(('suffix', 'frames'), [('.mkv', 100), ('.gif', 100), ('.avi', 100), ('.mov', 100)])
def test_a_truncated_file_is_rejected(tmp_path, suffix, frames):
  whole, half = tmp_path / f'whole{suffix}', tmp_path / f'half{suffix}'
  encode(whole, frames=100)
  assert len(decode(whole, fps=25)) == frames
  for share in (0.3, 0.5, 0.8):
    half.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(decoding.RejectedError):
      decode(half, fps=25)
    with pytest.raises(decoding.RejectedError):
      decode(half.read_bytes(), fps=25, threads=1)


def test_a_gif_may_have_trailing_bytes_or_no_trailer_but_not_a_cut_image():
  gif = video_files.gif(np.stack([clips.picture(t) for t in range(10)]), 25)
  for whole in (gif, gif + bytes(100), gif + b'\n', gif[:-1]):
    assert len(decode(whole)) == 10
  with pytest.raises(decoding.RejectedError, match='a GIF without its end'):
    decode(gif[:-40])


def test_a_file_with_frames_that_the_decoder_marks_as_corrupt_is_rejected(tmp_path):
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 255, (144, 192, 3), np.uint8)
  path = tmp_path / 'a.mp4'
  path.write_bytes(video_files.mp4(np.stack([np.roll(noise, t, 1) for t in range(10)]), 25))
  content, reasons = path.read_bytes(), []
  for seed in range(8):
    damaged = bytearray(content)
    for at in random.Random(seed).sample(range(len(content) // 4, len(content) // 2), 3):
      damaged[at] ^= 0xFF
    for threads in (1, 2):
      try:
        decode(bytes(damaged), threads=threads)
        reasons.append('')
      except decoding.RejectedError as error:
        reasons.append(str(error))
  assert sum('as corrupt' in reason for reason in reasons) >= 12, reasons
  assert reasons[::2] == reasons[1::2]


def test_frames_hidden_by_an_edit_list_are_not_counted_as_missing(clip):
  """As written by `ffmpeg -ss -c copy`: all packets since the key frame, and an edit list that starts later."""
  content = bytearray(clip.read_bytes())
  at = content.index(b'elst') + 4 + 8  # version, flags, one entry: duration, media time, rate
  duration, start = (int.from_bytes(content[at + i : at + i + 4], 'big') for i in (0, 4))
  timescale = int.from_bytes(content[content.index(b'mdhd') + 4 + 12 :][:4], 'big')
  content[at : at + 4] = (duration // 2).to_bytes(4, 'big')
  content[at + 4 : at + 8] = (start + timescale * 15 // 25).to_bytes(4, 'big')
  assert numbers(decode(bytes(content), fps=25)) == list(range(15, 30))


@pytest.mark.parametrize(
  ('suffix', 'options'),
  [
    ('.mp4', {}), ('.mkv', {}), ('.avi', {'bf': '2'}), ('.ts', {}), ('.h264', {}),
    ('.mov', {'x264-params': 'tff=1'}),  # interlaced
  ],
)  # fmt: skip
def test_a_part_of_a_long_file_is_decoded_without_the_rest(tmp_path, monkeypatch, suffix, options):
  path = tmp_path / f'a{suffix}'
  encode(path, frames=500, options={'g': '25'} | options)
  whole, decoded = decode(path, fps=25), []
  counted = picture.deinterlaced

  def count(frames):
    for frame in frames:
      decoded.append(frame.pts)
      yield frame

  monkeypatch.setattr(picture, 'deinterlaced', lambda frames: counted(count(frames)))
  for first, number in ((0, 16), (400, 16), (131, 5), (-16, None), (-140, 4), (200, 1), (326, 2)):
    decoded.clear()
    stop = None if number is None else len(whole) * (first < 0) + first + number
    np.testing.assert_array_equal(decode(path, fps=25, first=first, count=number), whole[first:stop])
    if suffix in ('.mp4', '.mov', '.mkv', '.avi'):
      assert len(decoded) <= (16 + 30 + 50 if first > -140 else 140 + 100), (first, len(decoded))
  with pytest.raises(decoding.RejectedError, match='too short: 0 frames at 25 fps from frame 600 on, 3 needed'):
    decode(path, fps=25, first=600, count=3, min_frames=3)
  assert len(decode(path, count=16)) == 16


def test_decoding_from_the_end_ignores_a_header_duration_that_is_too_long(tmp_path):
  encode(tmp_path / 'a.mkv', frames=500, options={'g': '25'}, sound=60.0)
  content = (tmp_path / 'a.mkv').read_bytes().replace(b'DURATION', b'XXXXTION')
  np.testing.assert_array_equal(decode(content, fps=25, first=-8), decode(content, fps=25)[-8:])


def test_names_with_colons_or_non_utf8_bytes_are_decoded_and_urls_and_pipes_are_refused(clip, tmp_path, monkeypatch):
  """A file name may have a colon or bytes that are not UTF-8."""
  monkeypatch.chdir(tmp_path)
  for name in (b'12:30.mp4', b'caf\xe9.mp4'):
    (tmp_path / name.decode('utf-8', 'surrogateescape')).write_bytes(clip.read_bytes())
  found = files.walk(epath.Path(tmp_path))
  assert [files.printable(name) for name in found] == ['12:30.mp4', 'caf\\xe9.mp4']
  for name in found:
    assert len(decode(name)) == 30
  with pytest.raises(decoding.RejectedError, match='a URL; download it first'):
    decode('https://example.org/a.mp4')
  os.mkfifo('pipe.mp4')
  with pytest.raises(decoding.RejectedError, match='not a regular file'):
    decode('pipe.mp4')


def test_a_folder_that_cannot_be_read_is_a_usage_error_except_lost_and_found(tmp_path, monkeypatch):
  scandir = os.scandir

  def denied(folder):
    if os.path.basename(folder) != tmp_path.name:
      raise PermissionError(13, 'Permission denied')
    return scandir(folder)

  (tmp_path / 'clip.mp4').touch()
  (tmp_path / 'lost+found').mkdir()
  monkeypatch.setattr(os, 'scandir', denied)
  assert files.walk(epath.Path(tmp_path)) == ['clip.mp4']
  (tmp_path / 'class').mkdir()
  with pytest.raises(UsageError, match='class cannot be read: Permission denied'):
    files.walk(epath.Path(tmp_path))


def test_symbolic_links_are_followed_and_each_file_is_listed_once(tmp_path):
  root = tmp_path / 'root'
  for name in ('root/a', 'root/b/deep', 'elsewhere'):
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / 'clip.mp4').touch()
  (root / 'a' / 'up').symlink_to('..')
  (root / 'b' / 'deep' / 'up').symlink_to('../..')
  (root / 'c').symlink_to(tmp_path / 'elsewhere')
  (root / 'd').symlink_to('c')
  (root / 'b' / 'same.mp4').symlink_to('deep/clip.mp4')
  (root / 'b' / 'gone.mp4').symlink_to('nowhere')
  os.mkfifo(root / 'a' / 'pipe.mp4')
  assert files.walk(epath.Path(root)) == ['a/clip.mp4', 'b/deep/clip.mp4', 'b/gone.mp4', 'c/clip.mp4']
  # git-annex and DVC store the files in a hidden folder, the Hugging Face hub under names without a suffix.
  for stored, link in (('.git/annex/KEY.mp4', 'e/annex.mp4'), ('blobs/0af3', 'e/hub.mp4')):
    for path in (stored, link):
      (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / stored).touch()
    (root / link).symlink_to(root / stored)
  assert [path for path in files.walk(epath.Path(root)) if path[0] not in 'abcd'] == ['e/annex.mp4', 'e/hub.mp4']
  assert not [path for path in files.walk(epath.Path(root)) if 'blobs' in path]


def test_decoding_keeps_the_aspect_ratio_and_resamples_by_time(clip, tmp_path):
  wide = decode(clip, fps=25)
  encode(tmp_path / 'tall.mkv', width=32, height=64)
  tall = decode(tmp_path / 'tall.mkv', fps=25)
  assert wide.shape == (30, 16, 24, 3) and tall.shape == (30, 32, 16, 3) and wide.dtype == np.uint8
  half = decode(clip, fps=12.5)
  assert len(half) == 15
  np.testing.assert_array_equal(half, wide[::2])
  double = decode(clip, fps=50)
  np.testing.assert_array_equal(double, wide.repeat(2, axis=0))
  assert abs(wide[..., 1].mean((1, 2)) - 8 * np.arange(30)).max() < 10
  assert abs(wide[10, 8, :, 0] - np.linspace(0, 250, 24)).max() < 16
  # The quarter turn is clockwise: the dark left side becomes the top.
  np.testing.assert_array_equal(decode(quarter_turn(clip.read_bytes()), fps=25), np.rot90(wide, -1, (1, 2)))


def test_our_mp4_files_decode_to_the_written_frames(tmp_path):
  clip = np.zeros((6, 32, 32, 3), np.uint8) + np.arange(0, 240, 40, dtype=np.uint8)[:, None, None, None]
  (tmp_path / 'clip.mp4').write_bytes(video_files.mp4(clip, 25))
  read = decoding.decode(tmp_path / 'clip.mp4', short_side=32, fps=25)
  assert read.shape == clip.shape and abs(read.astype(int) - clip).max() < 6


def test_a_long_gap_between_timestamps_rejects_the_file(tmp_path):
  times = [40 * t + 4_000_000 * (t >= 15) for t in range(30)]
  encode(tmp_path / 'gap.mkv', times=times)
  with pytest.raises(decoding.RejectedError, match='a gap in time: one frame is shown for 4000 s'):
    decode(tmp_path / 'gap.mkv', fps=25)


def test_a_frame_size_that_changes_in_mid_stream_rejects_the_file(tmp_path):
  for name, width in (('one', 48), ('two', 64)):
    encode(tmp_path / f'{name}.h264', width=width)
  both = (tmp_path / 'one.h264').read_bytes() + (tmp_path / 'two.h264').read_bytes()
  with pytest.raises(decoding.RejectedError, match='its size changes'):
    decode(both, fps=25)


def test_a_frame_too_wide_for_a_jpeg_rejects_the_file(tmp_path):
  encode(tmp_path / 'strip.mkv', 3, 16400, 4, codec='ffv1')
  with pytest.raises(decoding.RejectedError, match='65600x16 pixels at this size; a JPEG has at most 65500'):
    decode(tmp_path / 'strip.mkv', fps=25)
