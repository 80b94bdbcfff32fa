"""Progress output: lines, bars, a clock. A terminal shows one line that is updated; a log file gets separate lines."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import jax
import tqdm

EVERY = 5.0  # seconds between updates of a training run's progress
EVERY_LINE = 60.0  # seconds between progress lines of other work in a log file
LOSSES = {
  'D_S': 'disc_loss_spatial',
  'D_T': 'disc_loss_temporal',
  'G_S': 'gen_loss_spatial',
  'G_T': 'gen_loss_temporal',
}


def say(message: str, file: TextIO | None = None) -> None:
  """Prints one line to `file`, by default stdout, above any progress bar; on process 0 only."""
  file = file or sys.stdout
  if jax.process_index() == 0 and file is not None:  # stdout is None if it is closed
    tqdm.tqdm.write(message, file)
    file.flush()


def terminal() -> bool:
  """Whether stderr is a terminal."""
  return sys.stderr is not None and sys.stderr.isatty()


class _Lines:
  """`bar` for a log file: one line per minute."""

  def __init__(self, total: int, what: str, quiet: bool):
    self._done, self._total, self._what, self._quiet, self._shown = 0, total, what, quiet, time.monotonic()

  def __enter__(self) -> '_Lines':
    return self

  def __exit__(self, *_: object) -> None:
    pass

  def update(self, count: int) -> None:
    """Counts `count` more videos as done."""
    self._done += count
    if not self._quiet and time.monotonic() - self._shown >= EVERY_LINE:
      self._shown = time.monotonic()
      say(f'{self._what} {self._done}/{self._total}', sys.stderr)


def bar(total: int, what: str, *, quiet: bool = False) -> tqdm.tqdm | _Lines:
  """A context manager with `update(count)` that shows how many of `total` videos are done.

  Args:
    total: videos.
    what: label of the bar.
    quiet: show nothing.
  """
  quiet = quiet or jax.process_index() > 0
  if not terminal():
    return _Lines(total, what, quiet)
  return tqdm.tqdm(total=total, desc=what, unit=' videos', disable=quiet, leave=False, dynamic_ncols=True)


def over(starts: range, what: str) -> Iterator[int]:
  """Iterates over `starts`, the index of the first video of each batch, with a bar."""
  with bar(starts.stop, what) as shown:
    for start in starts:
      yield start
      shown.update(min(starts.step, starts.stop - start))


@contextlib.contextmanager
def clock(what: str) -> Iterator[None]:
  """Context manager for work of unknown length; on a terminal it shows the elapsed time."""
  if jax.process_index() or not terminal():
    say(what, sys.stderr)
    yield
    return
  done = threading.Event()
  with tqdm.tqdm(bar_format='{desc} {elapsed}', desc=what, dynamic_ncols=True) as shown:

    def tick() -> None:
      while not done.wait(1):
        shown.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
      yield
    finally:
      done.set()
      thread.join()


class Steps:
  """Progress of training: step, rate, time left, losses, share of time spent waiting for input.

  In a log file each line begins with `step N/M`, which launch/tpu_worker.sh reads.
  """

  def __init__(self, first: int, last: int, clips_per_step: int, events: dict[str, int]):
    """Starts the clock.

    Args:
      first: number of the last completed step.
      last: number of the final step of training.
      clips_per_step: real clips that D sees per step.
      events: interval in steps of each event, by name; 0 for never. `show` prints once when each event comes next, as
        soon as the rate is known.
    """
    self._first, self._last, self._clips_per_step, self._events = first, last, clips_per_step, events
    self._start = self._shown = time.monotonic()
    self._paced = (first, self._start, 0.0)
    self._bar = None
    if jax.process_index() == 0 and terminal():
      form = 'step {n_fmt}/{total_fmt} |{bar}|{rate_noinv_fmt} {remaining} left {desc}'
      self._bar = tqdm.tqdm(
        total=last,
        initial=first,
        bar_format=form,
        unit=' steps',
        dynamic_ncols=True,
        smoothing=0,
        mininterval=0,
        miniters=1,
      )

  def show(self, step: int, metrics: dict[str, Any], waited: float, *, force: bool = False) -> None:
    """Shows a step, at most every EVERY seconds; `metrics` are fetched from the device only then.

    Args:
      step: number of the step.
      metrics: metrics of the step.
      waited: seconds spent waiting for input since the start.
      force: show the step in any case.
    """
    now = time.monotonic()
    if jax.process_index() or (not force and now - self._shown < EVERY):
      return
    losses = {short: f'{float(metrics[name]):.2f}' for short, name in LOSSES.items() if name in metrics}
    self._shown, elapsed = now, max(time.monotonic() - self._start, 1e-9)
    rate, waiting = (step - self._first) / elapsed, f'{100 * waited / elapsed:.0f}%'
    if rate and step < self._last:
      self._look_ahead(step, rate)
    if self._bar is not None:
      shown = f'D {losses.get("D_S", "")} {losses.get("D_T", "")} G {losses.get("G_S", "")} {losses.get("G_T", "")}'
      self._bar.set_description_str(shown + (f' wait {waiting}' if waited > 0.05 * elapsed else ''), refresh=False)
      self._bar.update(step - self._bar.n)
      return
    shown, left = ' '.join(f'{short} {value}' for short, value in losses.items()), self._in(self._last, step, rate)
    say(f'step {step}/{self._last}  {rate:.2f} steps/s  {left} left  {shown}  input wait {waiting}', sys.stderr)

  def _look_ahead(self, step: int, rate: float) -> None:
    """Prints, once, the step of each next event and the time until then."""
    for what, every in self._events.items():
      if every:
        then = min((step // every + 1) * every, self._last)
        say(f'{what:<11} step {then}, in {self._in(then, step, rate)}')
    self._events = {}

  def _in(self, then: int, step: int, rate: float) -> str:
    return span((then - step) / rate) if rate else '?'

  def pace(self, step: int, waited: float) -> dict[str, float]:
    """Rates since the last call: steps and real clips per second, the share of time spent waiting for input."""
    (before, then, waited_before), now = self._paced, time.monotonic()
    self._paced = step, now, waited
    if step == before:
      return {}
    rate = (step - before) / (now - then)
    waiting = (waited - waited_before) / (now - then)
    return {'steps_per_s': rate, 'clips_per_s': rate * self._clips_per_step, 'input_wait': waiting}

  def close(self) -> None:
    """Closes the bar; its last state stays on the terminal."""
    if self._bar is not None:
      self._bar.close()


def span(seconds: float) -> str:
  """Formats a duration in at most two units."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  days, hours = divmod(hours, 24)
  units: Sequence[tuple[int, str]] = ((days, 'd'), (hours, 'h'), (minutes, 'm'), (seconds, 's'))
  first = next((i for i, (value, _) in enumerate(units) if value), 3)
  return ' '.join(f'{value} {unit}' for value, unit in units[first : first + 2])
