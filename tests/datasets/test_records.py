import io
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from dvd_gan.datasets import index, prepare, records, shapes, window
from dvd_gan.errors import UsageError
from tests.conftest import ROOT, tiny_config

ROWS = np.arange(8)


def open_files(config, folder, paths):
  """Records over files that no builder wrote."""
  files = [epath.Path(path) for path in paths]
  clips = index.load(epath.Path(folder), files, 'train')
  return records.Records(config, epath.Path(folder), clips, files, clips.numbers['label'])


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  config = tiny_config()
  config.data.num_classes = 30
  config.data.dir = str(tmp_path_factory.mktemp('tfds'))
  return config, prepare.open_records(config)


def test_the_embedded_set_builds_itself_and_is_found_again(prepared):
  config, source = prepared
  assert '30 clips of split train' in source.describe()
  builder = prepare.make_builder(config)
  assert builder.info.splits['train'].num_examples == 30 and builder.info.splits['validation'].num_examples == 3
  assert (builder.data_path / 'index-train.npz').exists()


WITHOUT_TENSORFLOW = """
import sys
import numpy as np
from dvd_gan.datasets import pipeline
from tests.tiny import get_config
config = get_config()
config.data.num_classes, config.data.dir = 30, sys.argv[1]
batch = next(pipeline.open_source(config).host_batches(2, np.arange(8)))
np.savez(sys.argv[2], **batch)
assert 'tensorflow' not in sys.modules
"""


def test_what_is_prepared_is_read_without_tensorflow(prepared, tmp_path):
  config, source = prepared
  out = tmp_path / 'batch.npz'
  subprocess.run([sys.executable, '-c', WITHOUT_TENSORFLOW, config.data.dir, str(out)], cwd=ROOT, check=True)
  for name, value in next(source.host_batches(2, ROWS)).items():
    np.testing.assert_array_equal(np.load(out)[name], value)


def test_the_index_finds_what_tfds_reads(prepared):
  config, source = prepared
  builder = prepare.make_builder(config)
  decoders = {'video': tfds.decode.SkipDecoding()}
  read_config = tfds.ReadConfig(interleave_cycle_length=1)
  for i, example in enumerate(builder.as_dataset(split='train', decoders=decoders, read_config=read_config)):
    assert source._index.numbers['label'][i] == int(example['label'])
    frames = example['video'].numpy()
    assert source._index.frames[i] == len(frames)
    begin, end = source._index.place(i, np.arange(len(frames)))
    content = source._files[source._index.shard[i]].path.read_bytes()
    assert [content[a:b] for a, b in zip(begin, end, strict=True)] == list(frames)


def test_batches_are_the_clips_drawn(prepared):
  config, source = prepared
  batch = next(source.host_batches(2, ROWS))
  assert batch['video'].dtype == np.uint8 and batch['video'].shape == (2, 8, 5, 16, 16, 3)
  plan = window.plan(config, 2, ROWS, source._index.frames)
  for got, label, start in zip(
    batch['video'].reshape(-1, 5, 16, 16, 3), batch['label'].ravel(), plan.start, strict=True
  ):
    # The label of drawing i is i modulo 30: with 30 clips it names the clip. JPEG at quality 95 is close, not equal.
    drawn, _ = shapes.draw(0, int(label), frames=5 + prepare.SPARE_FRAMES, size=16)
    assert abs(got.astype(int) - drawn[start : start + 5]).mean() < 6


@pytest.mark.parametrize('size', [0, 100])
def test_an_index_cut_short_is_made_anew(prepared, size):
  config, source = prepared
  path = prepare.make_builder(config).data_path / 'index-train.npz'
  path.write_bytes(path.read_bytes()[:size])
  again = index.load(source._folder, [file.path for file in source._files], 'train')
  jax.tree.map(np.testing.assert_array_equal, again._asdict(), source._index._asdict())
  assert path.stat().length > 100


def test_an_index_of_a_read_only_set_is_kept_elsewhere(prepared, tmp_path, monkeypatch):
  _, source = prepared
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  files = [file.path for file in source._files]
  folder = epath.Path('/proc/1')  # nobody can write there
  index.load(folder, files, 'train')
  monkeypatch.setattr(index, 'build', None)  # what follows must not need it
  again = index.load(folder, files, 'train')
  jax.tree.map(np.testing.assert_array_equal, again._asdict(), source._index._asdict())


def test_many_files_are_scanned_by_many_processes(prepared, monkeypatch):
  _, source = prepared
  files = [file.path for file in source._files] * 3
  alone = index.build(files, 'video', ('label',))
  monkeypatch.setattr(index, 'PARALLEL_BYTES', 0)
  monkeypatch.setattr(index, '_records', None)  # this process must not need it
  together = index.build(files, 'video', ('label',))
  jax.tree.map(np.testing.assert_array_equal, alone._asdict(), together._asdict())
  assert len(together.shard) == 90 and together.shard.max() == 2


@pytest.mark.parametrize('size', [3, 500, 5000])
def test_a_file_cut_short_is_told(prepared, tmp_path, size):
  path = tmp_path / 'short.tfrecord'
  path.write_bytes(prepared[1]._files[0].path.read_bytes()[:size])
  with pytest.raises(ValueError, match='truncated'):
    index.build([epath.Path(path)], 'video', ('label',))


def test_a_file_of_something_else_is_told(tmp_path):
  path = tmp_path / 'other.tfrecord'
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(tf.train.Example().SerializeToString())
    writer.write(b'no Example at all')
  with pytest.raises(ValueError, match='the record at byte 12 has no'):
    index.build([epath.Path(path)], 'video', ('label',))


def test_a_damaged_frame_is_replaced_by_its_neighbour_and_told(prepared, tmp_path, capsys):
  config, source = prepared
  begin, end = source._index.place(0, np.arange(source._index.frames[0]))
  content = bytearray(source._files[0].path.read_bytes())
  content[begin[6] : end[6]] = bytes(end[6] - begin[6])
  path = tmp_path / 'damaged.tfrecord'
  path.write_bytes(content)
  damaged = open_files(config, tmp_path, [path])
  out = np.zeros((5, 16, 16, 3), np.uint8)
  damaged._read(out, 0, 4, np.zeros(2), False)
  np.testing.assert_array_equal(out[2], out[1])
  assert (out[3] != out[2]).any()
  damaged._read(out, 0, 5, np.zeros(2), False)
  told = capsys.readouterr().err.splitlines()
  assert len(told) == 1 and f'{path}: the frame at byte {begin[6]} is damaged' in told[0]
  for a, b in zip(begin, end, strict=True):
    content[a:b] = bytes(b - a)
  path.write_bytes(content)
  # A clip that is lost altogether: the next one stands in, with its label.
  lost = open_files(config, tmp_path, [path])
  assert lost._read_or_next(out, 0, 0, np.zeros(2), False) == source._index.numbers['label'][1]
  expected = np.zeros_like(out)
  source._read(expected, 1, 0, np.zeros(2), False)
  np.testing.assert_array_equal(out, expected)
  assert 'no frame of clip 0 can be decoded; the next clip stands in' in capsys.readouterr().err


def test_a_disk_that_fails_for_a_moment_is_asked_again_and_one_that_is_gone_ends_the_run(prepared, monkeypatch):
  config, source = prepared
  config = config.copy_and_resolve_references()
  config.data.threads = 1  # so that the failures alternate
  expected = next(source.host_batches(0, ROWS))
  fresh = open_files(config, source._folder, [file.path for file in source._files])
  monkeypatch.setattr(records, 'WAITS', (0.0, 0.0))
  read, failures = records._File.read, iter([True, False] * 40)

  def flaky(self, *arguments):
    if next(failures, False):
      raise OSError(5, 'Input/output error')
    return read(self, *arguments)

  with monkeypatch.context() as patch:
    patch.setattr(records._File, 'read', flaky)
    np.testing.assert_array_equal(next(fresh.host_batches(0, ROWS))['video'], expected['video'])
  failures = iter([True] * 10**6)
  monkeypatch.setattr(records._File, 'read', flaky)
  with pytest.raises(OSError, match='Input/output error'):
    next(fresh.host_batches(0, ROWS))


def test_short_clips_repeat_their_last_frame_where_asked(prepared, tmp_path):
  config, source = prepared
  config = config.copy_and_resolve_references()
  config.data.frames, config.data.short_clips = 16, 'repeat'  # the clips have 13
  repeated = open_files(config, tmp_path, [file.path for file in source._files])
  assert '30 shorter than the window of 16: their last frame is repeated' in repeated.describe()
  video = next(repeated.host_batches(0, ROWS))['video']
  np.testing.assert_array_equal(video[:, :, 13:], np.repeat(video[:, :, 12:13], 3, axis=2))


def test_less_memory_reads_less_far_ahead(prepared):
  config, source = prepared
  config = config.copy_and_resolve_references()
  expected = next(source.host_batches(0, ROWS))
  config.data.ram_gib, config.data.prefetch = 1e-9, 50
  frugal = open_files(config, source._folder, [file.path for file in source._files])
  batches = frugal.host_batches(0, ROWS)
  np.testing.assert_array_equal(next(batches)['video'], expected['video'])


def test_hosts_and_resume_give_the_same_bytes(prepared):
  _, source = prepared
  run = source.host_batches(0, ROWS)
  batches = [next(run) for _ in range(3)]
  resumed = next(source.host_batches(2, ROWS))
  for name, value in batches[2].items():
    np.testing.assert_array_equal(value, resumed[name])
  for hosts in (2, 4):
    parts = [next(source.host_batches(2, rows)) for rows in np.split(ROWS, hosts)]
    for name, value in batches[2].items():
      np.testing.assert_array_equal(value, np.concatenate([part[name] for part in parts], axis=1))


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
  source = open_files(config, tmp_path, [path])
  batch = next(source.host_batches(0, ROWS))
  plan = window.plan(config, 0, ROWS, np.full(2, 7))
  assert (batch['label'] == 2).all() and plan.flip.any() and not plan.flip.all()
  for got, crop, flip in zip(batch['video'].reshape(-1, 4, 16, 16, 3).astype(int), plan.crop, plan.flip, strict=True):
    columns = 8 * (int(crop[1] * 17) + np.arange(16))
    expected = columns[::-1] if flip else columns
    assert abs(got[..., 0] - expected).max() < 12
    assert abs(got[..., 1].mean((1, 2)) - [0, 60, 120, 180]).max() < 6


def test_clips_shorter_than_the_window_are_left_out(prepared, tmp_path):
  config, source = prepared
  long = config.copy_and_resolve_references()
  long.data.frames = 14
  with pytest.raises(UsageError, match='none of 30 clips has the 14 frames'):
    open_files(long, source._folder, [file.path for file in source._files])


def test_an_unknown_split_is_told(prepared):
  config = prepared[0].copy_and_resolve_references()
  config.data.split = 'nights'
  with pytest.raises(UsageError, match='only .*train'):
    prepare.open_records(config)


def test_unpacked_integers_and_other_fields_are_read(tmp_path):
  """The wire format allows a label as a single varint; protobuf's own writer packs it."""
  value = bytes([0x1A, 2, 0x08, 5])  # int64_list { value: 5 }, not packed
  entry = bytes([0x0A, 5]) + b'label' + bytes([0x12, len(value)]) + value
  frames = bytes([0x0A, 5, 0x0A, 3]) + b'abc'  # bytes_list { value: "abc" }
  other = bytes([0x0A, 5]) + b'video' + bytes([0x12, len(frames)]) + frames
  features = b''.join(bytes([0x0A, len(e)]) + e for e in (entry, other))
  path = tmp_path / 'one.tfrecord'
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(bytes([0x0A, len(features)]) + features)
  found = index.build([epath.Path(path)], 'video', ('label',))
  assert found.numbers['label'].tolist() == [5] and found.frames.tolist() == [1]
  begin, end = found.place(0, np.array([0]))
  assert path.read_bytes()[begin[0] : end[0]] == b'abc'
