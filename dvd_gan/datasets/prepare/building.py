"""Builds a config's data set with its TFDS builder, on this machine or on Apache Beam."""

import contextlib
import io
import json
import os
import sys
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets import window
from dvd_gan.datasets.prepare import decoding, kinetics600, moving_shapes, ucf101, video_folder
from dvd_gan.datasets.prepare.video_builder import VideoBuilder
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError

DECODER_FILE = 'decoder.json'  # beside a data set's records: the version of decoding.py that they came through
SPARE_FRAMES = 8  # of a moving_shapes clip beyond the window: it may start anywhere among them


def make_builder(config: Any, kind: type, builder_config: Any) -> Any:
  """The TFDS builder of a config's data set from what `builder_class` returns; making it takes seconds."""
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')  # they are JAX's
  source = {'source': config.data.source} if issubclass(kind, VideoBuilder) else {}
  return kind(config=builder_config, data_dir=os.path.expanduser(config.data.dir) or None, **source)


def builder_class(config: Any) -> tuple[type, Any]:
  """The class of a config's builder, and the builder's config; for all data sets but bair, whose builder is TFDS's.

  Raises:
    UsageError: see video_folder.make_config.
  """
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


def build(config: Any, folder: epath.Path, kind: type, builder_config: Any) -> None:
  """Prepares a data set; what an earlier, interrupted run has decoded is used."""
  builder, data = make_builder(config, kind, builder_config), config.data
  print(f'preparing {data.name} in {folder}', file=sys.stderr, flush=True)
  cache = cache_folder(builder, data, folder)
  download_config = None
  try:
    with _exclusive(folder), _exclusive(cache):
      for stale in folder.parent.glob(f'incomplete.*_{folder.name}'):
        stale.rmtree()  # left by a run that was killed
      if isinstance(builder, VideoBuilder):
        if data.runner:
          download_config = _beam_download_config(data)
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
      _complete(folder, cache)
  except (*files.errors(), RuntimeError, ValueError) as error:  # TFDS's writer and Beam have no better ones
    raise UsageError(f'cannot prepare {data.name} in {folder}: {" ".join(str(error).split())}') from error


def _exclusive(folder: epath.Path) -> contextlib.AbstractContextManager[None]:
  """UsageError if another process on this machine prepares the same data set."""
  return files.exclusive(folder.parent / f'{folder.name}.lock', f'preparing {folder}')


def cache_folder(builder: Any, data: Any, folder: epath.Path) -> epath.Path:
  """Where decoded clips, and a Beam build's lists, are while a data set is being built."""
  name = builder.cache_name() if isinstance(builder, VideoBuilder) else f'{builder.name}.cache'
  if data.cache:
    return epath.Path(os.path.expanduser(data.cache)) / name
  if files.is_remote(folder) and not data.runner:  # a file for each clip is slow in a bucket
    return epath.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'dvd_gan' / 'prepare' / name
  # Beside the data, on a disk that is large enough; no version by TFDS's rules.
  return folder.parent / name


def finish(config: Any, folder: epath.Path, kind: type, builder_config: Any) -> None:
  """Completes a build that was killed after its records were written."""
  _complete(folder, cache_folder(make_builder(config, kind, builder_config), config.data, folder))


def _complete(folder: epath.Path, cache: epath.Path) -> None:
  """Completes a folder of records: its rejects, by file, and its decoder's version. Deletes the cache."""
  if not cache.exists():
    return
  lines = [line for file in cache.glob('rejects-*.jsonl') for line in file.read_text().splitlines()]
  lines.sort(key=lambda line: json.loads(line)['file'])
  files.write(folder / 'rejects.jsonl', ''.join(line + '\n' for line in lines).encode())
  files.write(folder / DECODER_FILE, json.dumps({'version': decoding.VERSION}).encode())
  cache.rmtree()


def _beam_download_config(data: Any) -> Any:
  """TFDS's download config for a Beam runner."""
  try:
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError:
    raise UsageError(f"data.runner={data.runner} needs Apache Beam: pip install -e '.[beam]'") from None
  options = PipelineOptions([f'--runner={data.runner}', *data.beam_options])
  return tfds.download.DownloadConfig(beam_runner=data.runner, beam_options=options)
