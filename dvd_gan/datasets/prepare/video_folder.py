"""TFDS builder of the user's own videos: a folder with one subfolder per class."""

import collections
import dataclasses
import hashlib
import json
import os
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets import window
from dvd_gan.datasets.classes import count_classes
from dvd_gan.datasets.prepare import ingest
from dvd_gan.datasets.prepare.archives import SUFFIXES
from dvd_gan.datasets.prepare.video_builder import SPLITS, UNLABELLED, VideoBuilder, VideoConfig, features
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError


@dataclasses.dataclass(kw_only=True)
class VideoFolderConfig(VideoConfig):
  """The folder's classes and files, and how they are stored."""

  classes: tuple[str, ...] = ()
  files: tuple[tuple[str, str, int], ...] = ()  # (path below the folder, split, label)
  left_out: tuple[tuple[str, str], ...] = ()  # (path below the folder, reason)


def make_config(config: Any) -> VideoFolderConfig:
  """Lists `data.source`. The config's name contains a digest of the listing, so a changed folder is prepared anew.

  Class folders lie in `data.source` or, if there are splits, in the folder of each split. The videos of a split, or of
  a `data.source`, without class folders have no label. The listing does not depend on `data.use_labels`, so that
  evaluation opens the data set that training used.

  Raises:
    UsageError: if the folder is missing, mixes splits with classes, has no videos, has more classes than
      `data.num_classes`, or has no class folders although `data.use_labels`.
  """
  data = config.data
  if not data.source:
    raise UsageError('data.name=video_folder needs data.source=FOLDER, with one subfolder of videos per class')
  root = _root(data.source)
  if not files.is_folder(root):
    raise UsageError(f'data.source={data.source} is not a folder')
  paths = files.walk(root)
  videos = [path for path in paths if path.lower().endswith(SUFFIXES)]
  left_out = [(path, 'no video by its suffix') for path in paths if not path.lower().endswith(SUFFIXES)]
  splits = _splits(root, videos)
  found = []  # (path, split, class)
  for path in videos:
    top, *rest = path.split('/') if splits else ('', *path.split('/'))
    found.append((path, splits.get(top, 'train'), rest[0] if len(rest) > 1 else ''))
  classified = {split for _, split, name in found if name}
  left_out += [(path, 'in no folder of a class') for path, split, name in found if not name and split in classified]
  found = [one for one in found if one[2] or one[1] not in classified]
  if not found or (data.use_labels and not classified):
    why = f'; {len(videos)} videos lie in none (data.use_labels=False takes them as they are)' if videos else ''
    raise UsageError(
      f'{root} has no subfolder with videos ({", ".join(SUFFIXES[:6])}, ...); one subfolder is one class{why}'
    )
  classes = tuple(sorted({name for _, _, name in found} - {''}))
  count_classes(config, classes)
  labels = {'': UNLABELLED} | {name: label for label, name in enumerate(classes)}
  labelled = sorted(((path, split, labels[name]) for path, split, name in found), key=lambda one: (one[2], one[0]))
  min_frames = window.span(data.frames, data.stride) if data.short_clips == 'skip' else 1
  listing = [(path, label, *_stamp(root / path)) for path, _, label in labelled]
  key = json.dumps([str(root), data.fps, data.jpeg_quality, min_frames, listing])
  return VideoFolderConfig(
    name=f'{root.name}_{data.resolution}px_{hashlib.sha256(key.encode()).hexdigest()[:12]}',
    classes=tuple(map(files.printable, classes)),
    files=tuple(labelled),
    left_out=tuple(left_out),
    size=data.resolution,
    fps=data.fps,
    min_frames=min_frames,
    quality=data.jpeg_quality,
  )


def _splits(root: epath.Path, videos: list[str]) -> dict[str, str]:
  """Folder name -> split, of folders named after a split; {} if such a folder is a class beside other classes.

  Raises:
    UsageError: if folders of splits that have subfolders lie beside other folders.
  """
  tops = {path.split('/')[0] for path in videos if '/' in path}
  named = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
  if named.keys() == tops:
    return named
  nested = [top for top in sorted(named) if all(path.count('/') > 1 for path in videos if path.startswith(f'{top}/'))]
  if nested:
    others = ', '.join(map(files.printable, sorted(tops - named.keys())))
    raise UsageError(
      f'{root} has the split {nested[0]} beside {others}: folders of classes belong into those of splits'
    )
  return {}


class VideoFolder(VideoBuilder):
  """Every readable video of a folder, as JPEG frames at a fixed rate."""

  VERSION = tfds.core.Version('1.1.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(features=features(self.builder_config.classes))

  def sources(self):
    root = _root(self.source)
    found = collections.defaultdict(list)
    for path, split, label in self.builder_config.files:
      name = files.printable(path)
      found[split].append(ingest.Clip(name, name, str(root / path), features={'label': label}))
    for path, reason in self.builder_config.left_out:
      next(iter(found.values())).append(ingest.Clip(files.printable(path), files.printable(path), reject=reason))
    return dict(found)


def _root(source: str) -> epath.Path:
  """The folder as an absolute path, which is part of the digest in the config's name."""
  return epath.Path(source if files.is_remote(source) else os.path.realpath(os.path.expanduser(source)))


def _stamp(path: epath.Path) -> tuple[int, float]:
  try:
    return files.size_and_time(path)
  except files.errors():
    return 0, 0.0  # decoding will reject the file with the reason
