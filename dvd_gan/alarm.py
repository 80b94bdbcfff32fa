"""Detects signs of collapse in a run's metrics, while a good checkpoint still exists.

The limits were chosen from the runs under results/: healthy runs stay within them, failed runs do not
(tests/test_alarm.py).
"""

import statistics
from typing import NamedTuple

WINDOW = 20  # number of consecutive lines of metrics that are examined
WON = 0.15  # hinge loss of a discriminator below which G no longer learns from it
DEAD = 1.9  # hinge loss above which a discriminator does not separate real from fake (a score of 0 gives 2)
DEAD_AFTER = 10_000  # real clips seen before DEAD applies: early in training the loss is as high
SIGMA, GROWTH = 5.0, 3.0  # limits of the raw weights' largest spectral norm and of its growth factor in a window
ALIKE, UNLIKE = 0.5, 0.8  # sample_deviation relative to its median: collapsed below ALIKE, healthy above UNLIKE

Line = dict[str, float]  # one line of metrics.jsonl


class Sign(NamedTuple):
  """A sign of collapse: its name, the last step considered healthy, and a message."""

  name: str
  since: int
  message: str


class Alarm:
  """Reports each sign when it first appears, and again only if it returns after WINDOW lines without it."""

  def __init__(self, lines: list[Line], clips_per_step: int):
    """Starts from the `lines` already logged; `clips_per_step` is the number of real clips that D sees in a step."""
    self._lines = lines
    self._clips_per_step = clips_per_step
    self._last: dict[str, int] = {}  # line number at which each sign was last present
    self._appearing()

  def __call__(self, line: Line) -> list[Sign]:
    """Adds a line and returns the signs that appear with it."""
    self._lines.append(line)
    return self._appearing()

  def _appearing(self) -> list[Sign]:
    now, found = len(self._lines), signs(self._lines, self._clips_per_step)
    new = [sign for sign in found if now - self._last.get(sign.name, -WINDOW) > WINDOW]
    self._last |= {sign.name: now for sign in found}
    return new


def signs(lines: list[Line], clips_per_step: int) -> list[Sign]:
  """The signs in the newest lines of a run's metrics."""
  window = lines[-WINDOW:]
  if len(window) < WINDOW:
    return []
  since, step = window[0]['step'], window[-1]['step']
  found = []
  for name in ('disc_loss_spatial', 'disc_loss_temporal'):
    if any(name not in line for line in window):  # the run has, or had before it was resumed, one discriminator
      continue
    loss = statistics.fmean(line[name] for line in window)
    if loss < WON:
      found.append(Sign(f'{name} low', since, f'{name} is {loss:.2f}: G no longer learns from this discriminator'))
    if loss > DEAD and step * clips_per_step > DEAD_AFTER:
      found.append(Sign(f'{name} high', since, f'{name} is {loss:.2f}: it does not separate real from fake'))
  for name in ('gen_sigma_max', 'disc_sigma_max'):
    sigma = window[-1][name]
    before = [line['step'] for line in window if line[name] * GROWTH < sigma]
    if sigma > SIGMA and before:
      found.append(Sign(name, before[-1], f'{name} has grown to {sigma:.1f}: the learning rate is too high'))
  deviations = [(line['step'], line['sample_deviation']) for line in lines if 'sample_deviation' in line]
  usual = statistics.median(value for _, value in deviations) if len(deviations) > 3 else 0.0
  if deviations and deviations[-1][1] < ALIKE * usual:
    since = [step for step, value in deviations if value > UNLIKE * usual][-1]
    message = f'samples of one class differ by {deviations[-1][1]:.1f} grey levels, usually by {usual:.1f}'
    found.append(Sign('sample_deviation', since, message))
  return found
