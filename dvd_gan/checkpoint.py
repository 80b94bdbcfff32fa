"""Checkpoints of the TrainState and its standing statistics. The only file that imports orbax."""

import contextlib
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from dvd_gan import models, sharding, train_step
from dvd_gan.datasets import buckets
from dvd_gan.runtime import checksums, files, multihost
from dvd_gan.runtime.errors import RunError, UsageError

HANDLERS = {
  'state': ocp.StandardCheckpointHandler,
  'standing': ocp.StandardCheckpointHandler,
  'checksums': ocp.JsonCheckpointHandler,
}

MARKS = 'eval/kept'  # folder in the workdir, one file per mark


class DamagedError(UsageError):
  """A checkpoint whose files are unreadable or differ from what was saved."""


class Checkpoints:
  """Saves and restores checkpoints in a folder. Saving is asynchronous; `close` waits for the last save."""

  def __init__(self, folder: Any, keep: int = 0, keep_best: int = 0, keep_every: int = 0):
    """Opens `folder`, and creates it if necessary. Marked steps (see `mark`) are always kept.

    Args:
      folder: `checkpoints` in a workdir, local or gs://, the same for all processes of a run.
      keep: number of newest steps to keep; 0 keeps all.
      keep_best: number of steps with the smallest `best_metric` to keep, whether or not they are among the newest.
      keep_every: interval in steps; multiples of it are kept in addition; 0 for none.
    """
    self.folder = epath.Path(folder)
    # With max_to_keep and best_fn alone, orbax could delete the newest step.
    best = policies.BestN(
      get_metric_fn=lambda metrics: metrics['score'], n=keep_best, reverse=True, keep_checkpoints_without_metrics=False
    )
    kept = [policies.LatestN(keep or None), best, _Marked(self.folder.parent)]
    kept += [policies.EveryNSteps(keep_every)] if keep_every else []
    options = ocp.CheckpointManagerOptions(
      preservation_policy=policies.AnyPreservationPolicy(kept),
      best_fn=lambda metrics: metrics['score'],  # without it orbax does not save the scores
      best_mode='min',
      enable_async_checkpointing=True,
    )
    try:
      self._manager = ocp.CheckpointManager(
        self.folder, options=options, item_handlers={name: handler() for name, handler in HANDLERS.items()}
      )
    except (ValueError, *files.errors()) as error:  # tensorstore raises ValueError
      raise files.failure(error, f'cannot open the checkpoints in {self.folder}') from None
    if files.is_remote(self.folder) and not self._manager.all_steps():
      # Orbax lists the folder through TensorFlow, which reports it as missing if the bucket does not answer.
      for step in filter(str.isdigit, buckets.folders(self.folder)):
        if is_complete(self.folder / step):
          raise RunError(f'cannot list {self.folder}, which has a checkpoint of step {step}; a restart may help')

  def newest(self) -> int | None:
    """The newest saved step, or None."""
    return self._manager.latest_step()

  def steps(self) -> list[int]:
    """The saved steps, ascending."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: Any,
    standing: Any = None,
    best_metric: float = math.nan,
    statistics: tuple[int, int] | None = None,
  ) -> None:
    """Starts a save; the arrays may be donated once this returns. A step that is already saved is not saved again.

    Args:
      step: number of the step.
      state: the TrainState.
      standing: standing statistics of the EMA weights; None to save none.
      best_metric: value of `train.best_metric` at this step, smaller is better; NaN for none.
      statistics: (number of batches, videos per batch) that `standing` was computed from.

    Raises:
      RunError: if this save or the previous one cannot be written.
    """
    if step in self.steps():
      return
    trees = {'state': _named(state)} | ({} if standing is None else {'standing': standing})
    sums = {name: checksums.of(tree) for name, tree in trees.items()}
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    metrics = {'score': float(best_metric)} if math.isfinite(best_metric) else None
    args = ocp.args.Composite(**items, checksums=ocp.args.JsonSave(sums))
    try:
      about = {'statistics': list(statistics)} if statistics else None
      self._manager.save(step, args=args, metrics=metrics, custom_metadata=about)
    except Exception as error:  # tensorstore and orbax raise many types, e.g. on a full disk
      raise self._unwritten(error) from error

  def restore_newest(
    self, config: Any, mesh: jax.sharding.Mesh, *, set_aside: bool, full_state: bool = True
  ) -> tuple[int, train_step.TrainState, Any] | None:
    """Restores the newest undamaged step and warns about damaged ones.

    Args:
      config, mesh, full_state: see `restore`.
      set_aside: rename damaged steps to damaged-STEP, so that the run can save these steps again.

    Returns:
      (step, TrainState, standing statistics); None if there is no checkpoint.

    Raises:
      UsageError: if a step does not fit the config.
      RunError: if every step is damaged, or see `restore`.
    """
    steps = self.steps()[::-1]
    steps = json.loads(multihost.gather(json.dumps(steps))[0])  # the first host's: views of a shared disk may differ
    if not steps:
      return None
    self._catch_up(lambda: set(steps) <= set(self.steps()))
    for i, step in enumerate(steps):
      try:
        state, standing = self.restore(step, config, mesh, full_state=full_state)
      except DamagedError as error:
        print(f'warning: {error}; trying the previous checkpoint', file=sys.stderr, flush=True)
        continue
      if set_aside and i:
        self._set_aside(steps[:i])
      return step, state, standing
    raise RunError(
      f'every checkpoint in {self.folder} is damaged: {steps}; nothing was deleted. Put an intact copy of a checkpoint '
      'there, or move the folder away to train from step 0'
    )

  def _set_aside(self, steps: list[int]) -> None:
    """Renames steps to damaged-STEP, or to damaged-STEP-2 and so on if that name is taken."""
    if jax.process_index() == 0:
      for step in steps:
        names = (f'damaged-{step}{f"-{n}" if n > 1 else ""}' for n in itertools.count(1))
        (self.folder / str(step)).rename(next(path for name in names if not (path := self.folder / name).exists()))
    multihost.gather()
    self._catch_up(lambda: not any((self.folder / str(step)).exists() for step in steps))
    self._manager.reload()

  def _catch_up(self, done: Callable[[], bool], seconds: float = 120.0) -> None:
    """Waits until this host's view of a shared disk has caught up."""
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
      time.sleep(1)
      self._manager.reload()

  def restore(
    self, step: int, config: Any, mesh: jax.sharding.Mesh, *, full_state: bool = True
  ) -> tuple[train_step.TrainState, Any]:
    """Restores a step.

    Args:
      step: a saved step.
      config: its gen, disc, data, train.b1 and train.lecam determine the structure of the state.
      mesh: mesh to restore onto, by `sharding.state`; it may differ from the mesh that the state was saved from.
      full_state: False restores only what sampling needs, `ema_params` and `gen.spectral`; the other trees are None.

    Returns:
      (TrainState, standing statistics), the latter None if they were not saved.

    Raises:
      UsageError: if the step does not exist, or its arrays have other names or shapes.
      DamagedError: if its files are unreadable or its checksums differ.
      RunError: if its bucket does not answer or denies access.
    """
    if step not in self.steps():
      raise UsageError(f'there is no checkpoint of step {step} in {self.folder}; choose one of {self.steps()}')
    state = train_step.state_shapes(config)
    state = sharding.placed(state, sharding.state(mesh, state))
    parts = _named(state) if full_state else {'ema_params': state.ema_params, 'gen': {'spectral': state.gen.spectral}}
    self._check_fit(step, parts, full_state)
    standing = models.standing_shapes(config)
    standing = sharding.placed(standing, jax.tree.map(lambda _: sharding.replicated(mesh), standing))
    handlers, items = dict(HANDLERS), {'state': ocp.args.StandardRestore(parts)}
    if not full_state:
      handlers['state'], how = ocp.PyTreeCheckpointHandler, ocp.checkpoint_utils.construct_restore_args(parts)
      items['state'] = ocp.args.PyTreeRestore(item=parts, restore_args=how, partial_restore=True)
    if (self.folder / str(step) / 'standing').exists():
      items['standing'] = ocp.args.StandardRestore(standing)
    if (self.folder / str(step) / 'checksums').exists():
      items['checksums'] = ocp.args.JsonRestore()
    cause = None
    for _ in range(2):  # a network error may be transient
      try:
        # Not by the manager: it synchronises hosts on their devices, and a host that fails to read never gets there.
        restored = {
          name: handlers[name]().restore(self.folder / str(step) / name, args=args) for name, args in items.items()
        }
        cause = None
        break
      except Exception as error:  # orbax raises many types; `_is_damage` classifies them
        cause = error
    # Each host reads its own part, so only some hosts may have failed.
    found = multihost.gather('' if cause is None else 'damaged' if _is_damage(cause) else 'no access')
    if any(found):
      failed = next(i for i, fault in enumerate(found) if fault)
      what = files.first_line(cause) if cause else f'see the log of process {failed}, which failed to read it'
      message = f'checkpoint {step} in {self.folder} cannot be read'
      if 'no access' in found:
        raise RunError(f'{message}; check the network and the permissions, then start again: {what}') from cause
      raise DamagedError(f'{message}: {what}') from cause
    for name, wanted in (restored.get('checksums') or {}).items():
      if name not in restored:
        raise DamagedError(f'checkpoint {step} in {self.folder} is damaged: its folder {name} is missing')
      found = checksums.of(restored[name])
      wrong = [path for path in found if found[path] != wanted.get(path)]
      if wrong:
        what = f'{len(wrong)} arrays have wrong checksums, first {wrong[0]}'
        raise DamagedError(f'checkpoint {step} in {self.folder} is damaged: {what}')
    if not full_state:
      spectral, ema = restored['state']['gen']['spectral'], restored['state']['ema_params']
      return type(state)(step, type(state.gen)(None, spectral, None), None, ema, None), restored.get('standing')
    nets = {
      name: type(net)(**value) if isinstance(value := restored['state'][name], dict) else value
      for name, net in (('gen', state.gen), ('disc', state.disc))
    }
    return type(state)(**(restored['state'] | nets)), restored.get('standing')

  def statistics(self, step: int) -> tuple[int, int] | None:
    """(number of batches, videos per batch) of a step's standing statistics; None if not recorded."""
    try:
      about = self._manager.metadata(step).custom_metadata or {}
    except Exception:  # unreadable metadata count as not recorded
      about = {}
    return tuple(about['statistics']) if 'statistics' in about else None

  def _check_fit(self, step: int, state: Any, full_state: bool) -> None:
    """Raises UsageError if a step's arrays differ from `state` in names or shapes.

    If not `full_state`, only the arrays in `state` are compared. If the metadata are unreadable, nothing is checked.
    """
    try:
      metadata = self._manager.item_metadata(step)['state']
      saved = {
        checksums.name(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(metadata.tree)[0]
      }
    except Exception:
      return
    wanted = {checksums.name(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}
    paths = saved.keys() | wanted.keys() if full_state else wanted.keys()
    different = [path for path in sorted(paths) if saved.get(path) != wanted.get(path)]
    if different:
      shape, other = (shapes.get(different[0], 'absent') for shapes in (saved, wanted))
      raise UsageError(
        f'checkpoint {step} in {self.folder} does not fit this config: set gen, disc, data, train.b1 and train.lecam '
        f'as in config.json of the run, or choose another --workdir ({different[0]} is {shape} there and {other} here)'
      )

  def wait(self) -> None:
    """Waits until the current save is on disk; raises RunError if it cannot be written."""
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self._unwritten(error) from error

  def close(self) -> None:
    """Waits for the current save, then closes the checkpoint manager."""
    self.wait()
    self._manager.close()

  def _unwritten(self, error: Exception) -> RunError:
    steps = self.steps()
    newest = f'the newest checkpoint is of step {steps[-1]}' if steps else 'no checkpoint is saved'
    message = f'cannot write a checkpoint to {self.folder}; check its free space and permissions; {newest}'
    return RunError(f'{message}: {files.first_line(error)}')


class _Marked:
  """An orbax preservation policy that keeps marked steps."""

  def __init__(self, workdir: epath.Path):
    self._workdir = workdir
    self._steps: set[int] | None = None  # None before the first successful read: all steps are kept

  def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
    with contextlib.suppress(*files.errors(), UsageError):  # then the marks that were read last apply
      self._steps = {mark['step'] for mark in marks(self._workdir).values()}
    return [self._steps is None or info.step in self._steps for info in checkpoints]


def marks(workdir: epath.Path) -> dict[str, dict[str, Any]]:
  """Marks of a run by name: the `step` that is kept regardless of `train.keep_checkpoints`, and `about` of `mark`.

  Raises:
    UsageError: if the file of a mark is damaged.
  """
  found, folder = {}, workdir / MARKS
  for path in folder.glob('*.json') if folder.exists() else []:
    try:
      found[path.stem] = json.loads(path.read_text())
      int(found[path.stem]['step'])
    except (ValueError, TypeError, KeyError) as error:
      raise UsageError(f'{path} is damaged ({error}): delete it; it only protects a checkpoint from deletion') from None
  return found


def mark(workdir: epath.Path, name: str, step: int, **about: Any) -> None:
  """Marks the checkpoint of `step` as kept, replacing any mark of that name; only the first process writes.

  Each name has its own file, so that training and a concurrent evaluation never write the same file.
  """
  if jax.process_index() == 0:
    files.write(workdir / MARKS / f'{name}.json', (json.dumps({'step': step, **about}) + '\n').encode())


def drop_marks(workdir: epath.Path, after: int) -> None:
  """Deletes marks of steps later than `after`, the step that a run resumes from; only the first process deletes."""
  if jax.process_index() == 0:
    for name, found in marks(workdir).items():
      if found['step'] > after:
        (workdir / MARKS / f'{name}.json').unlink(missing_ok=True)


def is_complete(step: epath.Path) -> bool:
  """Whether the folder of a step holds a whole checkpoint: in a bucket, orbax writes its files there, this one last."""
  return not files.is_remote(step) or (step / 'commit_success.txt').exists()


def warm_up(state: train_step.TrainState) -> None:
  """Compiles the checksums that saving computes."""
  checksums.of(_named(state))


def _named(state: train_step.TrainState) -> dict[str, Any]:
  """The fields of a state by name, without those that are None."""
  return {name: part for name, part in state._asdict().items() if part is not None}


def _is_damage(error: Exception) -> bool:
  """Whether a read error is due to damaged files, rather than to the connection or to missing permissions."""
  denied = re.search('PERMISSION_DENIED|UNAUTHENTICATED|PermissionDenied|Forbidden', f'{type(error).__name__} {error}')
  return not denied and not files.passing(error)
