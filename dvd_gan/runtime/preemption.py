"""Stopping on SIGTERM or Ctrl-C, so that training can save first."""

import math
import os
import signal
import socket
import threading
import time
from typing import Any

from dvd_gan.runtime.errors import PREEMPTED


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
