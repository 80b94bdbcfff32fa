"""SIGTERM, Ctrl-C and the notices of Google's metadata server, so that training can save in time."""

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

LOOK_EVERY = 2.0  # seconds; a preempted VM has 30 left
QUIET = {'preempted': 'FALSE', 'maintenance-event': 'NONE'}  # what the metadata server says when nothing is coming


class StopSignal:
  """True once SIGTERM or Ctrl-C has come; a second one, a second or more later, ends the process unsaved, with 1.

  Attributes:
    nothing_to_save: while it is set, a signal ends the process at once with 42: Python's own handlers
      would wait until a compilation is through, minutes that a preempted machine does not have.
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
    """Handles each signal as it comes, even while the main thread is in a library; ends when `restore` closes the socket."""
    first = math.inf
    while number := self._woken.recv(1):
      if number[0] not in self._before:
        continue
      if self.nothing_to_save:
        try:
          print(f'stopped by {signal.Signals(number[0]).name} before the first step: nothing to save', flush=True)
        finally:  # also where stdout is closed, or its disk full
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


class Notices:
  """What Google's metadata server announces of this TPU VM: that it is preempted, or stopped for maintenance.

  It is asked in a thread of its own, on TPU VMs, and where GCE_METADATA_HOST names the server. Source: Compute Engine's
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
        except (OSError, ValueError, http.client.HTTPException):  # it may answer at the next look
          continue
        if said not in (known[name], QUIET[name]):
          self._new = True
        known[name] = said

  def take(self) -> bool:
    """Whether a notice has come since the last call."""
    new, self._new = self._new, False
    return new

  def close(self) -> None:
    """Ends the thread."""
    self._closed.set()
