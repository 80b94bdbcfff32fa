"""Batches from prepared TFDS record files, by tf.data: only the bytes of a window are read and decoded."""

import contextlib
import io
import json
import os
import sys
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from dvd_gan.datasets import index, moving_shapes, video_folder, window
from dvd_gan.errors import UsageError

# TensorFlow feeds data here and nothing else.
tf.config.set_visible_devices([], 'GPU')

SPARE_FRAMES = 8  # of a moving_shapes clip beyond the window: it may start anywhere among them


def make_builder(config: Any) -> Any:
  """The TFDS builder of a config's data set.

  Raises:
    UsageError: see video_folder.make_config.
  """
  data = config.data
  data_dir = os.path.expanduser(data.dir) or None
  if data.name == 'video_folder':
    return video_folder.VideoFolder(config=video_folder.make_config(config), data_dir=data_dir)
  frames = window.span(data.frames, data.stride) + SPARE_FRAMES
  builder_config = moving_shapes.MovingShapesConfig(
    name=f'{data.resolution}px_{frames}f_{data.clips}_q{data.jpeg_quality}',
    size=data.resolution,
    frames=frames,
    clips=data.clips,
    quality=data.jpeg_quality,
  )
  return moving_shapes.MovingShapes(config=builder_config, data_dir=data_dir)


def open_records(config: Any) -> 'Records':
  """The prepared data set of a config, prepared first where that has not been done.

  Raises:
    UsageError: if the data cannot be prepared or no clip is long enough.
  """
  builder = make_builder(config)
  folder = epath.Path(builder.data_dir)
  if not folder.exists():
    print(f'preparing {config.data.name} in {folder}', file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
      tfds.disable_progress_bar()
    try:
      # TFDS says on stdout that it downloads, which it does not here.
      with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    except OSError as error:
      raise UsageError(f'cannot prepare {config.data.name} in {folder}: {error}') from None
    rejects = getattr(builder, 'rejects', [])
    (folder / 'rejects.jsonl').write_text(''.join(json.dumps(reject) + '\n' for reject in rejects))
    if rejects:
      print(f'{len(rejects)} files could not be used, see {folder / "rejects.jsonl"}', file=sys.stderr, flush=True)
  if config.data.split not in builder.info.splits:
    raise UsageError(f'{config.data.name} has no split {config.data.split}, only {", ".join(builder.info.splits)}')
  return Records(config, folder, [epath.Path(path) for path in builder.info.splits[config.data.split].filepaths])


class Records:
  """The clips of one split that are at least as long as the window."""

  def __init__(self, config: Any, folder: epath.Path, files: list[epath.Path]):
    self._config, self._folder, self._files = config, folder, files
    self._index = index.load(folder, files, config.data.split)
    need = window.span(config.data.frames, config.data.stride)
    self._clips = np.flatnonzero(self._index.frames >= need)
    self._shards = [_Shard(file) for file in files]
    if not len(self._clips):
      raise UsageError(f'{folder}: none of {len(self._index.label)} clips has the {need} frames of a window')
    if self._index.label.max() >= config.data.num_classes:
      raise UsageError(
        f'{folder}: labels go up to {self._index.label.max()}, data.num_classes is {config.data.num_classes}'
      )

  def describe(self) -> str:
    """One line for `--mode=prepare`."""
    rejects = self._folder / 'rejects.jsonl'
    rejected = len(rejects.read_text().splitlines()) if rejects.exists() else 0
    return (
      f'{self._folder}: {len(self._clips)} clips of split {self._config.data.split} '
      f'({len(self._index.label) - len(self._clips)} shorter than the window), {rejected} files rejected'
    )

  def host_batches(self, first_step: int, rows: np.ndarray):
    """Endless host batches from `first_step` on: video uint8 [d_steps, B_host, T, H, W, 3], label int32."""
    data, d_steps = self._config.data, self._config.train.d_steps
    count = d_steps * len(rows)
    lengths = self._index.frames[self._clips]

    def read(step):
      batch = window.plan(self._config, int(step), rows, lengths)
      jpegs = np.empty((count, data.frames), object)
      for i, (clip, start) in enumerate(zip(self._clips[batch.clip], batch.start, strict=True)):
        jpegs[i] = self._window(clip, start)
      return jpegs, self._index.label[self._clips[batch.clip]], batch.crop, batch.flip

    def read_in_graph(step):
      types = (tf.string, tf.int32, tf.float64, tf.bool)
      jpegs, label, crop, flip = tf.numpy_function(read, [step], types, stateful=False)
      shapes = ((count, data.frames), (count,), (count, 2), (count,))
      return tuple(tf.ensure_shape(t, s) for t, s in zip((jpegs, label, crop, flip), shapes, strict=True))

    def decode(jpegs, label, crop, flip):
      size = tf.cast(tf.io.extract_jpeg_shape(jpegs[0])[:2], tf.float64)
      corner = tf.cast(crop * (size - data.resolution + 1), tf.int32)
      square = tf.concat([corner, [data.resolution, data.resolution]], 0)
      frames = [tf.io.decode_and_crop_jpeg(jpegs[t], square, channels=3) for t in range(data.frames)]
      video = tf.stack(frames)
      return tf.cond(flip, lambda: video[:, :, ::-1], lambda: video), label

    options = tf.data.Options()
    options.threading.private_threadpool_size = data.threads or os.cpu_count()
    options.deterministic = True
    dataset = (
      tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
      .map(read_in_graph, num_parallel_calls=2)
      .unbatch()
      .map(decode, num_parallel_calls=data.threads or tf.data.AUTOTUNE)
      .batch(count, drop_remainder=True)
      .prefetch(1)
      .with_options(options)
    )
    for video, label in dataset.as_numpy_iterator():
      yield {
        'video': video.reshape(d_steps, len(rows), *video.shape[1:]),
        'label': label.reshape(d_steps, len(rows)),
      }

  def _window(self, clip: int, start: int) -> list[bytes]:
    """The encoded frames of a window, by one read: frames of a clip lie side by side."""
    data, where = self._config.data, self._index
    frames = where.first[clip] + start + data.stride * np.arange(data.frames)
    begin, end = where.offset[frames[0]], where.offset[frames[-1]] + where.length[frames[-1]]
    content = self._shards[where.shard[clip]].read(int(begin), int(end - begin))
    return [content[where.offset[f] - begin : where.offset[f] - begin + where.length[f]] for f in frames]


class _Shard:
  """Reads anywhere in a file, from any thread. No file stays open: a data set may have more than a process may open."""

  def __init__(self, path: epath.Path):
    self._path = path

  def read(self, offset: int, length: int) -> bytes:
    # Locally without a buffer, which would read beyond the window.
    remote = '://' in str(self._path)
    with self._path.open('rb') if remote else open(self._path, 'rb', buffering=0) as file:
      file.seek(offset)
      return file.read(length)
