"""Training batches: a tf.data pipeline from step numbers to this host's windows, then to global arrays."""

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
from dvd_gan.datasets.sources import network_labels

CALLS_PER_THREAD = 4  # calls of `read` per thread and batch; several, so that all threads finish together
CLOSING = 10.0  # seconds that `close` waits for reads in progress

# At exit Python holds the GIL, which reads in progress need, so open pipelines are closed before that.
_OPEN: weakref.WeakSet = weakref.WeakSet()
atexit.register(lambda: [batches.close() for batches in list(_OPEN)])


def dataset(config: Any, calls: dict[str, Callable], steps: range, host_rows: int) -> Any:
  """The host batches of consecutive train steps as a tf.data.Dataset.

  Args:
    config: reads data and train.
    calls: `plan` maps a step to this host's windows, a `window.Plan`; `read` maps some of these to video uint8
      [n, T, H, W, 3] and label int32 [n]. Called from several threads at once. TensorFlow never releases a Python
      function, so the functions are looked up in this dict, and clearing the dict releases them.
    steps: the train steps.
    host_rows: rows of the global batch on this host, B_host.

  Returns:
    A tf.data.Dataset of {'video': uint8 [d_steps, B_host, T, H, W, 3], 'label': int32 [d_steps, B_host]}, one element
    per step. It prefetches `data.prefetch` batches, or fewer if these and the batch being read would exceed
    `data.ram_gib`.
  """
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')  # JAX uses the GPUs
  data, d_steps = config.data, config.train.d_steps
  threads = data.threads or os.cpu_count() or 1
  clip_shape = (data.frames, data.resolution, data.resolution, 3)
  count = d_steps * host_rows
  room = int(data.ram_gib * 2**30 / (count * np.prod(clip_shape, dtype=float)))
  ready = max(1, min(data.prefetch, room - 1))
  # One call reads a group of windows, for fewer calls. Groups have one size because `batch` joins only equal shapes.
  group = max(n for n in range(1, -(-count // (CALLS_PER_THREAD * threads)) + 1) if count % n == 0)

  def groups(step):
    def plan(step):
      return [field.reshape(-1, group, *field.shape[1:]) for field in calls['plan'](int(step))]

    fields = tf.numpy_function(plan, [step], (tf.int64, tf.int64, tf.float64, tf.bool))
    return tf.data.Dataset.from_tensor_slices(tuple(fields))

  def read(*fields):
    video, label = tf.numpy_function(lambda *fields: calls['read'](window.Plan(*fields)), fields, (tf.uint8, tf.int32))
    return {'video': tf.ensure_shape(video, (group, *clip_shape)), 'label': tf.ensure_shape(label, (group,))}

  def join(batch):
    return {name: tf.reshape(value, (d_steps, host_rows, *value.shape[2:])) for name, value in batch.items()}

  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = False
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  windows = tf.data.Dataset.range(steps.start, steps.stop).flat_map(groups)
  batches = windows.map(read, num_parallel_calls=threads).batch(count // group).map(join)
  return batches.prefetch(ready).with_options(options)


def host_batches(config: Any, source: Any, steps: range, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
  """This host's batches of consecutive train steps, in numpy; a source in memory is read without TensorFlow.

  Args:
    config: reads data, train and seed.
    source: see `sources.open_source`.
    steps: the train steps.
    rows: the rows of the global batch that this host reads, int [B_host].

  Returns:
    An iterator of {'video': uint8 [d_steps, B_host, T, H, W, 3], 'label': int32 [d_steps, B_host]} with a
    method `close`. Errors of the source are raised unchanged.
  """
  return (_from_memory if source.in_memory else _FromFiles)(config, source, steps, rows)


def _from_memory(config: Any, source: Any, steps: range, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
  shape = config.train.d_steps, len(rows)
  for step in steps:
    video, label = source.read(window.plan(config, step, rows, source.lengths))
    yield {'video': video.reshape(*shape, *video.shape[1:]), 'label': label.reshape(shape)}


class _FromFiles:
  """An iterator over the elements of `dataset`, with `close`."""

  def __init__(self, config: Any, source: Any, steps: range, rows: np.ndarray):
    self._iterator, errors = None, []

    def kept(call):
      def run(argument):
        try:
          return call(argument)
        except Exception as error:  # TensorFlow raises its own error instead, with a traceback in the message
          errors.append(error)
          raise

      return run

    plan = kept(lambda step: window.plan(config, step, rows, source.lengths))
    self._errors, self._calls = errors, {'plan': plan, 'read': kept(source.read)}
    self._iterator = dataset(config, self._calls, steps, len(rows)).as_numpy_iterator()
    _OPEN.add(self)

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._iterator is None:
      raise StopIteration
    try:
      return next(self._iterator)
    except BaseException as error:
      # The traceback would keep the iterator alive, and with it the prefetching.
      failure = error.with_traceback(None)
    if isinstance(failure, Exception) and not isinstance(failure, StopIteration):
      failure = self._errors[0] if self._errors else RuntimeError(f'tf.data: {failure}')
    self.close()
    raise failure

  def close(self) -> None:
    """Stops prefetching; waits at most `CLOSING` seconds for reads in progress."""
    if self._iterator is None:
      return
    last, self._iterator = [self._iterator], None
    closing = threading.Thread(target=last.clear, daemon=True)
    closing.start()
    closing.join(CLOSING)
    self._calls.clear()
    self._errors.clear()

  def __del__(self):
    self.close()


class Batches:
  """Iterates over the global training batches of the steps after `first_step`.

  Attributes:
    waited: seconds spent waiting for host batches so far.
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
    batch['label'] = network_labels(self._config, batch['label'])
    return jax.make_array_from_process_local_data(self._sharding, batch)

  def close(self) -> None:
    """Stops prefetching."""
    self._batches.close()
