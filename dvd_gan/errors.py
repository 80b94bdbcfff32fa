"""Errors that reach the user as one line."""


class UsageError(Exception):
  """A mistake in the config, the command or the data: main prints its message alone and exits with 2."""
