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
from dvd_gan.datasets.prepare import ingest
from dvd_gan.datasets.prepare.archives import SUFFIXES
from dvd_gan.datasets.prepare.video_builder import VideoBuilder, VideoConfig, features
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError


@dataclasses.dataclass(kw_only=True)
class VideoFolderConfig(VideoConfig):
  """The folder's classes and files, and how they are stored."""

  classes: tuple[str, ...] = ()
  files: tuple[tuple[str, int], ...] = ()  # (path below the folder, label)


def make_config(config: Any) -> VideoFolderConfig:
  """Lists `data.source`; its name holds a digest of the listing, so that a changed folder is prepared anew.

  Raises:
    UsageError: if the folder is missing, has no subfolders with videos, or more of them than labels.
  """
  data = config.data
  if not data.source:
    raise UsageError('data.name=video_folder needs data.source=FOLDER, with one subfolder of videos per class')
  root = _root(data.source)
  if not root.is_dir():
    raise UsageError(f'data.source={data.source} is not a folder')
  found = collections.defaultdict(list)
  for path in files.walk(root):
    if path.lower().endswith(SUFFIXES) and '/' in path:
      found[path.split('/')[0]].append(path)
  if not found:
    raise UsageError(f'{root} has no subfolder with videos ({", ".join(SUFFIXES)}); one subfolder is one class')
  classes = tuple(sorted(found))
  if data.use_labels and len(classes) > data.num_classes:
    raise UsageError(f'{root} has {len(classes)} classes: say --config.data.num_classes={len(classes)}')
  labelled = [(path, label) for label, name in enumerate(classes) for path in found[name]]
  min_frames = window.span(data.frames, data.stride) if data.short_clips == 'skip' else 1
  listing = [(path, label, *_stamp(root / path)) for path, label in labelled]
  key = json.dumps([str(root), data.fps, data.jpeg_quality, min_frames, listing])
  return VideoFolderConfig(
    name=f'{root.name}_{data.resolution}px_{hashlib.sha256(key.encode()).hexdigest()[:12]}',
    classes=tuple(map(files.printable, classes)),
    files=tuple(labelled),
    size=data.resolution,
    fps=data.fps,
    min_frames=min_frames,
    quality=data.jpeg_quality,
  )


class VideoFolder(VideoBuilder):
  """Every readable video of a folder, as JPEG frames at a fixed rate."""

  VERSION = tfds.core.Version('1.1.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(features=features(self.builder_config.classes))

  def sources(self):
    root = _root(self.source)
    return {
      'train': [
        ingest.Clip(name := files.printable(path), name, str(root / path), features={'label': label})
        for path, label in self.builder_config.files
      ]
    }


def _root(source: str) -> epath.Path:
  """The folder, by its absolute path: part of what the data set is known by."""
  return epath.Path(source if files.is_remote(source) else os.path.realpath(os.path.expanduser(source)))


def _stamp(path: epath.Path) -> tuple[int, float]:
  try:
    return files.size_and_time(path)
  except files.errors():
    return 0, 0.0  # it will be among the rejects, with the reason
