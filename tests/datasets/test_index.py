import concurrent.futures

import jax
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets import index
from tests.datasets.clips import examples


def same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one._asdict(), other._asdict())


def test_the_index_locates_the_labels_and_frames_that_tfds_reads(prepared):
  decoders = {'video': tfds.decode.SkipDecoding()}
  read_config = tfds.ReadConfig(interleave_cycle_length=1)
  stored = prepared.builder.as_dataset(split='train', decoders=decoders, read_config=read_config)
  found = examples(prepared.folder, 'train')
  assert len(found) == 30
  for (label, frames), example in zip(found, stored, strict=True):
    assert label == int(example['label']) and frames == list(example['video'].numpy())


@pytest.mark.parametrize('size', [0, 100])
def test_a_truncated_index_is_rebuilt(prepared, size):
  path = prepared.folder / 'index-train.npz'
  before = index.load(prepared.folder, prepared.files, 'train')
  path.write_bytes(path.read_bytes()[:size])
  same(index.load(prepared.folder, prepared.files, 'train'), before)
  assert path.stat().length > 100


def test_an_index_written_by_an_earlier_version_is_still_read(monkeypatch):
  """tests/datasets/index was written at commit 86cee25, for two clips."""
  monkeypatch.setattr(index, 'build', None)
  folder = epath.Path(__file__).parent / 'index'
  files = [folder / 'clips.tfrecord']
  found = index.load(folder, files, 'train')
  monkeypatch.undo()
  same(found, index.build(files, 'video', ('label',)))
  content = files[0].read_bytes()
  begin, end = found.place(1, np.arange(found.frames[1]))
  assert all(
    content[a : a + 2] == b'\xff\xd8' and content[b - 2 : b] == b'\xff\xd9' for a, b in zip(begin, end, strict=True)
  )


def test_the_index_of_a_read_only_data_set_is_cached_elsewhere(prepared, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  folder = epath.Path('/proc/1')  # not writable, even for root
  built = index.load(folder, prepared.files, 'train')
  monkeypatch.setattr(index, 'build', None)  # the second load must not rebuild the index
  same(index.load(folder, prepared.files, 'train'), built)


def test_many_files_are_scanned_in_parallel_with_the_same_result(prepared, monkeypatch):
  files = prepared.files * 3
  alone = index.build(files, 'video', ('label',))
  monkeypatch.setattr(index, 'PARALLEL_BYTES', 0)
  pool, started = concurrent.futures.ProcessPoolExecutor, []
  monkeypatch.setattr(
    concurrent.futures, 'ProcessPoolExecutor', lambda *args, **kwargs: started.append(1) or pool(*args, **kwargs)
  )
  together = index.build(files, 'video', ('label',))
  assert started
  same(alone, together)
  assert len(together.shard) == 90 and together.shard.max() == 2


@pytest.mark.parametrize('size', [3, 500, 5000])
def test_a_truncated_record_file_is_named_in_the_error(prepared, tmp_path, size):
  path = tmp_path / 'short.tfrecord'
  path.write_bytes(prepared.files[0].read_bytes()[:size])
  with pytest.raises(ValueError, match=r'short.tfrecord ends in the middle of a record.*truncated'):
    index.build([epath.Path(path)], 'video', ('label',))


def no_label():
  video = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b'frame']))
  return tf.train.Example(features=tf.train.Features(feature={'video': video})).SerializeToString()


@pytest.mark.parametrize('record', [b'no Example at all', b'', no_label()])
def test_a_record_that_is_not_the_expected_example_is_reported_with_file_and_offset(tmp_path, record):
  path = write(tmp_path, record)
  with pytest.raises(ValueError, match=f'{path}: the record at byte 12 is no tf.train.Example with video, label'):
    index.build([path], 'video', ('label',))


def write(folder, record):
  path = folder / 'one.tfrecord'
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(record)
  return epath.Path(path)


def field(tag, content):
  return bytes([tag, len(content)]) + content


def test_a_label_stored_as_an_unpacked_varint_is_read(tmp_path):
  """The wire format allows a label as a single varint; protobuf's own writer packs it."""
  value = field(0x1A, bytes([0x08, 5]))  # int64_list { value: 5 }, not packed
  frames = field(0x0A, field(0x0A, b'abc'))  # bytes_list { value: "abc" }
  entries = [field(0x0A, b'label') + field(0x12, value), field(0x0A, b'video') + field(0x12, frames)]
  path = write(tmp_path, field(0x0A, b''.join(field(0x0A, entry) for entry in entries)))
  found = index.build([path], 'video', ('label',))
  assert found.numbers['label'].tolist() == [5] and found.frames.tolist() == [1]
  begin, end = found.place(0, np.array([0]))
  assert path.read_bytes()[begin[0] : end[0]] == b'abc'


@pytest.mark.parametrize('size', [1, 127, 128, 16383, 16384, 2097151, 2097152])
def test_frames_of_1_byte_to_2_mib_are_located(tmp_path, size):
  """A frame's length prefix takes 1 to 4 bytes. The record also has an empty frame and another field with a copy."""
  frames = [bytes([7]) * size, b'', b'last']
  feature = {
    'a copy': tf.train.Feature(bytes_list=tf.train.BytesList(value=frames[:1])),
    'label': tf.train.Feature(int64_list=tf.train.Int64List(value=[-1])),
    'video': tf.train.Feature(bytes_list=tf.train.BytesList(value=frames)),
  }
  path = write(tmp_path, tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
  found = index.build([path], 'video', ('label',))
  assert found.numbers['label'].tolist() == [-1]
  begin, end = found.place(0, np.array([0, 2]))
  content = path.read_bytes()
  assert [content[a:b] for a, b in zip(begin, end, strict=True)] == [frames[0], frames[2]]
