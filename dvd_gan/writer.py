"""What a run says: metrics.jsonl, TensorBoard, the progress line. The only file that imports clu."""

import concurrent.futures
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

FILE = 'metrics.jsonl'
PROGRESS_EVERY = 5.0  # seconds


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
    self._remote = '://' in str(workdir)
    self._opened = False
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
    if self._remote:  # object stores cannot append
      self._lines.append(line)
      self._path.write_text(''.join(line + '\n' for line in self._lines))
    else:
      with self._path.open('a') as file:
        file.write(line + '\n')
    if events := self._open():
      events.write_scalars(step, values)

  def _open(self) -> Any:
    """TensorBoard's writer, if there is one; opened by what is first written: importing TensorFlow takes seconds."""
    if not self._opened:
      self._events, self._opened = _events(self._workdir), True
    return self._events

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
    self._thread.shutdown()
    for pending in self._pending:
      pending.result()
    if self._events:
      self._events.close()


class Progress:
  """The line on the terminal: step, rate, time left, losses, share of time spent waiting for input."""

  def __init__(self, first_step: int, last_step: int):
    self._first, self._last = first_step, last_step
    self._start = self._shown = time.monotonic()
    self._width = 0

  def show(self, step: int, metrics: dict[str, Any], waited: float, *, force: bool = False) -> None:
    """Prints at most every few seconds; `metrics` are fetched from the device only then."""
    now = time.monotonic()
    if jax.process_index() or (not force and now - self._shown < PROGRESS_EVERY):
      return
    self._shown = now
    elapsed = max(now - self._start, 1e-9)
    rate = (step - self._first) / elapsed
    left = (self._last - step) / rate if rate else float('inf')
    losses = {
      'D_S': 'disc_loss_spatial',
      'D_T': 'disc_loss_temporal',
      'G_S': 'gen_loss_spatial',
      'G_T': 'gen_loss_temporal',
    }
    shown = ' '.join(f'{short} {float(metrics[name]):.3f}' for short, name in losses.items() if name in metrics)
    line = (
      f'step {step}/{self._last}  {rate:.2f} steps/s  {_clock(left)} left  {shown}  '
      f'input wait {100 * waited / elapsed:.0f}%'
    )
    # A terminal gets one line that moves; a log file gets lines.
    end = '\r' if sys.stderr.isatty() and not force else '\n'
    print(line.ljust(self._width), end=end, file=sys.stderr, flush=True)
    self._width = len(line)


def _clock(seconds: float) -> str:
  if not np.isfinite(seconds):
    return '?'
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}h{minutes:02d}m' if hours else f'{minutes}m{seconds:02d}s'


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
  return metric_writers.SummaryWriter(str(workdir))
