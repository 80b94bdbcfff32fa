"""Coordinates the processes of a run, one per host: start, agreement, taking turns, exit."""

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

PATIENCE = 7 * 24 * 3600  # seconds to wait for other processes
_CALLS = itertools.count()


def start(coordinator: str, processes: int, process: int, heartbeat_seconds: int) -> None:
  """Connects to the run's other processes. Must be called before JAX initialises a device.

  On Cloud TPU VMs and under Slurm or Open MPI, JAX finds the processes automatically; elsewhere the flags name them.

  Args:
    coordinator: HOST:PORT of process 0. If empty, JAX detects the cluster; the run has one process if there is none.
    processes: number of processes.
    process: index of this process, from 0.
    heartbeat_seconds: time without a heartbeat after which a process counts as dead and the other processes exit.

  Raises:
    UsageError: if the flags contradict each other, or the other processes cannot be reached.
    RunError: if JAX_PLATFORMS names a TPU, as launch/tpu_worker.sh sets it, and there is no TPU or the other hosts
      cannot be found; such a run must not continue on one CPU.
  """
  # JAX's preemption service would catch SIGTERM and only report it when polled; StopSignal handles it instead.
  jax.config.update('jax_enable_preemption_service', False)
  if not coordinator:
    if processes or process:
      raise UsageError('--processes and --process need --coordinator=HOST:PORT')
    if os.environ.get('SLURM_NTASKS') == '1':  # JAX would use only one of this machine's GPUs
      return
    on_tpu = 'tpu' in (jax.config.jax_platforms or '')
    try:
      jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
    except Exception as error:
      if on_tpu and 'TPU_SKIP_MDS_QUERY' not in os.environ:  # the metadata server names the hosts; it may answer 503
        message = 'this VM cannot find the other hosts of its TPU slice; a restart may help, otherwise'
        raise RunError(f'{message} delete the slice and create it again: {files.first_line(error)}') from None
      if not isinstance(error, ValueError):
        raise
      if 'coordinator_address' not in str(error):  # a cluster was detected, but not its hosts
        message = 'cannot find the other processes; set --coordinator=HOST:PORT, --processes and --process'
        raise UsageError(f'{message}: {files.first_line(error)}') from None
    if on_tpu:
      try:
        jax.devices()
      except RuntimeError as error:
        message = 'this VM cannot use its TPU; a restart may help, otherwise delete the slice and create it again'
        raise RunError(f'{message}: {files.first_line(error)}') from None
    return
  if not 0 <= process < processes:
    raise UsageError(f'--process={process} must be at least 0 and less than --processes={processes}')
  if not coordinator.rpartition(':')[2].isdigit():
    raise UsageError(f'--coordinator={coordinator} is not HOST:PORT, the address of process 0')
  try:
    jax.distributed.initialize(
      coordinator,
      processes,
      process,
      cluster_detection_method='deactivate',
      heartbeat_timeout_seconds=heartbeat_seconds,
    )
  except RuntimeError as error:
    message = f'cannot connect {processes} processes at --coordinator={coordinator}; check the address, and that all of'
    raise UsageError(f'{message} them have started: {files.first_line(error)}') from None


def several() -> bool:
  """Whether the run has more than one process."""
  return jax.process_count() > 1


def gather(value: str = '-') -> list[str]:
  """Gathers one string from every process, in process order. Waits for all; all must make the same calls in order.

  Uses JAX's coordination service, not a device collective as `multihost_utils` does. A host may be hours late (it
  prepares data) or on another code path (its read failed), which a device collective does not tolerate. If a process
  dies, its missing heartbeat ends this one.
  """
  if not several():
    return [value]
  from jax._src import distributed  # there is no public API; orbax uses it, too

  client, prefix = distributed.global_state.client, f'dvd_gan/{next(_CALLS)}'
  client.key_value_set(f'{prefix}/{jax.process_index()}', value)
  return [client.blocking_key_value_get(f'{prefix}/{i}', PATIENCE * 1000) for i in range(jax.process_count())]


def in_turn(fn: Callable[[], Any]) -> Any:
  """Calls `fn` on process 0, then on all other processes, and returns its result on each.

  This lets process 0 create something for all processes, such as a data set on a shared disk.
  """
  first = jax.process_index() == 0
  try:
    if first:
      return fn()
  finally:
    gather()
  return fn()


def check_shared(folder: Any) -> None:
  """Raises UsageError if the processes do not share `folder`."""
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
    raise UsageError(f'the hosts do not share {folder}: set --workdir to a gs:// path or to a folder on a shared disk')


def all_agree(flag: bool) -> bool:
  """Whether `flag` is true on every process; waits for all of them."""
  return all(said == 'True' for said in gather(str(bool(flag))))


class Largest:
  """The maximum of a number over all processes, one call late so that no call waits for its own all-reduce.

  Each call starts an all-reduce of this process's number and returns the previous call's maximum, at first 0. All
  processes make the same calls, so each value reaches all of them in the same call. A single process gets its number
  at once.
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
  """Exits immediately.

  Python's normal exit would wait minutes for lost or stuck processes, and forever for a read that hangs.
  """
  try:
    if error is not None:
      traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
  finally:
    os._exit(code)
