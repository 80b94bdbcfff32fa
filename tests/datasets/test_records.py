import io

import jax
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from dvd_gan.datasets import index, prepare, records, shapes, window
from dvd_gan.errors import UsageError
from tests.conftest import tiny_config

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


def test_hosts_and_resume_give_the_same_bytes(prepared):
  _, source = prepared
  run = source.host_batches(0, ROWS)
  batches = [next(run) for _ in range(3)]
  resumed = next(source.host_batches(2, ROWS))
  halves = [next(source.host_batches(2, ROWS[half])) for half in (slice(0, 4), slice(4, 8))]
  for name, value in batches[2].items():
    np.testing.assert_array_equal(value, resumed[name])
    np.testing.assert_array_equal(value, np.concatenate([half[name] for half in halves], axis=1))


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
