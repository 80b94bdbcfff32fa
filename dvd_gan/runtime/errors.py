"""Errors that are reported to the user as one line, and the exit code after a signal."""

PREEMPTED = 42  # exit code: stopped by a signal, with all progress saved


class UsageError(Exception):
  """An error in the config, the command or the data: only the message is printed; the exit code is 2."""


class RunError(Exception):
  """A run cannot continue although its command is correct: only the message is printed; the exit code is 1."""
