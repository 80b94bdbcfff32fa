"""Writes metrics to metrics.jsonl and TensorBoard. The only file that imports clu."""

import concurrent.futures
import json
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from dvd_gan.runtime import files, progress

FILE = 'metrics.jsonl'
# An object in a bucket cannot be appended to: each flush uploads all lines.
FLUSH_EVERY = 300  # seconds
ROTATE_EVERY = 3600  # seconds after which TensorBoard's events continue in a new file
# TensorBoard's groups: a metric belongs to the first group with a word that occurs in the metric's name.
GROUPS = {
  'loss': ('loss', 'squared_error', 'lecam'),
  'score': ('score_',),
  'sigma': ('sigma',),
  'grad_norm': ('grad_norm',),
  'perf': ('_per_s', 'input_wait'),
}


class Writer:
  """Writes metrics as JSON lines and, if clu and TensorFlow are installed, as TensorBoard events.

  A background thread writes in order, so that a slow disk does not delay the steps. Its exceptions are raised by later
  calls.
  """

  def __init__(self, workdir: epath.Path, first_step: int):
    """Opens `workdir/metrics.jsonl` and removes lines of steps after `first_step`; only the first process writes."""
    self._events = None
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    self._workdir, self._path = workdir, workdir / FILE
    self._lines = lines(workdir, first_step)
    files.write(self._path, ''.join(line + '\n' for line in self._lines).encode())
    self._remote = files.is_remote(workdir)
    self._opened, self._flushed = False, time.monotonic()
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'writer')
    self._pending: list[concurrent.futures.Future] = []

  def later(self, fn: Callable[..., None], *args: Any) -> None:
    """Calls `fn` in the writer's thread, on the first process only; raises the exception of an earlier call, if any."""
    if not self._writes:
      return
    while self._pending and self._pending[0].done():
      self._pending.pop(0).result()
    self._pending.append(self._thread.submit(fn, *args))

  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Writes a line with `step` and `values` to metrics.jsonl, and the same scalars to TensorBoard."""
    self.later(self._scalars, step, values)

  def _scalars(self, step: int, values: dict[str, float]) -> None:
    line = json.dumps({'step': step, **{name: float(value) for name, value in values.items()}})
    if self._remote:
      self._lines.append(line)
      if time.monotonic() - self._flushed > FLUSH_EVERY:
        self._flush()
    else:
      with self._path.open('a') as file:
        file.write(line + '\n')
    if events := self._open():
      events.write_scalars(step, {tag(name): value for name, value in values.items()})

  def describe(self, step: int, config: str, networks: dict[str, Any]) -> None:
    """Writes the config and tables of the parameters to TensorBoard's text page, and the tables to parameters.txt.

    Args:
      step: the step that training starts from.
      config: the fields of the config, one per line.
      networks: parameters by network name.
    """
    shapes = {name: jax.eval_shape(lambda tree: tree, net) for name, net in networks.items()}
    self.later(self._describe, step, config, shapes)

  def _describe(self, step: int, config: str, networks: dict[str, Any]) -> None:
    if not (events := self._open()):
      return
    from clu import parameter_overview

    tables = {
      name: parameter_overview.get_parameter_overview(shapes, include_stats=False) for name, shapes in networks.items()
    }
    text = '\n\n'.join(f'{name}\n{table}' for name, table in tables.items())
    (self._workdir / 'parameters.txt').write_text(text + '\n')
    events.write_texts(
      step, {name: f'```\n{text}\n```' for name, text in {'config': config, 'parameters': text}.items()}
    )

  def _open(self) -> Any:
    """TensorBoard's writer, or None; opened by the first write, because importing TensorFlow takes seconds."""
    if not self._opened:
      self._events, self._opened, self._begun = _events(self._workdir), True, time.monotonic()
    return self._events

  def flush(self) -> None:
    """Uploads pending metrics if the workdir is in a bucket; otherwise does nothing."""
    if self._writes and self._remote:
      self.later(self._flush)

  def _flush(self) -> None:
    self._flushed = time.monotonic()
    self._path.write_text(''.join(line + '\n' for line in self._lines))
    if self._events and self._flushed - self._begun > ROTATE_EVERY:
      self._events.close()
      self._opened, self._events = False, None  # the next write opens another file
    elif self._events:
      self._events.flush()

  def video(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
    """Writes a GIF to TensorBoard's image page, in the calling thread; `size` is (width, height)."""
    if not (events := self._open()):
      return
    import tensorflow as tf

    # clu's write_videos writes nothing (clu 0.0.12), but the image plugin displays encoded GIFs.
    metadata = tf.compat.v1.SummaryMetadata(plugin_data={'plugin_name': 'images'})
    with events._summary_writer.as_default():
      tf.summary.write(name, tf.constant([str(size[0]), str(size[1]), gif]), step=step, metadata=metadata)

  def close(self) -> None:
    """Waits for pending writes and closes the events file; raises the first exception of a write."""
    if not self._writes:
      return
    if self._remote:
      self._pending.append(self._thread.submit(self._flush))
    self._thread.shutdown()
    try:
      for pending in self._pending:
        pending.result()
    finally:
      if self._events:
        self._events.close()


def tag(name: str) -> str:
  """The name of a metric in TensorBoard, with its group: gen_loss_spatial becomes loss/gen_spatial."""
  group = next((group for group, words in GROUPS.items() if any(word in name for word in words)), 'health')
  return f'{group}/{name.replace(f"_{group}", "").removeprefix(f"{group}_")}'


def lines(workdir: epath.Path, last_step: int) -> list[str]:
  """Complete lines of a run's metrics.jsonl up to step `last_step`; empty if the file does not exist."""
  path = workdir / FILE
  if not path.exists():
    return []
  text = path.read_bytes().decode(errors='replace')  # a damaged byte must not stop a run
  return [line for line in text.splitlines() if _step_of(line) <= last_step]


def logged(workdir: epath.Path, last_step: int) -> list[dict[str, float]]:
  """`lines`, parsed."""
  return [json.loads(line) for line in lines(workdir, last_step)]


def _step_of(line: str) -> float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):
    return float('inf')  # truncated by a crash


def to_tensorboard(workdir: epath.Path, step: int, values: dict[str, float]) -> None:
  """Writes scalars to TensorBoard only, if it is installed; for results of an evaluation."""
  if events := _events(workdir):
    events.write_scalars(step, values)
    events.close()


def _events(workdir: epath.Path) -> Any:
  try:
    from clu import metric_writers
  except ImportError:
    progress.say('clu or TensorFlow is not installed: metrics go only to metrics.jsonl')
    return None
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')  # JAX uses the GPUs
  if not files.is_remote(workdir):
    return metric_writers.SummaryWriter(str(workdir))

  class Buffered(metric_writers.SummaryWriter):
    """Writes only at `flush` and `close`; TensorFlow would also flush after ten scalars and after `as_default`."""

    def __init__(self):
      options = {'max_queue': 1_000_000, 'flush_millis': 1000 * FLUSH_EVERY}
      self._summary_writer = tf.summary.create_file_writer(str(workdir), **options)
      self.flush, self._summary_writer.flush = self._summary_writer.flush, lambda: None

    def close(self):
      self.flush()
      self._summary_writer.close()

  return Buffered()
