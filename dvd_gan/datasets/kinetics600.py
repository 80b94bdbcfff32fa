"""TFDS builder of Kinetics-600 from the copies that people have: class folders, flat with annotations, or class tars."""

import csv
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets import ingest
from dvd_gan.datasets.video_builder import SUFFIXES, Archive, Source, VideoBuilder, VideoConfig, features, walk
from dvd_gan.errors import UsageError

# The ids are the places in this list, sorted by ASCII: data/label_map_600.txt of google-deepmind/kinetics-i3d.
CLASSES = tuple(pathlib.Path(__file__).with_name('kinetics600.txt').read_text().splitlines())
TARS = ('.tar', '.tar.gz', '.tgz')
SPLITS = {
  **dict.fromkeys(('train', 'training'), 'train'),
  **dict.fromkeys(('val', 'valid', 'validate', 'validation'), 'validation'),
  **dict.fromkeys(('test', 'testing'), 'test'),
}
UNLABELLED = -1


class Note(NamedTuple):
  """What the annotations say of a clip."""

  split: str  # '' if they do not
  name: str  # of the class, '' if they do not


def _plain(name: str) -> str:
  """A class name as folders are compared: without the spaces, cases and signs that copies change."""
  return re.sub('[^a-z0-9]', '', name.lower())


IDS = {_plain(name): i for i, name in enumerate(CLASSES)}


class Kinetics600(VideoBuilder):
  """Kinetics-600 at 25 frames a second, the short side resized, nothing cropped, as JPEGs of quality 90."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [VideoConfig(name=str(size), size=size) for size in (64, 128, 256)]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=features(CLASSES), homepage='https://github.com/cvdfoundation/kinetics-dataset'
    )

  def sources(self) -> dict[str, list[Source]]:
    root = epath.Path(self.source).expanduser()
    if not root.is_dir():
      raise UsageError(f'data.source={self.source} is not a folder')
    paths = walk(root)
    notes = _annotations(root, paths)
    found: dict[str, list[Source]] = {'train': [], 'validation': [], 'test': []}
    for path in paths:
      *folders, file = path.split('/')
      split = next((SPLITS[folder.lower()] for folder in folders if folder.lower() in SPLITS), '')
      # The class is what the innermost folder is called, if it is not the split itself.
      folder = folders[-1] if folders and folders[-1].lower() not in SPLITS else ''
      if file.lower().endswith(SUFFIXES):
        clip = _clip(file, split=split, folder=folder, notes=notes)
        split = split or _noted(file, notes).split or 'train'
        found[split].append(clip._replace(name=path, path=str(root / path)))
      elif file.lower().endswith(TARS):
        name = re.sub(r'\.(tar|tar\.gz|tgz)$', '', file, flags=re.IGNORECASE)
        label = functools.partial(_clip, split=split, folder=name, notes={} if _plain(name) in IDS else notes)
        found[split or 'train'].append(Archive(str(root / path), path, label, (root / path).stat().length))
    if not any(found.values()):
      raise UsageError(f'{root} has neither videos ({", ".join(SUFFIXES)}) nor tars of them')
    return {split: sources for split, sources in found.items() if sources}


def _stem(file: str) -> str:
  """ID_000001_000011, or what else stands before the suffix."""
  return file.rpartition('/')[2].rpartition('.')[0]


def _noted(file: str, notes: dict[str, Note]) -> Note:
  """What the annotations say of a file, by its whole name or by the YouTube id alone."""
  stem = _stem(file)
  return notes.get(stem) or notes.get(re.sub(r'_\d{6}_\d{6}$', '', stem)) or Note('', '')


def _clip(file: str, *, split: str, folder: str, notes: dict[str, Note]) -> ingest.Clip:
  """A clip's key and label, or the reason why it has none: its folder's name counts, then the annotations."""
  clip = ingest.Clip(_stem(file), file, features={'label': UNLABELLED})
  note = _noted(file, notes)
  name = folder if _plain(folder) in IDS else note.name or folder
  if _plain(name) in IDS:
    return clip._replace(features={'label': IDS[_plain(name)]})
  if (split or note.split) == 'test' and not note.name:  # the test set was published without labels
    return clip
  if name and (note.name or folder):
    return clip._replace(reject=f'unknown class: {name.replace("_", " ")}')
  return clip._replace(reject='not in the annotations' if notes else 'neither in a class folder nor annotated')


def _annotations(root: epath.Path, paths: Iterable[str]) -> dict[str, Note]:
  """All annotations, CSV or JSON, by ID_START_END and by ID where that is one clip's alone."""
  exact: dict[str, Note] = {}
  by_id: dict[str, set[Note]] = {}
  for path in paths:
    if not path.lower().endswith(('.csv', '.json')):
      continue
    try:
      rows = list(_rows((root / path).read_text(), path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise UsageError(f'{root / path}: annotations that cannot be read ({type(error).__name__}: {error})') from None
    of_file = next((SPLITS[word] for word in re.split('[^a-z]', path.lower()) if word in SPLITS), '')
    for video, start, end, split, name in rows:
      note = Note(SPLITS.get(split.lower(), of_file), name)
      exact[f'{video}_{int(float(start)):06d}_{int(float(end)):06d}'] = note
      by_id.setdefault(video, set()).add(note)
  return {video: notes.pop() for video, notes in by_id.items() if len(notes) == 1} | exact


def _rows(text: str, path: str) -> Iterator[tuple[Any, ...]]:
  """(YouTube id, start, end, split, class) of each row, '' for what is not said."""
  if path.lower().endswith('.json'):
    for video, entry in json.loads(text).items():
      start, end = entry['annotations']['segment']
      yield video, start, end, entry.get('subset') or '', entry['annotations'].get('label') or ''
    return
  for row in csv.DictReader(text.splitlines()):
    yield row['youtube_id'], row['time_start'], row['time_end'], row.get('split') or '', row.get('label') or ''
