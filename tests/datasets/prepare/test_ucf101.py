import json
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dvd_gan.datasets import catalog, jpeg
from dvd_gan.datasets.prepare import ucf101
from dvd_gan.runtime.errors import UsageError
from tests.datasets.clips import encode, read

SIZE = 16
NAMES = {  # file -> class folder
  'v_ApplyEyeMakeup_g01_c01.avi': 'ApplyEyeMakeup',
  'v_HandStandPushups_g01_c02.avi': 'HandstandPushups',
  'v_YoYo_g25_c03.avi': 'YoYo',
}
LISTS = {
  'trainlist01.txt': 'ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\r\nYoYo/v_YoYo_g25_c03.avi 101\r\n',
  'testlist01.txt': 'HandstandPushups/v_HandStandPushups_g01_c02.avi\r\n',
  'trainlist02.txt': 'HandstandPushups/v_HandstandPushups_g01_c02.avi 37\n',
}


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
  path = tmp_path_factory.mktemp('clip') / 'clip.avi'
  encode(path)
  return path.read_bytes()


def official(root, clip):
  for name, folder in NAMES.items():
    (root / 'UCF-101' / folder).mkdir(parents=True, exist_ok=True)
    (root / 'UCF-101' / folder / name).write_bytes(clip)
  (root / 'ucfTrainTestlist').mkdir()
  for name, text in LISTS.items():
    (root / 'ucfTrainTestlist' / name).write_text(text, newline='')


def flat_zip(root, clip):
  with zipfile.ZipFile(root / 'UCF101.zip', 'w') as archive:
    for name in reversed(NAMES):
      archive.writestr(f'UCF101/{name}', clip)
  with zipfile.ZipFile(root / 'UCF101TrainTestSplits-RecognitionTask.zip', 'w') as archive:
    for name, text in LISTS.items():
      archive.writestr(f'ucfTrainTestlist/{name}', text)


def flat_files(root, clip):
  (root / 'UCF101').mkdir()
  for name in NAMES:
    (root / 'UCF101' / name).write_bytes(clip)
  for name, text in LISTS.items():
    (root / name).write_text(text)


def use(config, root, split='all'):
  config.data.name, config.data.num_classes, config.data.split = 'ucf101', 101, split
  config.data.source, config.data.dir = str(root / 'source'), str(root / 'tfds')
  return config


def labels(source):
  return sorted({int(read(source, clip)[1]) for clip in range(len(source.lengths))})


@pytest.mark.parametrize('lay', [official, flat_zip, flat_files])
def test_every_layout_of_ucf101_gives_all_clips_and_the_official_splits(config, tmp_path, clip, lay):
  (tmp_path / 'source').mkdir()
  lay(tmp_path / 'source', clip)
  source = catalog.open_records(use(config, tmp_path), build=True)
  assert '3 clips of split all' in source.describe()
  apply, hand, yoyo = (ucf101.IDS[name.lower()] for name in NAMES.values())
  assert labels(source) == sorted([apply, hand, yoyo])
  for split, expected in (('train_1', {apply, yoyo}), ('test_1', {hand}), ('train_2', {hand})):
    assert labels(catalog.open_records(use(config, tmp_path, split))) == sorted(expected)
  with pytest.raises(UsageError, match='without the official lists that split test_3 needs'):
    catalog.open_records(use(config, tmp_path, 'test_3'))
  with pytest.raises(UsageError, match='no split nights'):
    catalog.open_records(use(config, tmp_path, 'nights'))


def test_a_file_not_named_like_a_ucf101_clip_is_rejected(config, tmp_path, clip):
  (tmp_path / 'source').mkdir()
  flat_files(tmp_path / 'source', clip)
  (tmp_path / 'source' / 'holiday.avi').write_bytes(clip)
  source = catalog.open_records(use(config, tmp_path), build=True)
  (reject,) = map(json.loads, (source.folder / 'rejects.jsonl').open())
  assert reject['file'] == 'holiday.avi' and 'not called v_CLASS' in reject['reason']


def test_a_damaged_zip_member_and_a_truncated_zip_are_rejected_and_the_rest_is_kept(config, tmp_path, clip):
  (tmp_path / 'source').mkdir()
  flat_zip(tmp_path / 'source', clip)
  path = tmp_path / 'source' / 'UCF101.zip'
  content = bytearray(path.read_bytes())
  content[len(clip) // 2] ^= 255
  path.unlink()
  path.with_suffix('.ZIP').write_bytes(content)
  (tmp_path / 'source' / 'other.zip').write_bytes(b'PK, half of it')
  source = catalog.open_records(use(config, tmp_path), build=True)
  assert '2 clips of split all' in source.describe()
  rejects = {r['file']: r['reason'] for r in map(json.loads, (source.folder / 'rejects.jsonl').open())}
  assert len(rejects) == 2 and 'the archive is damaged after 0 clips' in rejects['other.zip']
  (member,) = rejects.keys() - {'other.zip'}
  assert member.startswith('UCF101.ZIP:UCF101/v_') and 'cannot be unpacked' in rejects[member]


def test_a_rar_file_gives_an_error_that_asks_to_extract_it(config, tmp_path):
  (tmp_path / 'source').mkdir()
  (tmp_path / 'source' / 'UCF101.rar').write_bytes(b'Rar!')
  with pytest.raises(UsageError, match='extract the .rar first'):
    catalog.open_records(use(config, tmp_path), build=True)


def test_ucf101_has_101_classes():
  assert len(ucf101.CLASSES) == len(ucf101.IDS) == 101


class Ucf101(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes the same as TFDS's builder of that name: larger JPEG frames, splits train and test."""

  VERSION = tfds.core.Version('2.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='ucf101_1')]
  name = 'ucf101'

  def _info(self):
    video = tfds.features.Video((None, None, None, 3), encoding_format='jpeg')
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({'video': video, 'label': tfds.features.ClassLabel(num_classes=101)}),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples([5, 6]), 'test': self._generate_examples([7])}

  def _generate_examples(self, classes):
    for label in classes:
      yield label, {'video': jpeg.encode(np.full((6, 24, 32, 3), 10 * label, np.uint8), 95), 'label': label}


def test_ucf101_prepared_by_tfds_is_read_and_a_split_of_another_list_is_refused(config, tmp_path):
  builder = Ucf101(data_dir=str(tmp_path / 'theirs'))
  builder.download_and_prepare()
  use(config, tmp_path)
  for split, expected in (('all', [5, 6, 7]), ('train_1', [5, 6]), ('test_1', [7])):
    config.data.source, config.data.split = str(builder.data_dir), split
    source = catalog.open_records(config)
    assert labels(source) == expected
  config.data.split = 'train_2'
  with pytest.raises(UsageError, match='split train_2 needs ucf101_2'):
    catalog.open_records(config)
  video, _ = read(source, 0)
  assert video.shape == (5, SIZE, SIZE, 3) and abs(video.astype(int) - 70).max() < 3
