"""What a run writes: metrics.jsonl and TensorBoard. The only file that imports clu."""

import concurrent.futures
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from dvd_gan.runtime import files

FILE = 'metrics.jsonl'
# An object in a bucket cannot be appended to: each flush uploads it whole.
FLUSH_EVERY = 300  # seconds
ROTATE_EVERY = 3600  # seconds after which TensorBoard's events go on in another file
# TensorBoard's groups: a metric belongs to the first whose words are in its name.
GROUPS = {
  'loss': ('loss', 'squared_error', 'lecam'),
  'score': ('score_',),
  'sigma': ('sigma',),
  'grad_norm': ('grad_norm',),
  'perf': ('_per_s', 'input_wait'),
}


class Writer:
  """Metrics as JSON lines and, where clu and TensorFlow are installed, TensorBoard events.

  Written by a thread of its own, in order, so that a slow disk does not hold up the steps; what goes wrong there
  surfaces in the next call.
  """

  def __init__(self, workdir: epath.Path, first_step: int):
    """Opens `workdir/metrics.jsonl`, cut back to the steps up to `first_step`; only the first process writes."""
    self._events = None
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    self._workdir, self._path = workdir, workdir / FILE
    self._lines = lines(workdir, first_step)
    self._path.write_text(''.join(line + '\n' for line in self._lines))
    self._remote = files.is_remote(workdir)
    self._opened, self._flushed = False, time.monotonic()
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'writer')
    self._pending: list[concurrent.futures.Future] = []

  def later(self, fn: Callable[..., None], *args: Any) -> None:
    """Calls `fn` in the writer's thread, on the first process; raises what an earlier call came to."""
    if not self._writes:
      return
    while self._pending and self._pending[0].done():
      self._pending.pop(0).result()
    self._pending.append(self._thread.submit(fn, *args))

  def scalars(self, step: int, values: dict[str, float]) -> None:
    """One line, `step` in it, and the same scalars to TensorBoard."""
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
    """The config and tables of the networks' parameters to TensorBoard's text page; the tables to parameters.txt too.

    Args:
      step: that training begins after.
      config: its fields, a line each.
      networks: parameters by the network's name.
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
    """TensorBoard's writer, if there is one; opened by what is first written: importing TensorFlow takes seconds."""
    if not self._opened:
      self._events, self._opened, self._begun = _events(self._workdir), True, time.monotonic()
    return self._events

  def flush(self) -> None:
    """Uploads what a bucket does not have yet; a local disk has everything."""
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
    """A moving picture to TensorBoard's image page, at once; size is (width, height)."""
    if not (events := self._open()):
      return
    import tensorflow as tf

    # clu's write_videos writes nothing (clu 0.0.12): the image plugin shows a GIF as it is.
    metadata = tf.compat.v1.SummaryMetadata(plugin_data={'plugin_name': 'images'})
    with events._summary_writer.as_default():
      tf.summary.write(name, tf.constant([str(size[0]), str(size[1]), gif]), step=step, metadata=metadata)

  def close(self) -> None:
    """Waits until all is written."""
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
  """The name of a metric in TensorBoard, with its group: gen_loss_spatial is loss/gen_spatial."""
  group = next((group for group, words in GROUPS.items() if any(word in name for word in words)), 'health')
  return f'{group}/{name.replace(f"_{group}", "").removeprefix(f"{group}_")}'


def lines(workdir: epath.Path, last_step: int) -> list[str]:
  """The lines of a run's metrics.jsonl up to a step, those that are whole; none where there is no file."""
  path = workdir / FILE
  return [line for line in path.read_text().splitlines() if _step_of(line) <= last_step] if path.exists() else []


def logged(workdir: epath.Path, last_step: int) -> list[dict[str, float]]:
  """`lines` as objects."""
  return [json.loads(line) for line in lines(workdir, last_step)]


def _step_of(line: str) -> float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):
    return float('inf')  # a line cut short by a crash


def to_tensorboard(workdir: epath.Path, step: int, values: dict[str, float]) -> None:
  """Scalars to TensorBoard alone, where it is installed: what is found of a step when it is over."""
  if events := _events(workdir):
    events.write_scalars(step, values)
    events.close()


def _events(workdir: epath.Path) -> Any:
  try:
    from clu import metric_writers
  except ImportError:
    logging.info('clu or TensorFlow is not installed: metrics go to metrics.jsonl alone')
    return None
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')  # they are JAX's
  if not files.is_remote(workdir):
    return metric_writers.SummaryWriter(str(workdir))

  class Buffered(metric_writers.SummaryWriter):
    """Writes at `flush` and `close` alone: TensorFlow flushes after ten scalars and whenever `as_default` ends."""

    def __init__(self):
      options = {'max_queue': 1_000_000, 'flush_millis': 1000 * FLUSH_EVERY}
      self._summary_writer = tf.summary.create_file_writer(str(workdir), **options)
      self.flush, self._summary_writer.flush = self._summary_writer.flush, lambda: None

    def close(self):
      self.flush()
      self._summary_writer.close()

  return Buffered()
