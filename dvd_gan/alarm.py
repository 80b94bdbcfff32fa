"""Signs in a run's metrics that it drifts to collapse, raised while a good checkpoint is still there.

The limits were set on the runs under results/: healthy ones stay within them, those that went wrong do not
(tests/test_alarm.py).
"""

import statistics
from typing import NamedTuple

WINDOW = 20  # lines of metrics that a mean is taken over
WON = 0.15  # hinge loss below which a discriminator has won, and G learns nothing more from it
DEAD = 1.9  # loss above which it cannot separate real from fake (at a score of 0 the loss is 2)
DEAD_AFTER = 10_000  # real clips shown; the loss of a young D is as high
SIGMA, GROWTH = 5.0, 3.0  # raw weights whose spectral norm is above the first and has grown by the second in a window
ALIKE, UNLIKE = 0.5, 0.8  # of the median deviation so far: samples of one class have become alike; are well

Line = dict[str, float]  # of metrics.jsonl


class Sign(NamedTuple):
  """A sign of collapse: its name, the step up to which all was well, and what was found."""

  name: str
  since: int
  message: str


class Alarm:
  """Reports each sign when it appears, and again only when it comes back after a window of lines without it."""

  def __init__(self, lines: list[Line], clips_per_step: int):
    """Goes on after the `lines` that a run has logged; `clips_per_step` are the real clips that D sees in a step."""
    self._lines = lines
    self._clips_per_step = clips_per_step
    self._last: dict[str, int] = {}  # number of the line at which a sign was last there
    self._appearing()

  def __call__(self, line: Line) -> list[Sign]:
    """The signs that appear with one more line."""
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
    if any(name not in line for line in window):  # a run with one discriminator, now or until it was resumed
      continue
    loss = statistics.fmean(line[name] for line in window)
    if loss < WON:
      found.append(Sign(f'{name} low', since, f'{name} is {loss:.2f}: G learns nothing more from this discriminator'))
    if loss > DEAD and step * clips_per_step > DEAD_AFTER:
      found.append(Sign(f'{name} high', since, f'{name} is {loss:.2f}: this discriminator separates nothing'))
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
