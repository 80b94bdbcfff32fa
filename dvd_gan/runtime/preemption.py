"""Handles SIGTERM, Ctrl-C and notices of Google's metadata server, so that training can save in time."""

import http.client
import math
import os
import signal
import socket
import threading
import time
import urllib.request
from typing import Any

import jax

from dvd_gan.runtime.errors import PREEMPTED

LOOK_EVERY = 2.0  # seconds between requests; a preempted VM stops after 30
QUIET = {'preempted': 'FALSE', 'maintenance-event': 'NONE'}  # values without a pending event


class StopSignal:
  """True after SIGTERM or Ctrl-C. A second signal, at least a second later, exits with 1 without saving.

  Attributes:
    nothing_to_save: while True, a signal exits immediately with 42. Python's own handlers would run only after a
      compilation, which can take minutes, more than a preempted machine has.
  """

  def __init__(self):
    self.name = ''
    self.nothing_to_save = True
    self._woken, self._wake = socket.socketpair()
    self._wake.setblocking(False)
    self._wake_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
    self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
    threading.Thread(target=self._watch, daemon=True, name='signals').start()

  def _handle(self, number: int, _: Any) -> None:
    self.name = self.name or signal.Signals(number).name

  def _watch(self) -> None:
    """Handles signals at once, even while the main thread runs native code; ends when `restore` closes the socket."""
    first = math.inf
    while number := self._woken.recv(1):
      if number[0] not in self._before:
        continue
      if self.nothing_to_save:
        try:
          print(f'stopped by {signal.Signals(number[0]).name} before the first step: nothing to save', flush=True)
        finally:  # also if stdout is closed or its disk is full
          os._exit(PREEMPTED)
      # A terminal and a supervisor may both forward the same signal.
      if time.monotonic() - first > 1:
        os._exit(1)
      first = min(first, time.monotonic())
    self._woken.close()

  def __bool__(self) -> bool:
    return bool(self.name)

  def restore(self) -> None:
    """Restores the earlier handlers."""
    signal.set_wakeup_fd(self._wake_before)
    self._wake.close()
    for number, handler in self._before.items():
      signal.signal(number, handler)


class Notices:
  """Notices of preemption or maintenance of this TPU VM, from Google's metadata server.

  A thread polls the server on TPU VMs and wherever GCE_METADATA_HOST names the server. Source: Compute Engine's
  documentation of `instance/preempted` and `instance/maintenance-event`.
  """

  def __init__(self):
    self._new = False
    self._closed = threading.Event()
    if jax.default_backend() == 'tpu' or 'GCE_METADATA_HOST' in os.environ:
      threading.Thread(target=self._watch, daemon=True, name='notices').start()

  def _watch(self) -> None:
    host, known = os.environ.get('GCE_METADATA_HOST', 'metadata.google.internal'), dict(QUIET)
    while not self._closed.wait(LOOK_EVERY):
      for name in QUIET:
        url = f'http://{host}/computeMetadata/v1/instance/{name}'
        request = urllib.request.Request(url, headers={'Metadata-Flavor': 'Google'})
        try:
          with urllib.request.urlopen(request, timeout=LOOK_EVERY) as answer:
            said = answer.read().decode().strip()
        except (OSError, ValueError, http.client.HTTPException):  # retry at the next poll
          continue
        if said not in (known[name], QUIET[name]):
          self._new = True
        known[name] = said

  def take(self) -> bool:
    """Whether a notice has come since the last call."""
    new, self._new = self._new, False
    return new

  def close(self) -> None:
    """Stops the thread."""
    self._closed.set()
