import json
import pathlib
import shutil

import numpy as np
import pytest

from dvd_gan.datasets import catalog
from dvd_gan.datasets.prepare import building, decoding, video_folder
from dvd_gan.runtime.errors import UsageError
from tests.datasets.clips import batch, encode, encode_audio, read

SIZE = 16


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two classes of good clips, with the broken and unrelated files of real folders."""
  root = tmp_path_factory.mktemp('videos')
  for name in ('dogs', 'cats', 'empty class'):
    (root / name).mkdir()
  encode(root / 'cats' / 'a.mp4')
  encode(root / 'cats' / 'b.mkv', width=32, height=64)
  encode(root / 'dogs' / 'c.avi', fps=50, frames=60)
  encode(root / 'dogs' / 'd.gif')
  encode(root / 'dogs' / 'short.mp4', frames=3)
  encode_audio(root / 'dogs' / 'sound.mp4')
  whole = root / 'whole.mp4'  # outside the class folders, so not a clip
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


def test_good_clips_are_kept_and_the_rest_is_listed_with_reasons(folder_config, capsys):
  source = catalog.open_records(folder_config)
  prepared = pathlib.Path(source.folder)
  rejects = {r['file']: r['reason'] for r in map(json.loads, (prepared / 'rejects.jsonl').read_text().splitlines())}
  reasons = {
    'cats/empty.mp4': 'empty file',
    'cats/letter.mp4': 'cannot be decoded',
    'cats/truncated.mp4': 'damaged after',
    'dogs/short.mp4': 'too short: 3 frames',
    'dogs/sound.mp4': 'no video stream',
    'cats/notes.txt': 'no video by its suffix',
    'whole.mp4': 'in no folder of a class',
  }
  assert rejects.keys() == reasons.keys()
  for file, reason in reasons.items():
    assert reason in rejects[file], rejects[file]
  assert '7 rejected' in capsys.readouterr().err
  assert sorted(read(source, clip)[1] for clip in range(4)) == [0, 0, 1, 1]  # cats, dogs; an empty folder is no class
  assert source.lengths.tolist() == [30, 30, 30, 30]
  assert '7 files rejected' in source.describe()
  got = batch(folder_config, source)
  assert got['video'].shape == (2, 8, 5, SIZE, SIZE, 3)
  green = got['video'][..., 1].mean((3, 4)).astype(int)
  assert (np.diff(green, axis=2) > 3).all()  # time runs forward in every window


def test_split_folders_share_one_class_list_and_may_hold_unlabelled_clips(folder_config, folder, tmp_path):
  root = tmp_path / 'source'
  for place in ('train/dogs/a.mp4', 'train/cats/b.MP4', 'test/dogs/c.ts', 'Validation/birds/d.mp4', 'test/loose.mp4'):
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / 'cats' / 'a.mp4', root / place)
  folder_config.data.source = str(root)
  labels = {}
  for split in ('train', 'test', 'validation'):
    folder_config.data.split = split
    source = catalog.open_records(folder_config)
    labels[split] = sorted(source.labels.tolist())
  assert labels == {'train': [1, 2], 'test': [2], 'validation': [0]}  # birds, cats, dogs
  assert 'in no folder of a class' in (source.folder / 'rejects.jsonl').read_text()
  with_labels = video_folder.make_config(folder_config)
  folder_config.data.use_labels = False
  assert video_folder.make_config(folder_config) == with_labels  # the same data set for training and evaluation
  shutil.copytree(root / 'train' / 'dogs', root / 'valid')  # a split without class folders has unlabelled clips
  assert ('valid/a.mp4', 'validation', -1) not in video_folder.make_config(
    folder_config
  ).files  # Validation has class folders
  shutil.rmtree(root / 'Validation')
  assert ('valid/a.mp4', 'validation', -1) in video_folder.make_config(folder_config).files
  shutil.rmtree(root / 'valid')

  shutil.copytree(root / 'train' / 'dogs', root / 'horses')
  with pytest.raises(UsageError, match='has the split train beside horses: folders'):
    video_folder.make_config(folder_config)
  flat = tmp_path / 'flat'
  shutil.copytree(root / 'train' / 'dogs', flat)
  folder_config.data.source = str(flat)
  assert video_folder.make_config(folder_config).files == (('a.mp4', 'train', -1),)
  folder_config.data.use_labels = True
  with pytest.raises(UsageError, match='1 videos lie in none'):
    video_folder.make_config(folder_config)
  plain = tmp_path / 'plain'
  for name in ('test', 'walk'):  # class folders, one of them with the name of a split
    shutil.copytree(root / 'train' / 'dogs', plain / name)
  folder_config.data.source = str(plain)
  assert video_folder.make_config(folder_config).classes == ('test', 'walk')


def test_file_names_with_colons_or_non_utf8_bytes_and_cyclic_links_are_read(folder_config, folder, tmp_path):
  root = tmp_path / 'source'
  for name, file in (('cats', b'caf\xe9.mp4'), ('d:ogs', b'12:30.mp4')):
    (root / name).mkdir(parents=True)
    (root / name / file.decode('utf-8', 'surrogateescape')).write_bytes((folder / 'cats' / 'a.mp4').read_bytes())
    (root / name / 'up').symlink_to('..')
  encode(root / 'cats' / 'strip.mkv', 3, 16400, 4, codec='ffv1')
  folder_config.data.source = str(root)
  source = catalog.open_records(folder_config)
  assert sorted(read(source, clip)[1] for clip in range(len(source.lengths))) == [0, 1]
  (reject,) = (source.folder / 'rejects.jsonl').read_text().splitlines()
  assert 'cats/strip.mkv' in reject and '65600x16 pixels' in reject


def test_a_data_set_of_an_earlier_decoder_opens_with_a_one_line_warning(folder_config, capsys):
  source = catalog.open_records(folder_config)
  capsys.readouterr()
  assert source.decoder == decoding.VERSION
  assert catalog.open_records(folder_config).decoder == decoding.VERSION and not capsys.readouterr().err
  (source.folder / building.DECODER_FILE).unlink()
  before = catalog.open_records(folder_config)
  assert before.decoder == 1 and before.lengths.tolist() == source.lengths.tolist()
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and 'remove that folder and run --mode=prepare' in line and str(source.folder) in line


def test_a_changed_folder_gets_another_data_set_directory(folder_config, folder, tmp_path):
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
def test_a_folder_without_usable_videos_is_reported_in_one_line(folder_config, tmp_path, make, message):
  root = tmp_path / 'nothing'
  make(root)
  folder_config.data.source = str(root)
  with pytest.raises(UsageError, match=message) as error:
    catalog.open_records(folder_config)
  assert '\n' not in str(error.value)


def test_more_classes_than_num_classes_are_refused_unless_labels_are_unused(folder_config):
  folder_config.data.num_classes = 1
  with pytest.raises(UsageError, match='num_classes=2'):
    catalog.open_records(folder_config)
  folder_config.data.use_labels = False
  assert '4 clips' in catalog.open_records(folder_config).describe()
