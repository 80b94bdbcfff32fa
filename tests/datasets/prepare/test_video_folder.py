import json
import pathlib
import shutil

import av
import numpy as np
import pytest

from dvd_gan import video as video_files
from dvd_gan.datasets import catalog
from dvd_gan.datasets.prepare import building, decoding
from dvd_gan.runtime.errors import UsageError
from tests.datasets.clips import batch, encode, encode_audio, quarter_turn, read

SIZE = 16


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two classes of good clips, and what people's folders also hold."""
  root = tmp_path_factory.mktemp('videos')
  for name in ('dogs', 'cats', 'empty class'):
    (root / name).mkdir()
  encode(root / 'cats' / 'a.mp4')
  encode(root / 'cats' / 'b.mkv', width=32, height=64)
  encode(root / 'dogs' / 'c.avi', fps=50, frames=60)
  encode(root / 'dogs' / 'd.gif')
  encode(root / 'dogs' / 'short.mp4', frames=3)
  encode_audio(root / 'dogs' / 'sound.mp4')
  whole = root / 'whole.mp4'  # beside the classes: not a clip
  encode(whole, frames=100, container_options={'movflags': 'faststart'})
  content = whole.read_bytes()
  (root / 'cats' / 'truncated.mp4').write_bytes(content[: len(content) // 2 + 600])
  (root / 'cats' / 'empty.mp4').write_bytes(b'')
  (root / 'cats' / 'letter.mp4').write_text('no video')
  (root / 'cats' / '._a.mp4').write_bytes(b'litter')
  (root / 'cats' / 'notes.txt').write_text('no video either')
  return root


@pytest.fixture
def folder_config(config, folder, tmp_path):
  config.data.name = 'video_folder'
  config.data.source = str(folder)
  config.data.dir = str(tmp_path / 'tfds')
  return config


def test_good_clips_are_kept_and_the_rest_listed_with_reasons(folder_config, capsys):
  source = catalog.open_records(folder_config)
  prepared = pathlib.Path(source.folder)
  rejects = {r['file']: r['reason'] for r in map(json.loads, (prepared / 'rejects.jsonl').read_text().splitlines())}
  reasons = {
    'cats/empty.mp4': 'empty file',
    'cats/letter.mp4': 'cannot be decoded',
    'cats/truncated.mp4': 'damaged after',
    'dogs/short.mp4': 'too short: 3 frames',
    'dogs/sound.mp4': 'no video stream',
  }
  assert rejects.keys() == reasons.keys()
  for file, reason in reasons.items():
    assert reason in rejects[file], rejects[file]
  assert '5 rejected' in capsys.readouterr().err
  assert sorted(read(source, clip)[1] for clip in range(4)) == [0, 0, 1, 1]  # cats, dogs; an empty folder is no class
  assert source.lengths.tolist() == [30, 30, 30, 30]
  assert '5 files rejected' in source.describe()
  got = batch(folder_config, source)
  assert got['video'].shape == (2, 8, 5, SIZE, SIZE, 3)
  green = got['video'][..., 1].mean((3, 4)).astype(int)
  assert (np.diff(green, axis=2) > 3).all()  # time runs forward in every window


def test_a_changed_folder_is_prepared_anew(folder_config, folder, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(folder, copy)
  folder_config.data.source = str(copy)
  before = building.make_builder(folder_config, *building.builder_class(folder_config)).data_dir
  assert building.make_builder(folder_config, *building.builder_class(folder_config)).data_dir == before
  encode(copy / 'cats' / 'new.mp4')
  assert building.make_builder(folder_config, *building.builder_class(folder_config)).data_dir != before


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda root: None, 'is not a folder'),
    (lambda root: root.mkdir(), 'no subfolder with videos'),
    (lambda root: ((root / 'a').mkdir(parents=True), (root / 'a' / 'x.mp4').write_bytes(b'')), 'none of the 1 videos'),
  ],
)
def test_a_folder_without_videos_is_one_line(folder_config, tmp_path, make, message):
  root = tmp_path / 'nothing'
  make(root)
  folder_config.data.source = str(root)
  with pytest.raises(UsageError, match=message) as error:
    catalog.open_records(folder_config)
  assert '\n' not in str(error.value)


def test_more_classes_than_the_model_has_is_told(folder_config):
  folder_config.data.num_classes = 1
  with pytest.raises(UsageError, match='num_classes=2'):
    catalog.open_records(folder_config)
  folder_config.data.use_labels = False
  assert '4 clips' in catalog.open_records(folder_config).describe()


def test_decoding_keeps_the_aspect_ratio_and_the_clock(folder):
  wide = decoding.decode(folder / 'cats' / 'a.mp4', short_side=SIZE, fps=25)
  tall = decoding.decode(folder / 'cats' / 'b.mkv', short_side=SIZE, fps=25)
  assert wide.shape == (30, 16, 24, 3) and tall.shape == (30, 32, 16, 3) and wide.dtype == np.uint8
  half = decoding.decode(folder / 'cats' / 'a.mp4', short_side=SIZE, fps=12.5)
  assert len(half) == 15
  np.testing.assert_array_equal(half, wide[::2])
  double = decoding.decode(folder / 'cats' / 'a.mp4', short_side=SIZE, fps=50)
  np.testing.assert_array_equal(double[::2], wide)
  np.testing.assert_array_equal(double[1::2], wide[: len(double) // 2])
  assert abs(wide[..., 1].mean((1, 2)) - 8 * np.arange(30)).max() < 10
  assert abs(wide[10, 8, :, 0] - np.linspace(0, 250, 24)).max() < 16


def test_rotation_is_applied(folder, tmp_path):
  upright = decoding.decode(folder / 'cats' / 'a.mp4', short_side=SIZE, fps=25)
  path = tmp_path / 'turned.mp4'
  path.write_bytes(quarter_turn((folder / 'cats' / 'a.mp4').read_bytes()))
  turned = decoding.decode(path, short_side=SIZE, fps=25)
  assert turned.shape == (30, 24, 16, 3)
  # The matrix turns clockwise: what was left, the dark side, is on top.
  np.testing.assert_array_equal(turned, np.rot90(upright, -1, (1, 2)))


def test_our_own_files_come_back(tmp_path):
  clip = np.zeros((6, 32, 32, 3), np.uint8) + np.arange(0, 240, 40, dtype=np.uint8)[:, None, None, None]
  (tmp_path / 'clip.mp4').write_bytes(video_files.mp4(clip, 25))
  read = decoding.decode(tmp_path / 'clip.mp4', short_side=32, fps=25)
  assert read.shape == clip.shape and abs(read.astype(int) - clip).max() < 6


def _mux(path, template, packets):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream_from_template(template)
    for packet in packets:
      packet.stream = stream
      container.mux(packet)


def test_a_gap_in_time_is_a_rejection_not_a_mountain_of_frames(folder, tmp_path):
  with av.open(str(folder / 'cats' / 'b.mkv')) as container:
    stream = container.streams.video[0]
    packets = [packet for packet in container.demux(stream) if packet.size]
    for packet in packets[15:]:
      packet.pts += int(4000 / packet.time_base)
      packet.dts += int(4000 / packet.time_base)
    _mux(tmp_path / 'gap.mkv', stream, packets)
  with pytest.raises(decoding.RejectedError, match='gap in time'):
    decoding.decode(tmp_path / 'gap.mkv', short_side=SIZE, fps=25)


def test_a_size_that_changes_in_mid_stream_is_a_rejection(tmp_path):
  for name, width in (('one', 48), ('two', 64)):
    encode(tmp_path / f'{name}.h264', width=width)
  both = tmp_path / 'both.h264'
  both.write_bytes((tmp_path / 'one.h264').read_bytes() + (tmp_path / 'two.h264').read_bytes())
  with pytest.raises(decoding.RejectedError, match='its size changes'):
    decoding.decode(both, short_side=SIZE, fps=25)


@pytest.mark.parametrize(('suffix', 'frames'), [('.mkv', 100), ('.gif', 100), ('.avi', 99), ('.mov', 100)])
def test_half_a_file_is_never_taken_for_a_whole_one(tmp_path, suffix, frames):
  whole, half = tmp_path / f'whole{suffix}', tmp_path / f'half{suffix}'
  encode(whole, frames=100)
  assert len(decoding.decode(whole, short_side=SIZE, fps=25)) == frames
  for share in (0.3, 0.5, 0.8):
    half.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(decoding.RejectedError):
      decoding.decode(half, short_side=SIZE, fps=25)
    with pytest.raises(decoding.RejectedError):
      decoding.decode(half.read_bytes(), short_side=SIZE, fps=25, threads=1)


def test_frames_hidden_by_an_edit_list_are_not_missing(folder, tmp_path):
  """What `ffmpeg -ss -c copy` leaves: all packets since the key frame, and an edit list that starts later."""
  content = bytearray((folder / 'cats' / 'a.mp4').read_bytes())
  at = content.index(b'elst') + 4 + 8  # version, flags, one entry: duration, media time, rate
  duration, start = (int.from_bytes(content[at + i : at + i + 4], 'big') for i in (0, 4))
  timescale = int.from_bytes(content[content.index(b'mdhd') + 4 + 12 :][:4], 'big')
  content[at : at + 4] = (duration // 2).to_bytes(4, 'big')
  content[at + 4 : at + 8] = (start + timescale * 15 // 25).to_bytes(4, 'big')
  path = tmp_path / 'cut.mp4'
  path.write_bytes(content)
  clip = decoding.decode(path, short_side=SIZE, fps=25)
  assert 13 <= len(clip) <= 17 and abs(clip[0, ..., 1].mean() - 8 * 15) < 12
