"""How the program ends: errors that reach the user as one line, and the exit code of a stop."""

PREEMPTED = 42  # exit code: stopped by a signal, with everything saved that there was to save


class UsageError(Exception):
  """A mistake in the config, the command or the data: main prints its message alone and exits with 2."""


class RunError(Exception):
  """A run that cannot go on though nothing was wrong with the command: main prints its message alone, exits with 1."""
