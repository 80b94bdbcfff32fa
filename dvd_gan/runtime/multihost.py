"""The processes of a run, one on each host: starting together, agreeing, taking turns, leaving."""

import itertools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np

from dvd_gan import sharding
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import RunError, UsageError

PATIENCE = 7 * 24 * 3600  # seconds
_CALLS = itertools.count()


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
    RunError: if JAX_PLATFORMS names a TPU, as launch/tpu_worker.sh sets it, and there is none, or the other hosts cannot
      be found: alone on a CPU the run would be of no use.
  """
  # JAX's own service would swallow SIGTERM until something polls it; StopSignal is ours.
  jax.config.update('jax_enable_preemption_service', False)
  if not coordinator:
    if processes or process:
      raise UsageError('--processes and --process need --coordinator=HOST:PORT')
    if os.environ.get('SLURM_NTASKS') == '1':  # JAX would leave one of this machine's GPUs to it
      return
    on_tpu = 'tpu' in (jax.config.jax_platforms or '')
    try:
      jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
    except Exception as error:
      if on_tpu and 'TPU_SKIP_MDS_QUERY' not in os.environ:  # the metadata server names the hosts; it may answer 503
        message = 'this TPU VM cannot find the hosts of its slice (--coordinator names them)'
        raise RunError(f'{message}: {files.first_line(error)}') from None
      if not isinstance(error, ValueError):
        raise
      if 'coordinator_address' not in str(error):  # there is a cluster around, but it cannot be made out
        raise UsageError(f'cannot find the other hosts: {error}; name them with --coordinator') from None
    if on_tpu:
      try:
        jax.devices()
      except RuntimeError as error:
        raise RunError(f'no TPU: {str(error).splitlines()[0]}') from None
    return
  if not 0 <= process < processes:
    raise UsageError(f'--process={process} is not within 0 and --processes - 1 = {processes - 1}')
  if not coordinator.rpartition(':')[2].isdigit():
    raise UsageError(f'--coordinator={coordinator} is not HOST:PORT')
  try:
    jax.distributed.initialize(
      coordinator,
      processes,
      process,
      cluster_detection_method='deactivate',
      heartbeat_timeout_seconds=heartbeat_seconds,
    )
  except RuntimeError as error:
    raise UsageError(f'cannot reach the other processes at {coordinator}: {str(error).splitlines()[0]}') from None


def several() -> bool:
  """Whether the run has more than one process."""
  return jax.process_count() > 1


def gather(value: str = '-') -> list[str]:
  """What every process says, by its number; each must make the same calls in the same order. Waits for all.

  By JAX's coordination service, not by a device program as in `multihost_utils`: a host may be hours late (it prepares
  data) or have gone another way (its read failed), and devices in the middle of a program would not forgive that. A
  process that is dead ends this one by its missing heartbeat.
  """
  if not several():
    return [value]
  from jax._src import distributed  # orbax has no other way either

  client, prefix = distributed.global_state.client, f'dvd_gan/{next(_CALLS)}'
  client.key_value_set(f'{prefix}/{jax.process_index()}', value)
  return [client.blocking_key_value_get(f'{prefix}/{i}', PATIENCE * 1000) for i in range(jax.process_count())]


def in_turn(fn: Callable[[], Any]) -> Any:
  """The result of `fn` on every process, called by the first before the others.

  For what the first leaves behind for all: a data set that it prepares where they share a disk.
  """
  first = jax.process_index() == 0
  try:
    if first:
      return fn()
  finally:
    gather()
  return fn()


def check_shared(folder: Any) -> None:
  """Raises UsageError where `folder` is not the same one for all processes."""
  if not several():
    return
  probe = folder / f'.shared-{gather(os.urandom(8).hex())[0]}'
  if jax.process_index() == 0:
    probe.write_text('')
  gather()
  seen = all_agree(probe.exists())
  if jax.process_index() == 0:
    probe.unlink()
  if not seen:
    raise UsageError(f'{folder} is not one folder for all hosts: take a gs:// path or a shared disk')


def all_agree(flag: bool) -> bool:
  """Whether `flag` is true on every process; waits for them."""
  return all(said == 'True' for said in gather(str(bool(flag))))


class Largest:
  """The largest number that any process gives, known to all at the same step, without waiting for the devices.

  Each call sends this process's number along and returns the largest of those sent in the call before: every process
  makes the same calls, so all learn of it in the same one.
  """

  def __init__(self, mesh: jax.sharding.Mesh):
    self._sharding = sharding.batch(mesh)
    self._largest = jax.jit(lambda numbers: numbers.max(), out_shardings=sharding.replicated(mesh))
    self._sent: jax.Array | None = None

  def __call__(self, number: int) -> int:
    if not several():
      return number
    count = jax.device_count()
    numbers = jax.make_array_from_callback((count,), self._sharding, lambda at: np.full(count, number, np.int32)[at])
    before, self._sent = self._sent, self._largest(numbers)
    return 0 if before is None else int(before)


def leave(code: int, error: BaseException | None = None) -> NoReturn:
  """Ends the process at once.

  Ending as Python does would wait minutes for processes that are gone or stuck, and for ever for a read that hangs.
  """
  try:
    if error is not None:
      traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
  finally:
    os._exit(code)
