"""Profiler trace of a range of train steps, for TensorBoard's Profile page."""

import contextlib
from collections.abc import Iterator, Sequence

import jax
from etils import epath


class Trace:
  """Marks each step for the profiler, and records the steps of `train.profile_steps` in the workdir."""

  def __init__(self, workdir: epath.Path, steps: Sequence[int]):
    """`steps` are the first and last step to record; empty for none."""
    self._workdir = workdir
    self._first, self._last = steps or (0, 0)
    self._recording = False

  @contextlib.contextmanager
  def __call__(self, step: int) -> Iterator[None]:
    """Context manager around train step `step`."""
    if self._first <= step <= self._last and not self._recording:
      jax.profiler.start_trace(str(self._workdir))
      self._recording = True
    if step > self._last + 1:  # the loop has waited for the last recorded step
      self.close()
    with jax.profiler.StepTraceAnnotation('train', step_num=step):
      yield

  def close(self) -> None:
    """Ends the recording."""
    if self._recording:
      self._recording = False  # set first, so that a failed write is not repeated
      jax.profiler.stop_trace()
