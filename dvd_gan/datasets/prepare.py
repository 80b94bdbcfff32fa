"""From a config to a prepared data set on disk: which builder, where, how it is built, which clips of it count."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from dvd_gan import files
from dvd_gan.datasets import index, kinetics600, moving_shapes, records, ucf101, video_folder, window
from dvd_gan.datasets.video_builder import VideoBuilder
from dvd_gan.errors import UsageError

SPARE_FRAMES = 8  # of a moving_shapes clip beyond the window: it may start anywhere among them
BAIR = 'bair_robot_pushing_small'
WHAT = {
  'kinetics600': 'put Kinetics-600 (class folders, or a flat folder with its annotation CSV or JSON, or the class tars)',
  'ucf101': 'put UCF-101 (the extracted UCF-101/CLASS/v_*.avi, the flat files or their .zip, and ucfTrainTestlist)',
}


class Prepared(NamedTuple):
  """Record files to train on, whoever wrote them."""

  folder: epath.Path
  files: list[epath.Path]
  video: str = 'video'  # the feature with the frames
  numbers: tuple[str, ...] = ('label',)  # features to index
  keep: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None  # of the numbers, which clips; None for all


def open_records(config: Any, *, build: bool = False) -> records.Records:
  """The prepared clips of a config's split.

  Args:
    config: reads data and what records.Records does.
    build: prepare what is missing; moving_shapes and video_folder are prepared in any case.

  Raises:
    UsageError: if the data are missing and not built, or cannot be.
  """
  prepared = _bair(config, build) if config.data.name == 'bair' else _built(config, build)
  split = config.data.split
  try:
    clips = index.load(prepared.folder, prepared.files, split, video=prepared.video, numbers=prepared.numbers)
  except ValueError as error:
    raise UsageError(str(error)) from None
  labels = clips.numbers.get('label', np.zeros(len(clips.shard), np.int64))
  keep = None if prepared.keep is None else prepared.keep(clips.numbers)
  if keep is not None and not keep.any():
    raise UsageError(f'{prepared.folder} was prepared without the official lists that split {split} needs')
  return records.Records(config, prepared.folder, clips, prepared.files, labels, keep)


def make_builder(config: Any) -> Any:
  """The TFDS builder of a config's data set.

  Raises:
    UsageError: see video_folder.make_config.
  """
  return _builder(config, *_kind(config))


def _builder(config: Any, kind: type, builder_config: Any) -> Any:
  """A builder of what `_kind` returns; only preparing needs one, and making it takes seconds."""
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')  # they are JAX's
  source = {'source': config.data.source} if issubclass(kind, VideoBuilder) else {}
  return kind(config=builder_config, data_dir=os.path.expanduser(config.data.dir) or None, **source)


def _kind(config: Any) -> tuple[type, Any]:
  """Of a data set of ours: the class of its builder, and the builder's config."""
  data = config.data
  if data.name == 'video_folder':
    return video_folder.VideoFolder, video_folder.make_config(config)
  if data.name in ('kinetics600', 'ucf101'):
    kind = kinetics600.Kinetics600 if data.name == 'kinetics600' else ucf101.Ucf101Clips
    size = str(data.resolution)
    known = {one.name: one for one in kind.BUILDER_CONFIGS}
    return kind, known.get(size) or type(kind.BUILDER_CONFIGS[0])(name=size, size=data.resolution)
  frames = window.span(data.frames, data.stride) + SPARE_FRAMES
  builder_config = moving_shapes.MovingShapesConfig(
    name=f'{data.resolution}px_{frames}f_{data.clips}_q{data.jpeg_quality}',
    size=data.resolution,
    frames=frames,
    clips=data.clips,
    quality=data.jpeg_quality,
  )
  return moving_shapes.MovingShapes, builder_config


def _home(config: Any) -> epath.Path:
  """The folder of all data sets."""
  return epath.Path(os.path.expanduser(config.data.dir) or tfds.core.constants.DATA_DIR)


def _built(config: Any, build: bool) -> Prepared:
  """A data set of ours."""
  data = config.data
  kind, builder_config = _kind(config)
  folder = _home(config) / kind.name / builder_config.name / str(kind.VERSION)
  if not folder.exists():
    if data.name == 'ucf101' and (of_tfds := _ucf101_of_tfds(config)):
      return of_tfds
    if data.name in WHAT and not (build and data.source):
      raise UsageError(
        f'{data.name} is not prepared in {folder}: {WHAT[data.name]} in a folder, then run --mode=prepare '
        '--config.data.source=FOLDER once'
      )
    _build(_builder(config, kind, builder_config), config, folder)
  elif build and issubclass(kind, VideoBuilder):
    # Of a build that was killed at the very end.
    _finish(folder, _cache(_builder(config, kind, builder_config), data, folder))
  if data.name == 'ucf101':
    record_files = _files(folder, 'train', data.name)
    if part := ucf101.part_of(data.split):
      feature, value = part
      return Prepared(folder, record_files, numbers=('label', feature), keep=lambda numbers: numbers[feature] == value)
    return Prepared(folder, record_files)
  return Prepared(folder, _files(folder, data.split, data.name))


def _files(folder: epath.Path, split: str, name: str) -> list[epath.Path]:
  """The record files of a split, by TFDS's own account of the folder."""
  info = _info(folder)
  template = tfds.core.ShardedFileTemplate(
    folder, dataset_name=info.name, filetype_suffix=info.file_format or 'tfrecord'
  )
  splits = tfds.core.splits.SplitDict.from_proto(info.splits, template)
  if split not in splits:
    raise UsageError(f'{name} has no split {split}, only {", ".join(splits)}')
  return [epath.Path(path) for path in splits[split].filepaths]


def _info(folder: epath.Path) -> Any:
  """dataset_info.json as TFDS's message."""
  return tfds.core.dataset_info.read_proto_from_builder_dir(folder)


def _ucf101_of_tfds(config: Any) -> Prepared | None:
  """TFDS's own ucf101, where it is prepared in data.dir or data.source names its folder."""
  data = config.data
  part = ucf101.part_of(data.split)
  number = part[0][-1] if part else '1'  # its three configs hold the same clips in different parts
  places = [epath.Path(data.source).expanduser()] if data.source else []
  for folder in (*places, _home(config) / 'ucf101' / f'ucf101_{number}' / '2.0.0'):
    if not (folder / 'dataset_info.json').exists():
      continue
    info = _info(folder)
    if info.name != 'ucf101':
      continue
    name = info.config_name
    if part and name not in (f'ucf101_{number}', f'ucf101_{number}_256'):
      raise UsageError(f'{folder} is {name or "another config"}: split {data.split} needs ucf101_{number}')
    splits = [ucf101.PARTS[part[1]]] if part else ['train', 'test']
    return Prepared(folder, [file for split in splits for file in _files(folder, split, 'ucf101')])
  return None


def _bair(config: Any, build: bool) -> Prepared:
  """TFDS's bair_robot_pushing_small as it is: 30 PNG frames, no labels."""
  data = config.data
  data_dir = os.path.expanduser(data.dir) or None
  folder = epath.Path(os.path.expanduser(data.source) or tfds.builder(BAIR, data_dir=data_dir).data_dir)
  if not (folder / 'dataset_info.json').exists():
    if not build or data.source:
      raise UsageError(
        f'bair is not prepared in {folder}: run --mode=prepare (TFDS downloads 30 GB), or give the folder of a prepared '
        f'{BAIR} as --config.data.source'
      )
    tfds.builder(BAIR, data_dir=data_dir).download_and_prepare()
  return Prepared(folder, _files(folder, data.split, 'bair'), video='image_main', numbers=())


def _build(builder: Any, config: Any, folder: epath.Path) -> None:
  """Prepares a data set; what an earlier, interrupted run has decoded is used."""
  data = config.data
  print(f'preparing {data.name} in {folder}', file=sys.stderr, flush=True)
  cache = _cache(builder, data, folder)
  download_config = None
  try:
    with _alone(folder), _alone(cache):
      for stale in folder.parent.glob(f'incomplete.*_{folder.name}'):
        stale.rmtree()  # left by a run that was killed
      if isinstance(builder, VideoBuilder):
        if data.runner:
          download_config = _beam(data)
          builder.decode_on_beam(cache, seconds=data.file_seconds)
        else:
          builder.decode_here(cache, workers=data.threads, seconds=data.file_seconds)
          lines = ''.join(json.dumps(one._asdict()) + '\n' for one in builder.rejects)
          files.write(cache / 'rejects-all.jsonl', lines.encode())
        print('writing the records', file=sys.stderr, flush=True)
      if not sys.stderr.isatty():
        tfds.disable_progress_bar()
      # TFDS says on stdout that it downloads, which it does not here.
      with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=download_config)
      _finish(folder, cache)
  except (*files.errors(), RuntimeError, ValueError) as error:  # TFDS's writer and Beam have no better ones
    raise UsageError(f'cannot prepare {data.name} in {folder}: {" ".join(str(error).split())}') from error


def _alone(folder: epath.Path) -> contextlib.AbstractContextManager[None]:
  """UsageError if another process on this machine prepares the same data set."""
  return files.alone(folder.parent / f'{folder.name}.lock', f'preparing {folder}')


def _cache(builder: Any, data: Any, folder: epath.Path) -> epath.Path:
  """Where decoded clips, and a Beam build's lists, are while a data set is being built."""
  name = builder.cache_name() if isinstance(builder, VideoBuilder) else f'{builder.name}.cache'
  if data.cache:
    return epath.Path(os.path.expanduser(data.cache)) / name
  if files.is_remote(folder) and not data.runner:  # a file for each clip is slow in a bucket
    return epath.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'dvd_gan' / 'prepare' / name
  # Beside the data, on a disk that is large enough; no version by TFDS's rules.
  return folder.parent / name


def _finish(folder: epath.Path, cache: epath.Path) -> None:
  """Lists the rejects of a build that is done beside its data, by file, and deletes the cache."""
  if not cache.exists():
    return
  lines = [line for file in cache.glob('rejects-*.jsonl') for line in file.read_text().splitlines()]
  lines.sort(key=lambda line: json.loads(line)['file'])
  files.write(folder / 'rejects.jsonl', ''.join(line + '\n' for line in lines).encode())
  cache.rmtree()


def _beam(data: Any) -> Any:
  """TFDS's download config for a Beam runner."""
  try:
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError:
    raise UsageError(f"data.runner={data.runner} needs Apache Beam: pip install -e '.[beam]'") from None
  options = PipelineOptions([f'--runner={data.runner}', *data.beam_options])
  return tfds.download.DownloadConfig(beam_runner=data.runner, beam_options=options)
