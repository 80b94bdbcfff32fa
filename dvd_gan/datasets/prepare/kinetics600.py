"""TFDS builder of Kinetics-600 from class folders, from a flat folder with annotations, or from class tars."""

import csv
import functools
import io
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets.prepare import ingest
from dvd_gan.datasets.prepare.archives import SUFFIXES, TARS, Archive, Source
from dvd_gan.datasets.prepare.video_builder import SPLITS, UNLABELLED, VideoBuilder, features
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError

# Class ids are positions in this list, sorted by ASCII: data/label_map_600.txt of google-deepmind/kinetics-i3d.
CLASSES = tuple(pathlib.Path(__file__).with_name('kinetics600.txt').read_text().splitlines())


class Note(NamedTuple):
  """The annotation of a clip."""

  split: str  # '' if unknown
  name: str  # of the class, '' if unknown


def _plain(name: str) -> str:
  """Normalises a class name for comparison: case, spaces and punctuation differ between copies."""
  return re.sub('[^a-z0-9]', '', name.lower())


IDS = {_plain(name): i for i, name in enumerate(CLASSES)}


class Kinetics600(VideoBuilder):
  """Kinetics-600 at 25 frames a second, the short side resized, nothing cropped, as JPEGs of quality 90."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=features(CLASSES), homepage='https://github.com/cvdfoundation/kinetics-dataset'
    )

  def sources(self) -> dict[str, list[Source]]:
    root = epath.Path(self.source).expanduser()
    if not files.is_folder(root):
      raise UsageError(f'data.source={self.source} is not a folder')
    paths = files.walk(root)
    notes = _annotations(root, paths)
    videos = [path for path in paths if path.lower().endswith(SUFFIXES)]
    tars = [path for path in paths if path.lower().endswith(TARS)]
    if not videos and not tars:
      raise UsageError(f'{root} has neither videos ({", ".join(SUFFIXES[:6])}, ...) nor tars of them')
    # If neither folders nor annotations name splits, all clips are for training.
    has_splits = any(note.split for note in notes.values()) or any(_split_of(path) for path in videos + tars)
    found: dict[str, list[Source]] = {'train': [], 'validation': [], 'test': []}
    for path in videos:
      name = files.printable(path)
      clip, split = _clip(name, notes, has_splits)
      found[split].append(clip._replace(name=name, path=str(root / path)))
    for path in tars:
      # A tar whose path names no split is read once for each split, if there are splits.
      place = re.sub(r'\.(tar|tar\.gz|tgz)$', '', path, flags=re.IGNORECASE)
      split = _split_of(place) or ('' if has_splits else 'train')
      for one in (split,) if split else found:
        take = functools.partial(_member, place=place, notes=notes, has_splits=has_splits, split=one)
        found[one].append(Archive(str(root / path), path, take))
    return {split: sources for split, sources in found.items() if sources}


def _split_of(path: str) -> str:
  """The split named by the first component of a path that names one; '' if there is none."""
  for part in path.split('/'):
    if _plain(part) not in IDS:  # "training dog" is a class
      for word in re.split('[^a-z]+', part.lower()):
        if word in SPLITS:
          return SPLITS[word]
  return ''


def _stem(path: str) -> str:
  """File name without its video suffixes, e.g. ID_000001_000011; there may be several suffixes: ID.mp4.mkv."""
  name = path.rpartition('/')[2]
  while name.lower().endswith(SUFFIXES):
    name = name.rpartition('.')[0]
  return name


def _noted(stem: str, notes: dict[str, Note]) -> Note:
  """The annotation of a clip, by its full name or else by its YouTube id."""
  return notes.get(stem) or notes.get(re.sub(r'_\d{6}_\d{6}$', '', stem)) or Note('', '')


def _member(name: str, *, place: str, notes: dict[str, Note], has_splits: bool, split: str) -> ingest.Clip | None:
  """The clip of a tar's member, None if it is in another split; `place` is the tar's path without its suffix."""
  clip, its = _clip(f'{place}/{name}', notes, has_splits)
  return clip if its == split else None


def _clip(path: str, notes: dict[str, Note], has_splits: bool) -> tuple[ingest.Clip, str]:
  """(clip with its label or the reason to reject it, split). Folders take precedence over annotations."""
  stem, (*folders, _) = _stem(path), path.split('/')
  note = _noted(stem, notes)
  split = _split_of('/'.join(folders)) or note.split
  clip = ingest.Clip(stem, path, features={'label': UNLABELLED})
  classes = [IDS[_plain(folder)] for folder in folders if _plain(folder) in IDS]
  if has_splits and not split:
    lost = notes and not classes and not note.name
    reason = 'not in the annotations' if lost else 'of no split: neither a folder nor the annotations name it'
    return clip._replace(reject=reason), 'train'
  split = split or 'train'
  if classes or _plain(note.name) in IDS:
    label = classes[-1] if classes else IDS[_plain(note.name)]
    return clip._replace(features={'label': label}), split
  if split == 'test' and not note.name:  # the test set was published without labels
    return clip, split
  folder = next((folder for folder in reversed(folders) if not _split_of(folder)), '')
  if note.name or folder:
    return clip._replace(reject=f'unknown class: {(note.name or folder).replace("_", " ")}'), split
  return clip._replace(reject='not in the annotations' if notes else 'neither in a class folder nor annotated'), split


def _annotations(root: epath.Path, paths: list[str]) -> dict[str, Note]:
  """All annotations, CSV or JSON, by ID_START_END, and by ID if all annotations of that ID agree."""
  exact: dict[str, Note] = {}
  by_id: dict[str, set[Note]] = {}
  for path in paths:
    if not path.lower().endswith(('.csv', '.json')):
      continue
    try:
      rows = list(_rows((root / path).read_bytes().decode('utf-8-sig'), path))
    except (ValueError, KeyError, TypeError, AttributeError):
      print(f'{files.printable(root / path)} is ignored: no annotations of Kinetics', file=sys.stderr)
      continue
    of_file = _split_of(path)
    for video, start, end, split, name in rows:
      note = Note(SPLITS.get(split.lower(), of_file), name)
      by_id.setdefault(video, set()).add(note)
      try:
        stem = f'{video}_{int(float(start)):06d}_{int(float(end)):06d}'
      except (ValueError, TypeError):
        continue  # a row without times can be found by its ID
      if name or stem not in exact:  # the test set is listed twice, without and with labels
        exact[stem] = note
  labelled = {video: {note for note in notes if note.name} or notes for video, notes in by_id.items()}
  return {video: next(iter(notes)) for video, notes in labelled.items() if len(notes) == 1} | exact


def _rows(text: str, path: str) -> Iterator[tuple[str, Any, Any, str, str]]:
  """Yields (YouTube id, start, end, split, class) for each row; split and class are '' if missing."""
  if path.lower().endswith('.json'):
    for video, entry in json.loads(text).items():
      about = entry['annotations']
      start, end = about.get('segment') or ('', '')
      yield video, start, end, entry.get('subset') or '', about.get('label') or ''
    return
  for row in csv.DictReader(io.StringIO(text)):
    yield row['youtube_id'], row.get('time_start'), row.get('time_end'), row.get('split') or '', row.get('label') or ''
