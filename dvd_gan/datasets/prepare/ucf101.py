"""TFDS builder of UCF-101 from the extracted official copy, from flat files, or from a zip of them.

TFDS's own `ucf101` can be read, too (catalog.py). But its frames were encoded with ffmpeg's default JPEG rate control,
which gives 29 dB PSNR after the first frame of a clip, and its 256-pixel version distorts 4:3 to a square.
"""

import functools
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets.prepare import archives, ingest
from dvd_gan.datasets.prepare.video_builder import VideoBuilder, features
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError

# In the order of the official classInd.txt, from 0.
CLASSES = tuple(pathlib.Path(__file__).with_name('ucf101.txt').read_text().splitlines())
IDS = {name.lower(): i for i, name in enumerate(CLASSES)}  # files are named HandStandPushups, folders HandstandPushups
NAME = re.compile(r'v_([a-z]+)_g\d+_c\d+\.avi', re.IGNORECASE)
LIST = re.compile(r'(train|test)list0([123])\.txt')
PARTS = ('', 'train', 'test')  # meaning of the values 0 to 2 of the features split_1 to split_3


class Ucf101Clips(VideoBuilder):
  """All clips, each once; the official lists are stored as features split_1 to split_3, see `part_of`.

  25 frames a second, aspect ratio kept, JPEGs of quality 90. The name differs from that of TFDS's own `ucf101`.
  """

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    lists = {f'split_{i}': tfds.features.Scalar(np.int64) for i in (1, 2, 3)}
    return self.dataset_info_from_configs(
      features=features(CLASSES, **lists), homepage='https://www.crcv.ucf.edu/data/UCF101.php'
    )

  def sources(self) -> dict[str, list[archives.Source]]:
    root = epath.Path(self.source).expanduser()
    if root.suffix.lower() == '.zip' and root.exists():
      root, paths = root.parent, [root]
    elif files.is_folder(root):
      paths = [root / path for path in files.walk(root)]
    else:
      raise UsageError(f'data.source={self.source} is neither a folder nor a .zip')
    lists = _lists(paths)
    found: list[archives.Source] = []
    for path in paths:
      name = files.printable(path.relative_to(root))
      if path.suffix.lower() == '.avi':
        found.append(_clip(path.name, lists=lists)._replace(name=name, path=str(path)))
      elif path.suffix.lower() == '.zip' and not _holds_lists(path):
        found.append(archives.Archive(str(path), name, functools.partial(_clip, lists=lists)))
    if not found:
      rar = ': extract the .rar first' if any(path.suffix.lower() == '.rar' for path in paths) else ''
      raise UsageError(f'{root} has neither v_*.avi files nor a .zip of them{rar}')
    return {'train': found}


def part_of(split: str) -> tuple[str, int] | None:
  """(feature, value) that the clips of a split train_1 to test_3 have; None for `all`.

  TFDS reserves the name `all`, so in the records every clip is in `train`.

  Raises:
    UsageError: for any other name.
  """
  if split == 'all':
    return None
  match = re.fullmatch('(train|test)_([123])', split)
  if not match:
    raise UsageError(f'ucf101 has no split {split}, only all, train_1 to train_3 and test_1 to test_3')
  return f'split_{match[2]}', PARTS.index(match[1])


def _clip(file: str, *, lists: dict[str, dict[str, int]]) -> ingest.Clip:
  name = file.rpartition('/')[2]
  match = NAME.fullmatch(name)
  clip = ingest.Clip(name.rpartition('.')[0].lower(), file)
  if not match or match[1].lower() not in IDS:
    return clip._replace(reject='not called v_CLASS_gNN_cNN.avi after one of the 101 classes')
  parts = lists.get(name.lower(), {})
  numbers = {f'split_{i}': parts.get(str(i), 0) for i in (1, 2, 3)}
  return clip._replace(features={'label': IDS[match[1].lower()], **numbers})


def _lists(paths: list[epath.Path]) -> dict[str, dict[str, int]]:
  """File name -> {list number: part}, from all trainlist01.txt to testlist03.txt in `paths` and in their zip files."""
  texts = [(path.name, path.read_bytes().decode('utf-8-sig')) for path in paths if LIST.fullmatch(path.name)]
  for path in paths:
    if path.suffix.lower() == '.zip':
      for name in archives.zip_names(path):
        if LIST.fullmatch(name.rpartition('/')[2]):
          texts.append((name.rpartition('/')[2], archives.zip_text(path, name)))
  found: dict[str, dict[str, int]] = {}
  for name, text in texts:
    part, number = LIST.fullmatch(name).groups()
    for line in text.split('\n'):
      if line.strip():
        file = line.split()[0].rpartition('/')[2].lower()
        found.setdefault(file, {})[number] = PARTS.index(part)
  return found


def _holds_lists(path: epath.Path) -> bool:
  """Whether a zip file holds the official lists; a damaged one counts as a zip file of clips."""
  return any(LIST.fullmatch(name.rpartition('/')[2]) for name in archives.zip_names(path))
