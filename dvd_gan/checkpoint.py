"""Checkpoints of the TrainState and its standing statistics. The only file that imports orbax."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from dvd_gan import models, sharding, train_step
from dvd_gan.errors import UsageError


class Checkpoints:
  """The steps saved under a folder; saves in the background, waits for the last one on close."""

  def __init__(self, folder: Any, keep: int = 0):
    """Opens `folder`, making it if need be; the newest `keep` steps stay, all if 0."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep or None, enable_async_checkpointing=True)
    self.folder = epath.Path(folder)
    try:
      self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=('state', 'standing'))
    except OSError as error:
      raise UsageError(f'cannot open checkpoints in {self.folder}: {error}') from None

  def newest(self) -> int | None:
    """The newest step saved, or None."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, standing: Any = None) -> None:
    """Starts saving; the arrays may be donated once this returns. A step already saved stays as it is."""
    if step not in self._manager.all_steps():
      items = {'state': ocp.args.StandardSave(state._asdict())}
      if standing is not None:
        items['standing'] = ocp.args.StandardSave(standing)
      self._manager.save(step, args=ocp.args.Composite(**items))

  def restore(self, step: int, config: Any, mesh: jax.sharding.Mesh) -> tuple[train_step.TrainState, Any]:
    """Reads a step.

    Args:
      step: one that was saved.
      config: whose gen, disc and train.b1 decide the form of the state.
      mesh: where it goes, by `sharding.state`; the mesh that it was saved from may have been another.

    Returns:
      (TrainState, standing statistics); None for the latter where they were not saved.

    Raises:
      UsageError: if the step is not there or its arrays have other shapes.
    """
    if step not in self._manager.all_steps():
      raise UsageError(f'no checkpoint of step {step} in {self.folder}; there are {sorted(self._manager.all_steps())}')
    state = train_step.state_shapes(config)
    state = sharding.placed(state, sharding.state(mesh, state))
    standing = models.standing_shapes(config)
    standing = sharding.placed(standing, jax.tree.map(lambda _: sharding.replicated(mesh), standing))
    items = {'state': ocp.args.StandardRestore(state._asdict())}
    if (self.folder / str(step) / 'standing').exists():
      items['standing'] = ocp.args.StandardRestore(standing)
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    except ValueError as error:
      first_line = str(error).strip().splitlines()[0]
      raise UsageError(
        f'checkpoint {step} in {self.folder} does not fit this config, whose gen, disc, train.b1 or data.num_classes '
        f'must differ from the one it was trained with: {first_line}'
      ) from error
    nets = {
      name: type(net)(**value) if isinstance(value := restored['state'][name], dict) else value
      for name, net in (('gen', state.gen), ('disc', state.disc))
    }
    return type(state)(**(restored['state'] | nets)), restored.get('standing')

  def wait(self) -> None:
    """Until the save under way is on disk; its errors surface here."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and closes."""
    self.wait()
    self._manager.close()
