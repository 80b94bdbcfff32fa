"""TFDS builder of the user's own videos: a folder with one subfolder per class."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dvd_gan.datasets import decoding, window
from dvd_gan.datasets.moving_shapes import jpegs
from dvd_gan.errors import UsageError

SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.gif')


@dataclasses.dataclass(kw_only=True)
class VideoFolderConfig(tfds.core.BuilderConfig):
  """The folder, its classes and files, and how they are decoded."""

  folder: str = ''
  classes: tuple[str, ...] = ()
  files: tuple[tuple[str, int], ...] = ()  # (path below the folder, label)
  size: int = 64
  fps: float = 25.0
  min_frames: int = 1
  quality: int = 95


def make_config(config: Any) -> VideoFolderConfig:
  """Lists `data.source`; its name holds a digest of the listing, so that a changed folder is prepared anew.

  Raises:
    UsageError: if the folder is missing, has no subfolders with videos, or more of them than `data.num_classes`.
  """
  data = config.data
  if not data.source:
    raise UsageError('data.name=video_folder needs data.source=FOLDER, with one subfolder of videos per class')
  root = pathlib.Path(data.source).expanduser().resolve()
  if not root.is_dir():
    raise UsageError(f'data.source={data.source} is not a folder')
  found = collections.defaultdict(list)
  for path in sorted(root.glob('*/**/*')):
    # ._* are the litter of macOS archives, .Trash and the like that of file managers.
    parts = path.relative_to(root).parts
    if path.suffix.lower() in SUFFIXES and path.is_file() and not any(part.startswith('.') for part in parts):
      found[parts[0]].append(path)
  if not found:
    raise UsageError(f'{root} has no subfolder with videos ({", ".join(SUFFIXES)}); one subfolder is one class')
  classes = tuple(sorted(found))
  if len(classes) > data.num_classes:
    raise UsageError(f'{root} has {len(classes)} classes: say --config.data.num_classes={len(classes)}')
  files = [(str(path.relative_to(root)), label) for label, name in enumerate(classes) for path in found[name]]
  min_frames = window.span(data.frames, data.stride)
  stats = [(root / name).stat() for name, _ in files]
  listing = [(name, label, s.st_size, s.st_mtime_ns) for (name, label), s in zip(files, stats, strict=True)]
  key = json.dumps([str(root), data.fps, data.jpeg_quality, min_frames, listing])
  return VideoFolderConfig(
    name=f'{root.name}_{data.resolution}px_{hashlib.sha256(key.encode()).hexdigest()[:12]}',
    folder=str(root),
    classes=classes,
    files=tuple(files),
    size=data.resolution,
    fps=data.fps,
    min_frames=min_frames,
    quality=data.jpeg_quality,
  )


class VideoFolder(tfds.core.GeneratorBasedBuilder):
  """Every readable video of a folder, as JPEG frames at a fixed rate; the rest is in `rejects`."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self.rejects: list[dict[str, str]] = []

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'video': tfds.features.Video((None, None, None, 3), encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(names=self.builder_config.classes),
        }
      )
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    config = self.builder_config

    def load(name: str) -> list[bytes] | decoding.RejectedError:
      try:
        return jpegs(
          decoding.decode(
            pathlib.Path(config.folder) / name, short_side=config.size, fps=config.fps, min_frames=config.min_frames
          ),
          config.quality,
        )
      except decoding.RejectedError as error:
        return error

    workers = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
      # In pieces, so that no more than a few decoded videos wait in memory.
      for piece in np.array_split(np.arange(len(config.files)), -(-len(config.files) // (4 * workers))):
        files = [config.files[i] for i in piece]
        for (name, label), clip in zip(files, pool.map(load, [name for name, _ in files]), strict=True):
          if isinstance(clip, decoding.RejectedError):
            self.rejects.append({'file': name, 'reason': str(clip)})
          else:
            yield name, {'video': clip, 'label': label}
    if len(self.rejects) == len(config.files):
      first = self.rejects[0]
      raise UsageError(
        f'{config.folder}: none of the {len(config.files)} videos can be used; {first["file"]}: {first["reason"]}'
      )
