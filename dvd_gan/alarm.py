"""Signs in a run's metrics that it drifts to collapse, raised while a good checkpoint is still there.

The limits were set on runs of this project (results/long_runs): healthy ones stay within them, and one with ten times
their learning rates does not.
"""

import statistics
from typing import NamedTuple

WINDOW = 20  # lines of metrics that a mean is taken over
WON = 0.2  # hinge loss below which a discriminator has won, and G learns nothing more from it
DEAD = 1.9  # loss above which it cannot separate real from fake (at a score of 0 the loss is 2)
DEAD_AFTER = 10_000  # real clips shown; the loss of a young D is as high
SIGMA = 20.0  # largest spectral norm of raw weights: updates hardly change them any more
ALIKE = 0.5  # of the largest deviation so far: samples of one class have become alike

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
    if name not in window[-1]:  # a run with one discriminator
      continue
    loss = statistics.fmean(line[name] for line in window)
    if loss < WON:
      found.append(Sign(f'{name} low', since, f'{name} is {loss:.2f}: G learns nothing more from this discriminator'))
    if loss > DEAD and step * clips_per_step > DEAD_AFTER:
      found.append(Sign(f'{name} high', since, f'{name} is {loss:.2f}: this discriminator separates nothing'))
  for name in ('gen_sigma_max', 'disc_sigma_max'):
    if window[-1][name] > SIGMA:
      found.append(
        Sign(
          name, window[-2]['step'], f'{name} is {window[-1][name]:.1f}: the learning rate is too high for a long run'
        )
      )
  deviations = [(line['step'], line['sample_deviation']) for line in lines if 'sample_deviation' in line]
  largest = max(deviations, key=lambda one: one[1], default=None)
  if largest and deviations[-1][1] < ALIKE * largest[1]:
    message = (
      f'samples of one class differ by {deviations[-1][1]:.1f} grey levels, at step {largest[0]} by {largest[1]:.1f}'
    )
    found.append(Sign('sample_deviation', largest[0], message))
  return found
