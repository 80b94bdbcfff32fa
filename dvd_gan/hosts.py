"""The processes of a run, one on each host: starting together, agreeing, taking turns, leaving."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from dvd_gan import sharding
from dvd_gan.errors import UsageError


def start(coordinator: str, processes: int, process: int, heartbeat_seconds: int) -> None:
  """Joins the run's other processes, before anything touches a device.

  On Cloud TPU VMs, and under Slurm or Open MPI, JAX finds them by itself; elsewhere the flags name them.

  Args:
    coordinator: HOST:PORT of process 0; empty to let JAX look, and to be alone where it finds nothing.
    processes: how many there are.
    process: the number of this one, from 0.
    heartbeat_seconds: silence after which a process counts as dead, and the others end.

  Raises:
    UsageError: if the flags do not make sense together, or the others do not come.
  """
  # JAX's own service would swallow SIGTERM until something polls it; StopSignal is ours.
  jax.config.update('jax_enable_preemption_service', False)
  if not coordinator:
    if processes or process:
      raise UsageError('--processes and --process need --coordinator=HOST:PORT')
    try:
      jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
    except ValueError:  # no cluster around
      return
    return
  if not 0 <= process < processes:
    raise UsageError(f'--process={process} is not within 0 and --processes - 1 = {processes - 1}')
  if not coordinator.rpartition(':')[2].isdigit():
    raise UsageError(f'--coordinator={coordinator} is not HOST:PORT')
  try:
    jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=heartbeat_seconds)
  except RuntimeError as error:
    raise UsageError(f'cannot reach the other processes at {coordinator}: {str(error).splitlines()[0]}') from None


def several() -> bool:
  """Whether the run has more than one process."""
  return jax.process_count() > 1


def in_turn(fn: Callable[[], Any]) -> Any:
  """The result of `fn` on every process, called by the first before the others.

  For what the first leaves behind for all: a data set that it prepares where they share a disk.
  """
  if not several():
    return fn()
  try:
    if jax.process_index() == 0:
      return fn()
  finally:
    multihost_utils.sync_global_devices('first')
  return fn()


def check_shared(folder: Any) -> None:
  """Raises UsageError where `folder` is not the same one for all processes."""
  if not several():
    return
  token = int(multihost_utils.broadcast_one_to_all(np.array(int.from_bytes(os.urandom(3), 'big'))))
  probe = folder / f'.shared-{token}'
  if jax.process_index() == 0:
    probe.write_text('')
  multihost_utils.sync_global_devices('written')
  seen = probe.exists()
  seen_by_all = bool(np.all(multihost_utils.process_allgather(np.array(seen))))
  if jax.process_index() == 0:
    probe.unlink()
  if not seen_by_all:
    raise UsageError(f'{folder} is not one folder for all hosts: take a gs:// path or a shared disk')


def all_agree(flag: bool) -> bool:
  """Whether `flag` is true on every process; waits for them."""
  return bool(np.all(multihost_utils.process_allgather(np.array(flag)))) if several() else flag


class AnyOf:
  """Whether a flag is raised on any process, known to all at the same step, without waiting for the devices.

  Each call sends this process's flag along and tells what all had sent in the call before: every process makes the
  same calls, so all learn of it in the same one.
  """

  def __init__(self, mesh: jax.sharding.Mesh):
    self._sharding = sharding.batch(mesh)
    self._largest = jax.jit(lambda flags: flags.max(), out_shardings=sharding.replicated(mesh))
    self._sent: jax.Array | None = None

  def __call__(self, flag: bool) -> bool:
    if not several():
      return flag
    count = jax.device_count()
    flags = jax.make_array_from_callback((count,), self._sharding, lambda index: np.full(count, flag, np.int32)[index])
    before, self._sent = self._sent, self._largest(flags)
    return before is not None and bool(before)


def leave(code: int, error: BaseException | None = None) -> NoReturn:
  """Ends the process at once. Ending as Python does would wait minutes for processes that are gone or stuck."""
  if error is not None:
    traceback.print_exception(error)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
