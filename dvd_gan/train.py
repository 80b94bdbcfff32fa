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

SAVE, STOP = 1, 2  # requests that the hosts exchange at each step; the largest wins


class NonFiniteError(RunError):
  """A metric or an array of the state is NaN or infinite; the newest checkpoint was saved before that."""


def train(config: Any, workdir: epath.Path) -> int:
  """Trains up to step `train.steps`, from the newest checkpoint in `workdir` or from scratch.

  Returns:
    0 when done; 42 after SIGTERM or Ctrl-C on any host, once the state is saved.

  Raises:
    UsageError: see `sources.open_source`, `run_config.open_folder`, `Checkpoints.restore`; also if another process is
      training in `workdir`.
    NonFiniteError: if training diverged; a state that is not finite is never saved.
    RunError: if a checkpoint cannot be written, no checkpoint can be read, or a bucket does not answer.
  """
  stop = StopSignal()
  try:
    run_config.settle(config, workdir)
    source = multihost.in_turn(lambda: sources.open_source(config))
    if config.data.stage and not source.in_memory:
      source.stage(config.data.stage)  # on all hosts in parallel
    run_config.number_classes(config, run_config.padded(config, source.classes))
    run_config.open_folder(workdir, 'workdir')
    lock = files.exclusive(workdir / '.lock', f'training in {workdir}')
    with lock if jax.process_index() == 0 else contextlib.nullcontext():
      return _train(config, workdir, source, stop)
  finally:
    stop.restore()


def _train(config: Any, workdir: epath.Path, source: Any, stop: StopSignal) -> int:
  """Runs `train` on an open data set, with signal handlers installed."""
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
  run_config.write(config, workdir, source.classes)  # after the restore, which checks the config
  first_step, last_step = int(state.step), config.train.steps
  checkpoint.drop_marks(workdir, after=first_step)
  writer = Writer(workdir, first_step)
  clips_per_step = config.train.batch_size * config.train.d_steps
  watch = alarm.Alarm(logged(workdir, first_step), clips_per_step)
  context = evaluation_windows.context_frames(config)
  batches = input_pipeline.Batches(config, source, mesh, first_step)
  step_fn = train_step.jitted(spec, mesh, state)
  # Placed on the mesh like the state: the compiled step takes all its arguments on the same devices.
  seed_key = jax.jit(functools.partial(jax.random.key, config.seed), out_shardings=sharding.replicated(mesh))()
  anywhere, notices = multihost.Largest(mesh), Notices()
  trace = Trace(workdir, config.train.profile_steps)
  for field, what in (('decay_start', 'learning rates'), ('truth_decay_start', 'squared error')):
    if config.train[field] >= last_step:
      say(f'train.{field}={config.train[field]} is not below train.steps: no decay of the {what}')
  announcement.announce(config, workdir, mesh, state, source)
  if first_step:
    say(f'resuming {workdir} at step {first_step}')

  metrics, stopping = None, False
  with contextlib.ExitStack() as cleanup:
    for end in (notices.close, trace.close, batches.close, writer.close, checkpoints.close):
      cleanup.callback(end)  # closed in reverse order, each even if another one fails
    stop.nothing_to_save = first_step < last_step
    for step in range(first_step + 1, last_step + 1):
      batch, previous = next(batches), metrics
      first = step == first_step + 1
      if first:
        with announcement.compiling(config, mesh):
          step_fn = step_fn.lower(state, batch, seed_key).compile()
        # Waits until every host has compiled. Otherwise fast hosts would block inside the first step's collectives.
        multihost.gather()
      with trace(step):
        state, metrics = step_fn(state, batch, seed_key)
      if first:
        warm_up(config, state, metrics, context)
        multihost.gather()
        anywhere(0)
        stop.nothing_to_save = False
        coming = {'samples': config.train.sample_every, 'checkpoint': config.train.checkpoint_every, 'end': last_step}
        shown = progress.Steps(step, last_step, clips_per_step, coming)  # the rate excludes compilation
        cleanup.callback(shown.close)
        batches.waited = 0.0
        # Not earlier: this imports TensorFlow on the first host, which would delay its compilation and so all hosts.
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
          say(f'saving step {step}, because a host will be preempted or stopped for maintenance; training continues')
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
    say(f'stopped by {stop.name or "another host"} at step {step}; saved. The same command resumes from this step.')
    return PREEMPTED
  say(
    f'done: {max(first_step, last_step)} steps. Samples in {workdir / "samples"}, metrics in {workdir / "metrics.jsonl"}'
  )
  return 0


class Due(NamedTuple):
  """Actions at the end of a step."""

  log: bool
  save: bool
  sample: bool
  statistics: bool  # compute standing statistics, for samples and checkpoints


def due_at(train_config: Any, step: int, hurried: bool) -> Due:
  """Returns the actions at the end of step number `step`.

  If `hurried`, by a signal or a preemption notice, the state is saved without standing statistics and samples, as the
  grace period may be short. `--mode=sample` computes the missing statistics.
  """
  last = hurried or step == train_config.steps
  save = last or step % train_config.checkpoint_every == 0
  sample_every = 0 if hurried else train_config.sample_every
  sample = sample_every > 0 and (last or step % sample_every == 0)
  log = save or sample or step % train_config.log_every == 0
  return Due(log, save, sample, statistics=(save or sample) and not hurried)


def log(step: int, metrics: dict[str, Any], writer: Writer, watch: alarm.Alarm, checkpoints: Checkpoints) -> None:
  """Writes the metrics of a step. On a sign of collapse, warns and marks the last checkpoint before it as kept."""
  line = {'step': step, **{name: float(value) for name, value in metrics.items()}}
  signs = watch(line)
  for sign in signs:
    before = [saved for saved in checkpoints.steps() if saved <= sign.since]
    back = 'no checkpoint before it exists'
    if before:
      back = f'the last checkpoint before it, {checkpoints.folder / str(before[-1])}, is kept'
      checkpoint.mark(checkpoints.folder.parent, f'alarm-{sign.name.replace(" ", "-")}', before[-1])
    todo = 'to return to it: dvd_gan/runtime/README.md, Going back' if before else 'if samples get worse, start again'
    say(f'warning: sign of collapse at step {step}: {sign.message}; {back} ({todo})', sys.stderr)
  writer.scalars(step, metrics | ({'alarm': len(signs)} if signs else {}))


def warm_up(config: Any, state: train_step.TrainState, metrics: Any, context: Clips | None) -> None:
  """Compiles the programs that saving and sampling use, so that a stop never waits for compilation."""
  jax.block_until_ready(metrics)
  best_metric(config, metrics)
  with progress.clock('the first step is done; compiling the programs for saving and sampling'):
    all_finite(state)
    checkpoint.warm_up(state)
    sampling.make_sampler(config, state.ema_params, state.gen.spectral, context).warm_up()


def best_metric(config: Any, metrics: Any) -> float:
  """Value of `train.best_metric` at this step; NaN where no best checkpoints are kept."""
  if not config.train.keep_best:
    return math.nan
  name = config.train.best_metric
  if name not in metrics:
    raise UsageError(f'train.best_metric={name} is not a metric; choose one of {", ".join(sorted(metrics))}')
  return float(metrics[name])


def initial_state(
  config: Any, spec: train_step.StepSpec, mesh: jax.sharding.Mesh, checkpoints: Checkpoints
) -> train_step.TrainState:
  """Restores the newest undamaged checkpoint onto the mesh; without checkpoints, initialises a new state there."""
  if found := checkpoints.restore_newest(config, mesh, set_aside=True):
    return found[1]
  init = functools.partial(train_step.init_state, spec)
  start = models.init(config), jax.random.key(config.seed)
  places = sharding.state(mesh, jax.eval_shape(init, *start))
  return jax.jit(init, out_shardings=places)(*start)


def check_finite(metrics: Any, step: int, checkpoints: Checkpoints) -> None:
  """Raises NonFiniteError if the metrics of `step` are not all finite. `metrics` is None before the first step."""
  if metrics is None or bool(metrics['finite']):
    return
  bad = [name for name, value in jax.device_get(metrics).items() if not np.isfinite(value)]
  newest = checkpoints.newest()
  back = f'the last checkpoint is from step {newest}' if newest else 'no checkpoint is saved'
  raise NonFiniteError(
    f'values of step {step} are not finite; {back}. If a restart fails at the same step, halve train.gen_lr and '
    'train.disc_lr (dvd_gan/runtime/README.md, Going back). '
    f'NaN or infinite: {", ".join(bad) or "the state after the update"}'
  )


@jax.jit
def all_finite(tree: Any) -> jax.Array:
  """Whether all leaves of a tree are finite. The loss precedes the update, so new parameters need their own check."""
  return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


class Samples:
  """The sampler of a state's EMA weights.

  Attributes:
    sampler: see `sampling.make_sampler`.
    standing: standing statistics at truncation 1.
    metrics: `sample_deviation` for synthesis, see `Sampler.deviation`; empty for prediction.
  """

  def __init__(self, config: Any, state: train_step.TrainState, context: Clips | None):
    self.sampler = sampling.make_sampler(config, state.ema_params, state.gen.spectral, context)
    self.standing = self.sampler.standing()
    self.metrics = {} if context else {'sample_deviation': self.sampler.deviation(self.standing)}


def write_samples(samples: Samples, names: tuple[str, ...], workdir: epath.Path, step: int, writer: Writer) -> None:
  """Writes a grid of samples to samples/step_XXXXXXXX.{mp4,gif} and TensorBoard.

  Latents are the same at every step, and so are the classes or, for prediction, the context frames.
  """
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
