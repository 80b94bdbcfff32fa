"""The training loop."""

import contextlib
import functools
import math
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dvd_gan import alarm, checkpoint, models, sampling, sharding, train_step, video
from dvd_gan.checkpoint import Checkpoints
from dvd_gan.datasets import evaluation_windows, input_pipeline, sources
from dvd_gan.datasets.evaluation_windows import Clips
from dvd_gan.runtime import announcement, backend, files, multihost, progress, run_config, validation
from dvd_gan.runtime.errors import PREEMPTED, RunError, UsageError
from dvd_gan.runtime.preemption import Notices, StopSignal
from dvd_gan.runtime.progress import say
from dvd_gan.runtime.trace import Trace
from dvd_gan.writer import Writer, logged

SAVE, STOP = 1, 2  # what the hosts agree upon at each step


class NonFiniteError(RunError):
  """A loss or gradient is NaN or infinite; the newest checkpoint is from before."""


def train(config: Any, workdir: epath.Path) -> int:
  """Trains from the newest checkpoint in `workdir`, or from the start, to `train.steps`.

  Returns:
    0 when done, 42 when stopped by SIGTERM or Ctrl-C, on any host, after saving.

  Raises:
    UsageError: see `sources.open_source`, `run_config.open_workdir`, `Checkpoints.restore`; another process trains there.
    NonFiniteError: when training diverged; nothing after the last good checkpoint is kept.
    RunError: when a checkpoint cannot be written.
  """
  run_config.settle(config, workdir)
  source = multihost.in_turn(lambda: sources.open_source(config))
  if config.data.stage and not source.in_memory:
    source.stage(config.data.stage)  # on all hosts at once
  run_config.number_classes(config, run_config.padded(config, source.classes))
  stop = StopSignal()
  try:
    run_config.open_workdir(workdir)
    lock = files.exclusive(workdir / '.lock', f'training in {workdir}')
    with lock if jax.process_index() == 0 else contextlib.nullcontext():
      return _train(config, workdir, source, stop)
  finally:
    stop.restore()


def _train(config: Any, workdir: epath.Path, source: Any, stop: StopSignal) -> int:
  """`train`, with its data open and its signals handled."""
  mesh = sharding.make_mesh(config.mesh.shard)
  spec = train_step.make_spec(config, **backend.step_options(config.mesh))
  multihost.check_shared(workdir)
  checkpoints = Checkpoints(
    workdir / 'checkpoints', config.train.keep_checkpoints, config.train.keep_best, config.train.keep_every
  )
  if checkpoints.newest() is not None and not config.train.allow_config_change:
    run_config.check(config, workdir)
  state = initial_state(config, spec, mesh, checkpoints)
  names = run_config.padded(config, source.classes)
  run_config.write(config, workdir, source.classes)  # now that the checkpoint is known to fit
  first_step, last_step = int(state.step), config.train.steps
  checkpoint.drop_marks(workdir, after=first_step)
  writer = Writer(workdir, first_step)
  clips_per_step = config.train.batch_size * config.train.d_steps
  watch = alarm.Alarm(logged(workdir, first_step), clips_per_step)
  context = evaluation_windows.context_frames(config)
  batches = input_pipeline.Batches(config, source, mesh, first_step)
  step_fn = train_step.jitted(spec, mesh, state)
  # Laid on the mesh like the state, so that the compiled step has one placement for both.
  seed_key = jax.jit(functools.partial(jax.random.key, config.seed), out_shardings=sharding.replicated(mesh))()
  anywhere, notices = multihost.Largest(mesh), Notices()
  trace = Trace(workdir, config.train.profile_steps)
  if config.train.decay_start >= last_step:
    say(f'train.decay_start={config.train.decay_start} is not below train.steps: the learning rates stay as they are')
  announcement.announce(config, workdir, mesh, state, source)
  if first_step:
    say(f'resuming {workdir} at step {first_step}')

  metrics, stopping = None, False
  with contextlib.ExitStack() as cleanup:
    for end in (notices.close, trace.close, batches.close, writer.close, checkpoints.close):
      cleanup.callback(end)  # in reverse, each also where another fails
    stop.nothing_to_save = first_step < last_step
    for step in range(first_step + 1, last_step + 1):
      batch, previous = next(batches), metrics
      first = step == first_step + 1
      if first:
        with announcement.compiling(config, mesh):
          step_fn = step_fn.lower(state, batch, seed_key).compile()
        multihost.gather()  # a host that still compiles would keep the others waiting in the middle of a step
      with trace(step):
        state, metrics = step_fn(state, batch, seed_key)
      if first:
        warm_up(config, state, metrics, context)
        multihost.gather()
        anywhere(0)
        stop.nothing_to_save = False
        coming = {'samples': config.train.sample_every, 'checkpoint': config.train.checkpoint_every, 'end': last_step}
        shown = progress.Steps(step, last_step, clips_per_step, coming)  # the rate leaves compilation out
        cleanup.callback(shown.close)
        batches.waited = 0.0
        # Only now: it imports TensorFlow, and the hosts should be done with compiling at the same time.
        writer.describe(first_step, validation.listing(config), announcement.networks(state))
      check_finite(previous, step - 1, checkpoints)  # one step late, so that the device never waits for the host
      asked = anywhere(STOP if stop else SAVE if notices.take() else 0) if step < last_step else 0
      stopping = asked == STOP
      due = due_at(config.train, step, asked > 0)
      if due.log:
        check_finite(metrics, step, checkpoints)
      if due.save or due.sample:
        check_finite({'finite': all_finite(state)}, step, checkpoints)
      samples = Samples(config, state, context) if due.statistics else None
      if due.log:
        found = jax.device_get(metrics) | (samples.metrics if samples else {}) | shown.pace(step, batches.waited)
        log(step, found, writer, watch, checkpoints)
      if asked:
        checkpoints.save(step, state)
        if asked == SAVE:
          say(f'saving at step {step}: a host will be preempted or stopped for maintenance')
      elif due.save:
        statistics = sampling.statistics_size(config)
        checkpoints.save(step, state, samples.standing, best_metric(config, metrics), statistics)
      if due.sample:
        write_samples(samples, names, workdir, step, writer)
      if due.save:
        writer.flush()
      shown.show(step, metrics, batches.waited, force=stopping or step == last_step)
      if stopping:
        break
  if stopping:
    say(f'stopped by {stop.name or "another host"} at step {step}; saved. The same command goes on from there.')
    return PREEMPTED
  say(
    f'done: {max(first_step, last_step)} steps. Samples in {workdir / "samples"}, metrics in {workdir / "metrics.jsonl"}'
  )
  return 0


class Due(NamedTuple):
  """What a step ends with."""

  log: bool
  save: bool
  sample: bool
  statistics: bool  # standing statistics, which samples and checkpoints need


def due_at(train_config: Any, step: int, hurried: bool) -> Due:
  """What step number `step` ends with. A step that a signal or a notice wants saved has no statistics and samples.

  The grace period of a preemption may be short; `--mode=sample` computes the missing statistics.
  """
  last = hurried or step == train_config.steps
  save = last or step % train_config.checkpoint_every == 0
  sample_every = 0 if hurried else train_config.sample_every
  sample = sample_every > 0 and (last or step % sample_every == 0)
  log = save or sample or step % train_config.log_every == 0
  return Due(log, save, sample, statistics=(save or sample) and not hurried)


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
    say(f'warning: step {step}: {sign.message}; {back} (dvd_gan/runtime/README.md, Going back)', sys.stderr)
  writer.scalars(step, metrics | ({'alarm': len(signs)} if signs else {}))


def warm_up(config: Any, state: train_step.TrainState, metrics: Any, context: Clips | None) -> None:
  """Compiles what saving and sampling need, so that a stop never has to wait for the compiler."""
  jax.block_until_ready(metrics)
  best_metric(config, metrics)
  with progress.clock('the first step is done; compiling what saving and sampling need'):
    all_finite(state)
    checkpoint.warm_up(state)
    sampling.make_sampler(config, state.ema_params, state.gen.spectral, context).warm_up()


def best_metric(config: Any, metrics: Any) -> float:
  """Value of `train.best_metric` at this step; NaN where no best checkpoints are kept."""
  if not config.train.keep_best:
    return math.nan
  name = config.train.best_metric
  if name not in metrics:
    raise UsageError(f'train.best_metric={name} is none of {", ".join(sorted(metrics))}')
  return float(metrics[name])


def initial_state(
  config: Any, spec: train_step.StepSpec, mesh: jax.sharding.Mesh, checkpoints: Checkpoints
) -> train_step.TrainState:
  """The state of the newest checkpoint that is good, else a fresh one, on the mesh."""
  if checkpoints.newest() is not None:
    return checkpoints.restore_newest(config, mesh, set_aside=True)[1]
  init = functools.partial(train_step.init_state, spec)
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
  """Whether every number in a tree is finite. The loss precedes the update, so the new parameters need their own check."""
  return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


class Samples:
  """The sampler of a state's EMA weights.

  Attributes:
    sampler: see `sampling.make_sampler`.
    standing: standing statistics at truncation 1.
    metrics: for synthesis, how far samples of one class differ.
  """

  def __init__(self, config: Any, state: train_step.TrainState, context: Clips | None):
    self.sampler = sampling.make_sampler(config, state.ema_params, state.gen.spectral, context)
    self.standing = self.sampler.standing()
    self.metrics = {} if context else {'sample_deviation': self.sampler.deviation(self.standing)}


def write_samples(samples: Samples, names: tuple[str, ...], workdir: epath.Path, step: int, writer: Writer) -> None:
  """A grid of samples to samples/step_XXXXXXXX.{mp4,gif} and TensorBoard, at fixed z and classes or training clips."""
  config = samples.sampler.config
  context, labels = samples.sampler.conditions()
  seed = config.sample.seed
  videos = samples.sampler.videos(samples.standing, labels, truncation=1.0, seed=seed, context=context)
  videos = np.concatenate([context, videos], axis=1)
  length = config.data.frames
  borders = video.borders(config.data.context, length, length) if config.data.context else None

  def write() -> None:
    captions = [] if config.data.context else [names[label] for label in labels[: sampling.MAX_GRID]]
    grid = video.grid(videos[: sampling.MAX_GRID], config.sample.columns, borders, captions)
    folder = workdir / 'samples'
    folder.mkdir(parents=True, exist_ok=True)
    files = video.write(folder / f'step_{step:08d}', grid, config.sample.fps)
    writer.video(step, 'samples', epath.Path(files[-1]).read_bytes(), (grid.shape[2], grid.shape[1]))

  writer.later(write)
