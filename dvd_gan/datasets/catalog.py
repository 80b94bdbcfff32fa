"""Finds the prepared data set of a config on disk, and the clips that belong to its split."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets import index, record_files, shapes
from dvd_gan.datasets.classes import count_classes
from dvd_gan.datasets.prepare import building, decoding, kinetics600, ucf101
from dvd_gan.datasets.prepare.video_builder import VideoBuilder
from dvd_gan.runtime.errors import UsageError

BAIR = 'bair_robot_pushing_small'
WHAT = {
  'kinetics600': 'put Kinetics-600 (class folders, or a flat folder with its annotation CSV or JSON, or the class tars)',
  'ucf101': 'put UCF-101 (the extracted UCF-101/CLASS/v_*.avi, the flat files or their .zip, and ucfTrainTestlist)',
}


class Prepared(NamedTuple):
  """Record files to train on, written by our builders or by TFDS's."""

  folder: epath.Path
  files: list[epath.Path]
  video: str = 'video'  # name of the feature with the frames
  numbers: tuple[str, ...] = ('label',)  # integer features to index
  keep: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None  # numbers -> bool [N]: clips to keep; None for all
  decoder: int = 1  # version of the decoder that made the clips
  classes: tuple[str, ...] = ()  # class names, by label


def open_records(config: Any, *, build: bool = False) -> record_files.Records:
  """Opens the prepared clips of a config's split.

  Args:
    config: reads data, train and seed; `data.num_classes` is set if it is 0.
    build: whether to prepare missing data; moving_shapes and video_folder are always prepared.

  Raises:
    UsageError: if the data are missing and `build` is False, cannot be prepared, or do not fit the config.
  """
  prepared = _bair(config, build) if config.data.name == 'bair' else _built(config, build)
  split = config.data.split
  count_classes(config, prepared.classes, all_there=False)
  try:
    clips = index.load(prepared.folder, prepared.files, split, video=prepared.video, numbers=prepared.numbers)
  except ValueError as error:
    raise UsageError(f'{error}; remove {prepared.folder} and prepare it again (--mode=prepare)') from None
  labels = clips.numbers.get('label', np.zeros(len(clips.shard), np.int64))
  keep = None if prepared.keep is None else prepared.keep(clips.numbers)
  if keep is not None and not keep.any():
    raise UsageError(
      f'{prepared.folder} was prepared without the official lists that split {split} needs: remove that folder and '
      'prepare it again with the lists (ucfTrainTestlist), or set data.split=all'
    )
  return record_files.Records(
    config, prepared.folder, clips, prepared.files, labels, keep, prepared.decoder, prepared.classes
  )


def _home(config: Any) -> epath.Path:
  """The folder that contains all data sets."""
  return epath.Path(os.path.expanduser(config.data.dir) or tfds.core.constants.DATA_DIR)


def _built(config: Any, build: bool) -> Prepared:
  """A data set of our own builders, or TFDS's ucf101 if only that is prepared."""
  data = config.data
  kind, builder_config = building.builder_class(config)
  folder = _home(config) / kind.name / builder_config.name / str(kind.VERSION)
  if not folder.exists():
    if data.name == 'ucf101' and (of_tfds := _ucf101_of_tfds(config)):
      return of_tfds
    if data.name in WHAT and not (build and data.source):
      raise UsageError(
        f'{data.name} is not prepared in {folder}: {WHAT[data.name]} in a folder, then run --mode=prepare '
        '--config.data.source=FOLDER once'
      )
    building.build(config, folder, kind, builder_config)
  elif issubclass(kind, VideoBuilder) and (build or not (folder / building.DECODER_FILE).exists()):
    building.finish(config, folder, kind, builder_config)
  decoder = _decoder(folder) if issubclass(kind, VideoBuilder) else 1
  if data.name == 'ucf101':
    found = Prepared(folder, _files(folder, 'train', data.name), decoder=decoder, classes=ucf101.CLASSES)
    if not (part := ucf101.part_of(data.split)):
      return found
    feature, value = part
    return found._replace(numbers=('label', feature), keep=lambda numbers: numbers[feature] == value)
  known = {'kinetics600': kinetics600.CLASSES, 'moving_shapes': shapes.CLASSES}
  classes = known.get(data.name) or builder_config.classes
  return Prepared(folder, _files(folder, data.split, data.name), decoder=decoder, classes=classes)


def _decoder(folder: epath.Path) -> int:
  """Version of the decoder that made the clips of a data set; prints a message if it is outdated."""
  note = folder / building.DECODER_FILE
  version = json.loads(note.read_text())['version'] if note.exists() else 1
  if version < decoding.VERSION:
    print(
      f'{folder} was decoded by an earlier version, which lost frames of MKV, WebM, FLV and WMV, kept damaged ones and '
      'did not correct pixel aspect, mirrored and interlaced pictures; to prepare it again, remove that folder and run '
      '--mode=prepare',
      file=sys.stderr,
    )
  return version


def _files(folder: epath.Path, split: str, name: str) -> list[epath.Path]:
  """The record files of a split, from TFDS's metadata in the folder."""
  info = _info(folder)
  template = tfds.core.ShardedFileTemplate(
    folder, dataset_name=info.name, filetype_suffix=info.file_format or 'tfrecord'
  )
  splits = tfds.core.splits.SplitDict.from_proto(info.splits, template)
  if split not in splits:
    raise UsageError(f'{name} has no split {split}, only {", ".join(splits)}')
  return [epath.Path(path) for path in splits[split].filepaths]


def _info(folder: epath.Path) -> Any:
  """dataset_info.json as a protobuf message of TFDS."""
  return tfds.core.dataset_info.read_proto_from_builder_dir(folder)


def _ucf101_of_tfds(config: Any) -> Prepared | None:
  """TFDS's own ucf101, if data.source is its folder or it is prepared in data.dir; else None."""
  data = config.data
  part = ucf101.part_of(data.split)
  number = part[0][-1] if part else '1'  # its three configs hold the same clips in different splits
  places = [epath.Path(data.source).expanduser()] if data.source else []
  for folder in (*places, _home(config) / 'ucf101' / f'ucf101_{number}' / '2.0.0'):
    if not (folder / 'dataset_info.json').exists():
      continue
    info = _info(folder)
    if info.name != 'ucf101':
      continue
    name = info.config_name
    if part and name not in (f'ucf101_{number}', f'ucf101_{number}_256'):
      raise UsageError(f'{folder} is the config {name or "(none)"}, but split {data.split} needs ucf101_{number}')
    splits = [ucf101.PARTS[part[1]]] if part else ['train', 'test']
    files = [file for split in splits for file in _files(folder, split, 'ucf101')]
    return Prepared(folder, files, classes=ucf101.CLASSES)
  return None


def _bair(config: Any, build: bool) -> Prepared:
  """TFDS's bair_robot_pushing_small, unchanged: 30 PNG frames per clip, no labels."""
  data = config.data
  data_dir = os.path.expanduser(data.dir) or None
  folder = epath.Path(os.path.expanduser(data.source) or tfds.builder(BAIR, data_dir=data_dir).data_dir)
  if not (folder / 'dataset_info.json').exists():
    if not build or data.source:
      raise UsageError(
        f'bair is not prepared in {folder}: run --mode=prepare (TFDS downloads 30 GB), or set --config.data.source to '
        f'the folder of a prepared {BAIR}'
      )
    tfds.builder(BAIR, data_dir=data_dir).download_and_prepare()
  return Prepared(folder, _files(folder, data.split, 'bair'), video='image_main', numbers=())
