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
from dvd_gan.datasets.prepare.video_builder import VideoBuilder, VideoConfig
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import RunError, UsageError

DECODER_FILE = 'decoder.json'  # in a data set's folder: the version of decoding.py that made its clips
SPARE_FRAMES = 8  # frames of a moving_shapes clip beyond one window, so that windows differ in their start


def make_builder(config: Any, kind: type, builder_config: Any) -> Any:
  """Makes the TFDS builder of a config's data set from the result of `builder_class`. This takes seconds."""
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')  # JAX uses the GPUs
  source = {'source': config.data.source} if issubclass(kind, VideoBuilder) else {}
  return kind(config=builder_config, data_dir=os.path.expanduser(config.data.dir) or None, **source)


def builder_class(config: Any) -> tuple[type, Any]:
  """(builder class, builder config) for the data set of a config, except bair, whose builder is TFDS's.

  Raises:
    UsageError: see video_folder.make_config.
  """
  data = config.data
  if data.name == 'video_folder':
    return video_folder.VideoFolder, video_folder.make_config(config)
  if data.name in ('kinetics600', 'ucf101'):
    kind = kinetics600.Kinetics600 if data.name == 'kinetics600' else ucf101.Ucf101Clips
    return kind, VideoConfig(name=str(data.resolution), size=data.resolution)
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
  """Prepares a data set; clips that an interrupted run has decoded are reused."""
  builder, data = make_builder(config, kind, builder_config), config.data
  print(f'preparing {data.name} in {folder}', file=sys.stderr, flush=True)
  cache = cache_folder(builder, data, folder)
  download_config = None
  try:
    with _exclusive(folder), _exclusive(cache):
      if folder.exists():
        return  # another process has built it meanwhile
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
      # TFDS prints to stdout that it downloads, although it does not here.
      with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=download_config)
      _complete(folder, cache)
  except (*files.errors(), RuntimeError, ValueError) as error:  # TFDS's writer and Beam raise RuntimeError, ValueError
    kind = RunError if files.passing(error) else UsageError
    raise kind(f'cannot prepare {data.name} in {folder}: {" ".join(str(error).split())}') from error


def _exclusive(folder: epath.Path) -> contextlib.AbstractContextManager[None]:
  """A lock for preparing `folder`; waits while another process on this machine holds it."""
  return files.exclusive(folder.parent / f'{folder.name}.lock', f'preparing {folder}', wait=True)


def cache_folder(builder: Any, data: Any, folder: epath.Path) -> epath.Path:
  """The folder for decoded clips, and for the lists of a Beam build, while a data set is being built."""
  name = builder.cache_name() if isinstance(builder, VideoBuilder) else f'{builder.name}.cache'
  if data.cache:
    return epath.Path(os.path.expanduser(data.cache)) / name
  if files.is_remote(folder) and not data.runner:  # one file per clip is slow in a bucket
    return epath.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'dvd_gan' / 'prepare' / name
  # Beside the data, where the disk is large enough. TFDS does not take this name for a version.
  return folder.parent / name


def finish(config: Any, folder: epath.Path, kind: type, builder_config: Any) -> None:
  """Completes a build that was killed after its records were written."""
  cache = cache_folder(make_builder(config, kind, builder_config), config.data, folder)
  if cache.exists():
    with _exclusive(folder), _exclusive(cache):
      _complete(folder, cache)


def _complete(folder: epath.Path, cache: epath.Path) -> None:
  """Adds the rejects, sorted by file, and the decoder's version to a folder of records. Deletes the cache."""
  if not cache.exists():
    return
  if not (folder / DECODER_FILE).exists():  # otherwise this was killed before, while it deleted the cache
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
