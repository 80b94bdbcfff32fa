"""What is read of prepared record files: the right frames, and what replaces those that cannot be read."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dvd_gan.datasets import catalog, index, record_files, shapes, window
from dvd_gan.datasets.prepare import building
from dvd_gan.runtime.errors import UsageError
from tests.datasets.clips import batch, open_files, read


@pytest.fixture
def own(prepared):
  """A copy of the prepared set's config, free to change."""
  return prepared.config.copy_and_resolve_references()


def test_the_embedded_set_builds_itself_and_is_found_again(prepared):
  assert '30 clips of split train' in prepared.source.describe()
  splits = prepared.builder.info.splits
  assert splits['train'].num_examples == 30 and splits['validation'].num_examples == 3
  assert (prepared.folder / 'index-train.npz').exists()


def test_batches_are_the_clips_drawn(prepared):
  got = batch(prepared.config, prepared.source, 2)
  assert got['video'].dtype == np.uint8 and got['video'].shape == (2, 8, 5, 16, 16, 3)
  plan = window.plan(prepared.config, 2, np.arange(8), prepared.source.lengths)
  for video, label, start in zip(got['video'].reshape(-1, 5, 16, 16, 3), got['label'].ravel(), plan.start, strict=True):
    # The label of drawing i is i modulo 30: with 30 clips it names the clip. JPEG at quality 95 is close, not equal.
    drawn, _ = shapes.draw(0, int(label), frames=5 + building.SPARE_FRAMES, size=16)
    assert abs(video.astype(int) - drawn[start : start + 5]).mean() < 6


def test_a_damaged_frame_is_replaced_by_its_neighbour_and_reported_once(prepared, tmp_path, capsys):
  found = index.build(prepared.files, 'video', ('label',))
  begin, end = found.place(0, np.arange(found.frames[0]))
  content = bytearray(prepared.files[0].read_bytes())
  content[begin[6] : end[6]] = bytes(end[6] - begin[6])
  path = tmp_path / 'damaged.tfrecord'
  path.write_bytes(content)
  damaged = open_files(prepared.config, tmp_path, [path])
  video, _ = read(damaged, 0, 4)
  np.testing.assert_array_equal(video[2], video[1])
  assert (video[3] != video[2]).any()
  whole, _ = read(prepared.source, 0, 4)
  np.testing.assert_array_equal(video[[0, 1, 3, 4]], whole[[0, 1, 3, 4]])
  read(damaged, 0, 5)
  reported = capsys.readouterr().err.splitlines()
  assert len(reported) == 1 and f'{path}: the frame at byte {begin[6]} is damaged' in reported[0]


def test_an_unreadable_clip_is_replaced_by_the_next_and_reported_once(prepared, tmp_path, capsys):
  found = index.build(prepared.files, 'video', ('label',))
  begin, end = found.place(0, np.arange(found.frames[0]))
  content = bytearray(prepared.files[0].read_bytes())
  for a, b in zip(begin, end, strict=True):
    content[a:b] = bytes(b - a)
  path = tmp_path / 'lost.tfrecord'
  path.write_bytes(content)
  lost = open_files(prepared.config, tmp_path, [path])
  for _ in range(2):
    for got, expected in zip(read(lost, 0), read(prepared.source, 1), strict=True):
      np.testing.assert_array_equal(got, expected)
  reported = capsys.readouterr().err
  assert reported.count('no frame of clip 0 can be decoded; the next clip replaces it') == 1


def test_a_disk_that_fails_for_a_moment_is_asked_again_and_one_that_is_gone_ends_the_run(prepared, own, monkeypatch):
  own.data.threads = 1  # so that the failures alternate
  expected = batch(own, prepared.source)
  monkeypatch.setattr(record_files, 'WAITS', (0.0, 0.0))
  read_bytes, failures = record_files.read_bytes, iter([True, False] * 40)

  def flaky(*arguments):
    if next(failures, False):
      raise OSError(5, 'Input/output error')
    return read_bytes(*arguments)

  monkeypatch.setattr(record_files, 'read_bytes', flaky)
  np.testing.assert_array_equal(batch(own, prepared.source)['video'], expected['video'])
  failures = iter([True] * 10**6)
  fresh = open_files(own, prepared.folder, prepared.files)
  with pytest.raises(OSError, match=r'^\[Errno 5\] Input/output error$'):  # the disk's words, not TensorFlow's
    batch(own, fresh)


def test_short_clips_repeat_their_last_frame_where_asked(prepared, own, tmp_path):
  own.data.frames, own.data.short_clips = 16, 'repeat'  # the clips have 13
  repeated = open_files(own, tmp_path, prepared.files)
  assert '30 shorter than the window of 16: their last frame is repeated' in repeated.describe()
  video = batch(own, repeated)['video']
  np.testing.assert_array_equal(video[:, :, 13:], np.repeat(video[:, :, 12:13], 3, axis=2))


def test_only_the_window_is_decoded_cropped_and_flipped(tmp_path, config):
  """A record of wide frames whose first pixel column tells frame and place; frames outside the window are no JPEGs."""
  config.data.frames, config.data.stride, config.data.flip = 4, 2, True
  frames = []
  for t in range(7):
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[..., 0] = 8 * np.arange(32)
    picture[..., 1] = 30 * t
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, 'JPEG', quality=98, subsampling=0)
    frames.append(buffer.getvalue() if t % 2 == 0 else b'not a picture')
  feature = {
    'label': tf.train.Feature(int64_list=tf.train.Int64List(value=[2])),
    'video': tf.train.Feature(bytes_list=tf.train.BytesList(value=frames)),
  }
  path = str(tmp_path / 'clips.tfrecord')
  with tf.io.TFRecordWriter(path) as writer:
    for _ in range(2):
      writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
  got = batch(config, open_files(config, tmp_path, [path]))
  plan = window.plan(config, 0, np.arange(8), np.full(2, 7))
  assert (got['label'] == 2).all() and plan.flip.any() and not plan.flip.all()
  for video, crop, flip in zip(got['video'].reshape(-1, 4, 16, 16, 3).astype(int), plan.crop, plan.flip, strict=True):
    columns = 8 * (int(crop[1] * 17) + np.arange(16))
    expected = columns[::-1] if flip else columns
    assert abs(video[..., 0] - expected).max() < 12
    assert abs(video[..., 1].mean((1, 2)) - [0, 60, 120, 180]).max() < 6


def test_clips_shorter_than_the_window_are_left_out(prepared, own):
  own.data.frames = 14
  with pytest.raises(UsageError, match='none of 30 clips has the 14 frames'):
    open_files(own, prepared.folder, prepared.files)


def test_an_unknown_split_is_named(own):
  own.data.split = 'nights'
  with pytest.raises(UsageError, match='only .*train'):
    catalog.open_records(own)
