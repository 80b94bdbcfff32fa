import csv
import gzip
import io
import itertools
import json
import operator
import re
import tarfile

import pytest

from dvd_gan.datasets import catalog
from dvd_gan.datasets.prepare import kinetics600
from dvd_gan.runtime.errors import UsageError
from tests.datasets.clips import batch, encode, encode_audio, examples, quarter_turn, variable_rate

SIZE = 16
GOOD = {'plain': 30, 'turned': 30, 'variable': 44, 'other': 40}  # number of frames at 25 fps


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  """(split, stem, class, content) of every clip of a small Kinetics with the faults of real copies."""
  root = tmp_path_factory.mktemp('clips')
  encode(root / 'plain.mp4')
  encode(root / 'other.mp4', frames=40)
  encode(root / 'short.mp4', frames=3)
  encode(root / 'whole.mp4', frames=100, container_options={'movflags': 'faststart'})
  encode_audio(root / 'sound.mp4')
  variable_rate(root / 'plain.mp4', root / 'variable.mp4')
  content = {path.stem: path.read_bytes() for path in root.glob('*.mp4')}
  content['turned'] = quarter_turn(content['plain'])
  whole = content.pop('whole')
  content['cut'] = whole[: len(whole) // 2 + 600]
  content['truncated'] = content['plain'][: len(content['plain']) // 2]  # the index, at the end of the file, is lost
  content['letter'] = b'not a video'
  content['empty'] = b''
  rows = [
    ('train', 'plain', 'abseiling'),
    ('train', 'turned', 'dancing gangnam style'),
    ('train', 'variable', "massaging person's head"),
    ('train', 'cut', 'abseiling'),
    ('train', 'truncated', 'abseiling'),
    ('train', 'sound', 'zumba'),
    ('train', 'short', 'zumba'),
    ('train', 'empty', 'zumba'),
    ('train', 'letter', 'zumba'),
    ('train', 'plain', 'juggling swords'),  # not one of the 600 classes
    ('validation', 'other', 'playing kickball'),
    ('validation', 'plain', 'sword fighting'),
    ('test', 'other', ''),  # published without labels
  ]
  return [
    (split, f'{i:02d}{name:_<9}_{i:06d}_{i + 10:06d}', label, content[name])
    for i, (split, name, label) in enumerate(rows)
  ]


def class_folders(root, clips, *, sanitised=True):
  for split, stem, label, content in clips:
    name = label.replace(' ', '_').replace("'", '') if sanitised else label
    folder = root / {'validation': 'val'}.get(split, split) / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{stem}.mp4').write_bytes(content)
    (folder / f'._{stem}.mp4').write_bytes(b'litter')


def annotate(root, clips):
  with (root / 'kinetics.csv').open('w') as file:
    table = csv.writer(file)
    table.writerow(['label', 'youtube_id', 'time_start', 'time_end', 'split'])
    for split, stem, label, _ in clips:
      table.writerow([label, stem[:11], int(stem[12:18]), int(stem[19:]), {'validation': 'val'}.get(split, split)])


def flat(root, clips):
  for _, stem, _, content in clips:
    (root / f'{stem}.mp4').write_bytes(content)
  annotate(root, clips)


def flat_json(root, clips):
  for split, stem, _, content in clips:
    (root / split).mkdir(exist_ok=True)
    (root / split / f'{stem}.mp4').write_bytes(content)
  for split, of_split in itertools.groupby(clips, lambda clip: clip[0]):
    entries = {
      stem[:11]: {'annotations': {'label': label, 'segment': [float(stem[12:18]), float(stem[19:])]}, 'subset': split}
      for _, stem, label, _ in of_split
    }
    (root / f'kinetics_600_{split}.json').write_text(json.dumps(entries))


def tars(root, clips):
  of = operator.itemgetter(0, 2)
  for (split, label), of_class in itertools.groupby(sorted(clips, key=of), of):
    (root / split).mkdir(exist_ok=True)
    with tarfile.open(root / split / f'{label or "part_0"}.tar.gz', 'w:gz') as archive:
      for _, stem, _, content in of_class:
        for name, value in ((f'./{stem}.mp4', content), (f'./._{stem}.mp4', b'litter')):
          member = tarfile.TarInfo(name)
          member.size = len(value)
          archive.addfile(member, io.BytesIO(value))


LAYOUTS = {
  'class folders': class_folders,
  'folders with the true names': lambda root, clips: class_folders(root, clips, sanitised=False),
  'flat with CSV': flat,
  'flat with JSON': flat_json,
  'tars': tars,
}


def build(config, root, name='tfds'):
  """Prepares the source; returns the folder of the data set."""
  config.data.name, config.data.num_classes = 'kinetics600', 600
  config.data.source, config.data.dir = str(root / 'source'), str(root / name)
  return catalog.open_records(config, build=True).folder


@pytest.fixture(scope='module')
def layouts(clips, tmp_path_factory):
  """The data set prepared from every layout: name -> folder."""
  from tests.conftest import tiny_config

  folders = {}
  for name, lay in LAYOUTS.items():
    root = tmp_path_factory.mktemp('kinetics')
    (root / 'source').mkdir()
    lay(root / 'source', clips)
    folders[name] = build(tiny_config(), root)
  return folders


def read(folder, split):
  """Reads [(label, frames)] of a split with TFDS."""
  import tensorflow_datasets as tfds

  return [
    (int(example['label']), example['video'])
    for example in tfds.as_numpy(tfds.builder_from_directory(folder).as_dataset(split=split))
  ]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_gives_the_expected_clips_labels_and_rejects(layouts, clips, layout):
  folder = layouts[layout]
  ids = {name: i for i, name in enumerate(kinetics600.CLASSES)}
  for split in ('train', 'validation', 'test'):
    expected = sorted(
      (ids.get(label, -1), GOOD[stem[2:11].rstrip('_')])
      for of, stem, label, _ in clips
      if of == split and stem[2:11].rstrip('_') in GOOD and (label in ids or not label)
    )
    assert sorted((label, len(video)) for label, video in read(folder, split)) == expected
  rejects = {r['clip'][2:11].rstrip('_'): r for r in map(json.loads, (folder / 'rejects.jsonl').open())}
  reasons = {
    'cut': 'damaged after',
    'truncated': 'cannot be decoded',
    'sound': 'no video stream',
    'short': 'too short: 3 frames',
    'empty': 'empty file',
    'letter': 'cannot be decoded',
    'plain': 'unknown class: juggling swords',
  }
  assert rejects.keys() == reasons.keys()
  for name, reason in reasons.items():
    assert reason in rejects[name]['reason']


def test_all_layouts_give_the_same_clips_in_the_same_order(layouts):
  for split in ('train', 'validation', 'test'):
    first, *others = (examples(folder, split) for folder in layouts.values())
    assert first and all(other == first for other in others)


def test_a_rotated_clip_is_turned_upright_and_keeps_its_aspect_ratio(layouts, clips):
  label = kinetics600.CLASSES.index('dancing gangnam style')
  (turned,) = [video for of, video in read(layouts['tars'], 'train') if of == label]
  assert turned.shape == (30, 24, SIZE, 3)


def test_training_reads_prepared_kinetics600_and_refuses_the_unlabelled_test_split(layouts, config):
  config.data.name, config.data.num_classes = 'kinetics600', 600
  config.data.dir = str(layouts['tars'].parents[2])
  source = catalog.open_records(config)
  assert batch(config, source)['video'].shape == (2, 8, 5, SIZE, SIZE, 3)
  assert '3 clips of split train' in source.describe() and '7 files rejected' in source.describe()
  config.data.split = 'test'
  with pytest.raises(UsageError, match='without a label'):
    catalog.open_records(config)


def test_a_flat_file_that_is_not_in_the_annotations_is_rejected(clips, config, tmp_path):
  (tmp_path / 'source').mkdir()
  flat(tmp_path / 'source', clips[:1])
  (tmp_path / 'source' / 'stranger.mp4').write_bytes(clips[0][3])
  folder = build(config, tmp_path)
  (reject,) = map(json.loads, (folder / 'rejects.jsonl').open())
  assert reject == {'clip': 'stranger', 'file': 'stranger.mp4', 'reason': 'not in the annotations'}


def test_a_truncated_tar_gives_the_clips_before_the_cut_and_is_reported(clips, config, tmp_path):
  (tmp_path / 'source').mkdir()
  tars(tmp_path / 'source', [('train', f'clip{i}', 'zumba', clips[0][3] + bytes(i)) for i in range(40)])
  (archive,) = (tmp_path / 'source' / 'train').iterdir()
  content = gzip.decompress(archive.read_bytes())
  archive.unlink()
  (archive.parent / 'zumba.tar').write_bytes(content[: len(content) // 2])
  folder = build(config, tmp_path)
  (reject,) = map(json.loads, (folder / 'rejects.jsonl').open())
  count = int(re.search(r'the archive is damaged after (\d+) clips', reject['reason'])[1])
  assert 0 < count < 40 and reject['file'] == 'train/zumba.tar'
  assert [label for label, _ in read(folder, 'train')] == [kinetics600.CLASSES.index('zumba')] * count


@pytest.mark.parametrize('fault', ['a flipped bit in a header', 'zeros from there on', 'cut between two members'])
def test_a_damaged_plain_tar_gives_its_first_clips_and_is_reported_unless_zeros_follow(clips, config, tmp_path, fault):
  (tmp_path / 'source').mkdir()
  tars(tmp_path / 'source', [('train', f'clip{i}', 'zumba', clips[0][3]) for i in range(4)])
  (packed,) = (tmp_path / 'source' / 'train').iterdir()
  content = bytearray(gzip.decompress(packed.read_bytes()))
  packed.unlink()
  at = content.index(b'./clip2.mp4')
  if fault.startswith('a flipped'):
    content[at + 3] ^= 1
  elif fault.startswith('zeros'):
    content[at:] = bytes(len(content) - at)
  else:
    content = content[:at]
  (tmp_path / 'source' / 'train' / 'zumba.tar').write_bytes(content)
  source = build(config, tmp_path)
  rejects = [json.loads(line) for line in (source / 'rejects.jsonl').open()]
  assert len(read(source, 'train')) == 2
  if not fault.startswith('zeros'):  # zeros to the end look like the regular end of a tar
    assert 'the archive is damaged after 2 clips' in rejects[0]['reason']


def test_annotations_with_a_byte_order_mark_missing_times_or_unrelated_tables_are_read(clips, config, tmp_path):
  """A byte order mark, unrelated tables and lists, a row without times, and a test set that is listed twice."""
  (tmp_path / 'source' / 'test').mkdir(parents=True)
  _, stem, _, content = clips[0]
  for i in range(2):
    (tmp_path / 'source' / 'test' / f'{i}{stem[1:]}.mp4').write_bytes(content)
  ids = [f'{i}{stem[1:11]}' for i in range(2)]
  table = f'label,youtube_id,time_start,time_end,split\r\nzumba,{ids[0]},0,10,test\r\nyoga,{ids[1]},,,test\r\n'
  (tmp_path / 'source' / 'kinetics600_test.csv').write_text(table, encoding='utf-8-sig', newline='')
  (tmp_path / 'source' / 'test.csv').write_text(f'youtube_id,time_start,time_end\n{ids[0]},0,10\n')
  (tmp_path / 'source' / 'sizes.csv').write_text('file,bytes\na,1\n')
  (tmp_path / 'source' / 'label_map.json').write_text('["zumba"]')
  config.data.split = 'test'
  folder = build(config, tmp_path)
  assert sorted(label for label, _ in read(folder, 'test')) == sorted(map(kinetics600.CLASSES.index, ['zumba', 'yoga']))


@pytest.mark.parametrize(
  'names', [('videos_train', 'videos_val'), ('train_256', 'val_256'), ('k600/Train', 'k600/valid')]
)
def test_common_folder_names_of_splits_are_recognised(clips, config, tmp_path, names):
  for name, label in zip(names, ('training dog', 'validating nothing'), strict=True):
    folder = tmp_path / 'source' / name / label
    folder.mkdir(parents=True)
    (folder / f'{clips[0][1]}.mp4').write_bytes(clips[0][3])
  folder = build(config, tmp_path)
  assert [label for label, _ in read(folder, 'train')] == [kinetics600.CLASSES.index('training dog')]
  (reject,) = map(json.loads, (folder / 'rejects.jsonl').open())
  assert reject['reason'] == 'unknown class: validating nothing'


def test_a_tar_of_one_split_with_class_folders_is_read(clips, config, tmp_path):
  (tmp_path / 'source').mkdir()
  for split, label in (('train', 'yoga'), ('val', 'zumba')):
    with tarfile.open(tmp_path / 'source' / f'{split}.tar.gz', 'w:gz') as archive:
      member = tarfile.TarInfo(f'{split}/{label}/{clips[0][1]}.mp4')
      member.size = len(clips[0][3])
      archive.addfile(member, io.BytesIO(clips[0][3]))
  folder = build(config, tmp_path)
  for split, label in (('train', 'yoga'), ('validation', 'zumba')):
    assert [of for of, _ in read(folder, split)] == [kinetics600.CLASSES.index(label)]


def test_a_second_file_of_the_same_clip_is_rejected(clips, config, tmp_path):
  (tmp_path / 'source').mkdir()
  class_folders(tmp_path / 'source', [clips[0], (*clips[0][:2], 'zumba', clips[0][3])])
  folder = build(config, tmp_path)
  (reject,) = map(json.loads, (folder / 'rejects.jsonl').open())
  assert 'another file of the same clip' in reject['reason'] and 'zumba' in reject['file']


@pytest.mark.parametrize(
  ('lay', 'message'),
  [
    (lambda source: None, 'is not a folder'),
    (lambda source: source.mkdir(), 'neither videos'),
    (lambda source: (source.mkdir(), (source / 'a.csv').write_text('a,b\n1,2\n')), 'neither videos'),
    (lambda source: (source.mkdir(), (source / 'a.tar').write_bytes(bytes(10240))), 'hold no videos|can be used'),
    (lambda source: (source.mkdir(), (source / 'a.mp4').write_text('')), 'none of the 1 videos'),
  ],
)
def test_a_source_without_usable_videos_is_reported_in_one_line(config, tmp_path, lay, message):
  lay(tmp_path / 'source')
  with pytest.raises(UsageError, match=message) as error:
    build(config, tmp_path)
  assert '\n' not in str(error.value)


def test_the_600_class_names_are_sorted_and_distinct_in_every_accepted_spelling():
  assert len(kinetics600.CLASSES) == len(kinetics600.IDS) == 600
  assert list(kinetics600.CLASSES) == sorted(kinetics600.CLASSES)
