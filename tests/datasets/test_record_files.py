"""Tests of reading prepared record files: the right frames, and the replacement of unreadable ones."""

import io

import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from PIL import Image

from dvd_gan.datasets import catalog, index, record_files, shapes, window
from dvd_gan.datasets.prepare import building
from dvd_gan.runtime.errors import UsageError
from tests.datasets.clips import batch, open_files, read


@pytest.fixture
def own(prepared):
  """A copy of the prepared data set's config that a test may change."""
  return prepared.config.copy_and_resolve_references()


def test_the_embedded_data_set_is_built_with_its_splits_and_index(prepared):
  assert '30 clips of split train' in prepared.source.describe()
  splits = prepared.builder.info.splits
  assert splits['train'].num_examples == 30 and splits['validation'].num_examples == 3
  assert (prepared.folder / 'index-train.npz').exists()


def test_a_batch_holds_the_drawn_clips_within_the_jpeg_error(prepared):
  got = batch(prepared.config, prepared.source, 2)
  assert got['video'].dtype == np.uint8 and got['video'].shape == (2, 8, 5, 16, 16, 3)
  plan = window.plan(prepared.config, 2, np.arange(8), prepared.source.lengths)
  for video, label, start in zip(got['video'].reshape(-1, 5, 16, 16, 3), got['label'].ravel(), plan.start, strict=True):
    # The label of drawing i is i modulo 30: with 30 clips it identifies the clip. JPEG is not exact.
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


def test_a_transient_disk_error_is_retried_and_a_permanent_one_is_raised(prepared, own, monkeypatch):
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
  with pytest.raises(OSError, match=r'^\[Errno 5\] Input/output error$'):  # the OSError itself, not TensorFlow's error
    batch(own, fresh)


def test_a_bucket_that_does_not_answer_ends_the_run_instead_of_replacing_clips(prepared, own, monkeypatch):
  lost = open_files(own, prepared.folder, prepared.files)
  lost._paths, calls = [epath.Path('gs://bucket/file')] * len(lost._paths), []

  def no_answer(*arguments):
    calls.append(arguments)
    raise ConnectionError('503')

  monkeypatch.setattr(record_files.buckets, 'read', no_answer)
  with pytest.raises(ConnectionError, match='503'):
    lost.read(window.plan(own, 0, np.arange(8), lost.lengths))
  assert len(calls) == 1


def test_short_clips_repeat_their_last_frame_if_short_clips_is_repeat(prepared, own, tmp_path):
  own.data.frames, own.data.short_clips = 16, 'repeat'  # the clips have 13
  repeated = open_files(own, tmp_path, prepared.files)
  assert '30 shorter than the window of 16: their last frame is repeated' in repeated.describe()
  video = batch(own, repeated)['video']
  np.testing.assert_array_equal(video[:, :, 13:], np.repeat(video[:, :, 12:13], 3, axis=2))


def test_only_the_frames_of_the_window_are_decoded_then_cropped_and_flipped(tmp_path, config):
  """Red encodes the column and green the time of a frame. Frames outside the window are not JPEGs."""
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


def test_a_data_set_whose_clips_are_all_shorter_than_the_window_is_refused(prepared, own):
  own.data.frames = 14
  with pytest.raises(UsageError, match='none of 30 clips has the 14 frames'):
    open_files(own, prepared.folder, prepared.files)


def test_an_unknown_split_gives_an_error_that_lists_the_splits(own):
  own.data.split = 'nights'
  with pytest.raises(UsageError, match='only .*train'):
    catalog.open_records(own)
