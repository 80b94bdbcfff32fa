"""Training batches: a tf.data pipeline from step numbers to this host's windows, then to global arrays on the devices."""

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from dvd_gan import sharding
from dvd_gan.datasets import window
from dvd_gan.datasets.sources import labels_told

CALLS_PER_THREAD = 4  # that a host batch is divided into, so that all threads have work until its end
CLOSING = 10.0  # seconds that the end of a run waits for a read in progress

# Python's own end would wait for ever for reads in progress, which need the interpreter.
_OPEN: weakref.WeakSet = weakref.WeakSet()
atexit.register(lambda: [batches.close() for batches in list(_OPEN)])


def dataset(config: Any, lengths: np.ndarray, read: Callable, steps: range, rows: np.ndarray) -> Any:
  """The host batches of consecutive train steps as a tf.data.Dataset.

  Args:
    config: reads data, train and seed.
    lengths: frames in each clip, int [N].
    read: the source's; called from several threads at once.
    steps: the train steps.
    rows: the rows of the global batch that this host reads, int [B_host].

  Returns:
    A tf.data.Dataset of {'video': uint8 [d_steps, B_host, T, H, W, 3], 'label': int32 [d_steps, B_host]}, an element for
    each step. It keeps `data.prefetch` batches ready, fewer where they would exceed `data.ram_gib`.
  """
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')  # they are JAX's
  data, d_steps = config.data, config.train.d_steps
  threads = data.threads or os.cpu_count() or 1
  clip_shape = (data.frames, data.resolution, data.resolution, 3)
  count = d_steps * len(rows)
  ready = max(1, min(data.prefetch, int(data.ram_gib * 2**30 / (count * np.prod(clip_shape, dtype=float)))))
  # Several windows a call save calls; equal groups, because tf.data joins only those.
  group = max(n for n in range(1, -(-count // (CALLS_PER_THREAD * threads)) + 1) if count % n == 0)

  def plan(step):
    return [field.reshape(-1, group, *field.shape[1:]) for field in window.plan(config, int(step), rows, lengths)]

  def groups(step):
    fields = tf.numpy_function(plan, [step], (tf.int64, tf.int64, tf.float64, tf.bool))
    return tf.data.Dataset.from_tensor_slices(tuple(fields))

  def read_group(*fields):
    video, label = tf.numpy_function(lambda *fields: read(window.Plan(*fields)), fields, (tf.uint8, tf.int32))
    return {'video': tf.ensure_shape(video, (group, *clip_shape)), 'label': tf.ensure_shape(label, (group,))}

  def join(batch):
    return {name: tf.reshape(value, (d_steps, len(rows), *value.shape[2:])) for name, value in batch.items()}

  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = False
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  windows = tf.data.Dataset.range(steps.start, steps.stop).flat_map(groups)
  batches = windows.map(read_group, num_parallel_calls=threads).batch(count // group).map(join)
  return batches.prefetch(ready).with_options(options)


def host_batches(config: Any, source: Any, steps: range, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
  """The elements of `dataset` as numpy arrays; a source in memory is read without TensorFlow.

  Raises:
    Exception: whatever `source.read` raises, without TensorFlow's traceback around it.
  """
  if source.in_memory:
    return _from_memory(config, source, steps, rows)
  failures = []

  def read(plan):
    try:
      return source.read(plan)
    except Exception as error:
      failures.append(error)
      raise

  batches = _from_files(dataset(config, source.lengths, read, steps, rows), failures)
  _OPEN.add(batches)
  return batches


def _from_memory(config: Any, source: Any, steps: range, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
  shape = config.train.d_steps, len(rows)
  for step in steps:
    video, label = source.read(window.plan(config, step, rows, source.lengths))
    yield {'video': video.reshape(*shape, *video.shape[1:]), 'label': label.reshape(shape)}


def _from_files(batches: Any, failures: list[Exception]) -> Iterator[dict[str, np.ndarray]]:
  iterator = batches.as_numpy_iterator()
  while True:
    try:
      batch = next(iterator)
    except StopIteration:
      return
    except BaseException as error:
      # Without its traceback, which would keep the iterator, and with it the reading ahead, alive.
      failure = failures[0] if failures else error.with_traceback(None)
      break
    yield batch
  del iterator
  raise failure


class Batches:
  """Iterates over the global batches of training, from a step to the last.

  Attributes:
    waited: seconds spent in `next` so far.
  """

  def __init__(self, config: Any, source: Any, mesh: jax.sharding.Mesh, first_step: int):
    self.waited = 0.0
    self._config, self._sharding = config, sharding.train_batch(mesh)
    rows = sharding.host_rows(mesh, config.train.batch_size)
    self._batches = host_batches(config, source, range(first_step, config.train.steps), rows)

  def __iter__(self) -> Iterator[dict[str, jax.Array]]:
    return self

  def __next__(self) -> dict[str, jax.Array]:
    start = time.monotonic()
    batch = next(self._batches)
    self.waited += time.monotonic() - start
    batch['label'] = labels_told(self._config, batch['label'])
    return jax.make_array_from_process_local_data(self._sharding, batch)

  def close(self) -> None:
    """Ends reading ahead; gives up waiting for a read that hangs."""
    closing = threading.Thread(target=self._batches.close, daemon=True)
    closing.start()
    closing.join(CLOSING)
