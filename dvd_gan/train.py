"""The training loop."""

import contextlib
import functools
import math
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dvd_gan import alarm, checkpoint, files, hosts, models, record, sharding, train_step, video
from dvd_gan import sample as sampling
from dvd_gan.checkpoint import Checkpoints
from dvd_gan.datasets import evaluation_windows, input_pipeline, sources
from dvd_gan.datasets.evaluation_windows import Clips
from dvd_gan.errors import PREEMPTED, RunError, UsageError
from dvd_gan.writer import Progress, Writer, logged


class NonFiniteError(RunError):
  """A loss or gradient is NaN or infinite; the newest checkpoint is from before."""


def train(config: Any, workdir: epath.Path) -> int:
  """Trains from the newest checkpoint in `workdir`, or from the start, to `train.steps`.

  Returns:
    0 when done, 42 when stopped by SIGTERM or Ctrl-C, on any host, after saving.

  Raises:
    UsageError: see `sources.open_source`, `record.open_workdir`, `Checkpoints.restore`; another process trains there.
    NonFiniteError: when training diverged; nothing after the last good checkpoint is kept.
    RunError: when a checkpoint cannot be written.
  """
  source = hosts.in_turn(lambda: sources.open_source(config))
  stop = StopSignal()
  try:
    record.open_workdir(workdir)
    alone = files.alone(workdir / '.lock', f'training in {workdir}')
    with alone if jax.process_index() == 0 else contextlib.nullcontext():
      return _train(config, workdir, source, stop)
  finally:
    stop.restore()


def _train(config: Any, workdir: epath.Path, source: Any, stop: 'StopSignal') -> int:
  """`train`, with its data open and its signals taken."""
  mesh = sharding.make_mesh(config.mesh.shard)
  recipe = train_step.make_recipe(config, **sharding.forms(config.mesh))
  hosts.check_shared(workdir)
  checkpoints = Checkpoints(
    workdir / 'checkpoints', config.train.keep_checkpoints, config.train.keep_best, config.train.keep_every
  )
  if checkpoints.newest() is not None and not config.train.allow_config_change:
    record.check(config, workdir)
  state = initial_state(config, recipe, mesh, checkpoints)
  record.write(config, workdir)  # now that the checkpoint is known to fit
  first_step = int(state.step)
  checkpoint.drop_marks(workdir, after=first_step)
  writer = Writer(workdir, first_step)
  watch = alarm.Alarm(logged(workdir, first_step), config.train.batch_size * config.train.d_steps)
  given = evaluation_windows.given_frames(config)
  batches = input_pipeline.Batches(config, source, mesh, first_step)
  step_fn = train_step.jitted(recipe, mesh, state)
  # Laid on the mesh like the state, so that the compiled step has one placement for both.
  seed_key = jax.jit(functools.partial(jax.random.key, config.seed), out_shardings=sharding.replicated(mesh))()
  stop_anywhere = hosts.AnyOf(mesh)
  progress = Progress(first_step, config.train.steps)
  if config.train.decay_start >= config.train.steps:
    say(f'train.decay_start={config.train.decay_start} is not below train.steps: the learning rates stay as they are')
  if first_step:
    say(f'resuming {workdir} at step {first_step}')

  metrics, step, last = None, first_step, first_step >= config.train.steps
  with contextlib.ExitStack() as cleanup:
    for end in (batches.close, writer.close, checkpoints.close):
      cleanup.callback(end)  # in reverse, each also where another fails
    stop.idle = not last  # until all that the run needs is compiled
    while not last:
      batch = next(batches)
      before = metrics
      state, metrics = step_fn(state, batch, seed_key)
      if step == first_step:
        jax.block_until_ready(metrics)
        say('the first step is done; compiling what saving and sampling need')
        warm_up(config, state, metrics, given)
        stop_anywhere(False)
        stop.idle = False
        progress = Progress(first_step + 1, config.train.steps)  # the rate leaves compilation out
        batches.waited = 0.0
      step += 1
      # One step late, so that the device never waits for the host.
      check_finite(before, step - 1, checkpoints)

      done = step == config.train.steps
      # Looked at here alone, so that the step that it ends on is always saved, by all hosts the same.
      stopping = stop_anywhere(bool(stop)) and not done
      last = done or stopping
      save_now = step % config.train.checkpoint_every == 0 or last
      sample_now = config.train.sample_every and (done or step % config.train.sample_every == 0)
      log_now = step % config.train.log_every == 0 or save_now or sample_now
      measured = {}
      if log_now:
        check_finite(metrics, step, checkpoints)
      if save_now or sample_now:
        check_finite({'finite': all_finite(state)}, step, checkpoints)
      if (save_now or sample_now) and not stopping:
        sampler = sampling.make_sampler(config, state.ema_params, state.gen.spectral, given)
        standing = sampler.standing()
        measured = {'sample_deviation': sampler.deviation(standing)} if given is None else {}
      if log_now:
        log(step, jax.device_get(metrics) | measured, writer, watch, checkpoints)
      if stopping:
        # The grace period may be short: the state alone, `sample` makes up for the statistics.
        checkpoints.save(step, state)
      elif save_now:
        checkpoints.save(step, state, standing, score(config, metrics))
      if sample_now and not stopping:
        write_samples(sampler, standing, workdir, step, writer)
      progress.show(step, metrics, batches.waited, force=last)
  if step < config.train.steps:
    say(f'stopped by {stop.name or "another host"} at step {step}; saved. The same command goes on from there.')
    return PREEMPTED
  say(f'done: {step} steps. Samples in {workdir / "samples"}, metrics in {workdir / "metrics.jsonl"}')
  return 0


def log(step: int, metrics: dict[str, Any], writer: Writer, watch: alarm.Alarm, checkpoints: Checkpoints) -> None:
  """Writes the metrics of a step. At a sign of collapse it warns, and keeps the checkpoint to go back to."""
  line = {'step': step, **{name: float(value) for name, value in metrics.items()}}
  signs = watch(line)
  for sign in signs:
    before = [saved for saved in checkpoints.steps() if saved <= sign.since]
    back = 'no checkpoint is from before it'
    if before:
      back = f'the checkpoint from before it, step {before[-1]}, is kept'
      checkpoint.mark(checkpoints.folder.parent, f'alarm-{sign.name.replace(" ", "-")}', before[-1])
    say(f'warning: step {step}: {sign.message}; {back} (README, Going back)', sys.stderr)
  writer.scalars(step, metrics | ({'alarm': len(signs)} if signs else {}))


def warm_up(config: Any, state: train_step.TrainState, metrics: Any, given: Clips | None) -> None:
  """Compiles what saving and sampling need, so that a stop never has to wait for the compiler."""
  score(config, metrics)
  all_finite(state)
  checkpoint.warm_up(state)
  sampling.make_sampler(config, state.ema_params, state.gen.spectral, given).warm_up()


def score(config: Any, metrics: Any) -> float:
  """What a checkpoint is kept for, `train.best_metric` of its step; NaN where none are."""
  if not config.train.keep_best:
    return math.nan
  name = config.train.best_metric
  if name not in metrics:
    raise UsageError(f'train.best_metric={name} is none of {", ".join(sorted(metrics))}')
  return float(metrics[name])


def initial_state(
  config: Any, recipe: train_step.Recipe, mesh: jax.sharding.Mesh, checkpoints: Checkpoints
) -> train_step.TrainState:
  """The state of the newest checkpoint that is good, else a fresh one, on the mesh."""
  if checkpoints.newest() is not None:
    return checkpoints.restore_newest(config, mesh, set_aside=True)[1]
  init = functools.partial(train_step.init_state, recipe)
  start = models.init(config), jax.random.key(config.seed)
  places = sharding.state(mesh, jax.eval_shape(init, *start))
  return jax.jit(init, out_shardings=places)(*start)


def check_finite(metrics: Any, step: int, checkpoints: Checkpoints) -> None:
  """Raises NonFiniteError if the metrics of `step` are not all finite; None passes."""
  if metrics is None or bool(metrics['finite']):
    return
  bad = [name for name, value in jax.device_get(metrics).items() if not np.isfinite(value)]
  newest = checkpoints.newest()
  raise NonFiniteError(
    f'step {step}: {", ".join(bad) or "the state"} not finite; '
    + (f'the last good checkpoint is step {newest}' if newest else 'there is no checkpoint before it')
  )


@jax.jit
def all_finite(tree: Any) -> jax.Array:
  """Whether every number in a tree is finite; a loss tells of its step's parameters, not of the next one's."""
  return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def write_samples(sampler: sampling.Sampler, standing: Any, workdir: epath.Path, step: int, writer: Writer) -> None:
  """A grid of samples to samples/step_XXXXXXXX.{mp4,gif} and TensorBoard, at fixed z and classes or training clips."""
  config = sampler.config
  given, labels = sampler.conditions()
  videos = sampler.videos(standing, labels, truncation=1.0, seed=config.sample.seed, given=given)
  videos = np.concatenate([given, videos], axis=1)
  borders = video.borders(config.data.given, config.data.frames, config.data.frames) if config.data.given else None

  def write() -> None:
    grid = video.grid(videos[: sampling.MAX_GRID], config.sample.columns, borders)
    folder = workdir / 'samples'
    folder.mkdir(parents=True, exist_ok=True)
    files = video.write(folder / f'step_{step:08d}', grid, config.sample.fps)
    writer.video(step, 'samples', epath.Path(files[-1]).read_bytes(), (grid.shape[2], grid.shape[1]))

  writer.later(write)


def say(message: str, file: Any = None) -> None:
  """One line to the user, on stdout or another file, from the first process only."""
  if jax.process_index() == 0:
    print(message, file=file, flush=True)


class StopSignal:
  """True once SIGTERM or Ctrl-C has come; a second one, a second or more later, ends the process unsaved, with 1.

  Attributes:
    idle: while it is set there is nothing to save, and a signal ends the process at once with 42: Python's own handlers
      would wait until a compilation is through, minutes that a preempted machine does not have.
  """

  def __init__(self):
    self.name = ''
    self.idle = True
    self._woken, self._wake = socket.socketpair()
    self._wake.setblocking(False)
    self._wake_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
    self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
    threading.Thread(target=self._watch, daemon=True, name='signals').start()

  def _handle(self, number: int, _: Any) -> None:
    self.name = self.name or signal.Signals(number).name

  def _watch(self) -> None:
    """Handles each signal as it comes, even while the main thread is in a library; ends when `restore` closes the socket."""
    first = math.inf
    while number := self._woken.recv(1):
      if number[0] not in self._before:
        continue
      if self.idle:
        print(f'stopped by {signal.Signals(number[0]).name} before the first step: nothing to save', flush=True)
        os._exit(PREEMPTED)
      # A terminal and a supervisor may both pass on one stop.
      if time.monotonic() - first > 1:
        os._exit(1)
      first = min(first, time.monotonic())
    self._woken.close()

  def __bool__(self) -> bool:
    return bool(self.name)

  def restore(self) -> None:
    """Puts the earlier handlers back."""
    signal.set_wakeup_fd(self._wake_before)
    self._wake.close()
    for number, handler in self._before.items():
      signal.signal(number, handler)
