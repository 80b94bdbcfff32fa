"""Runs a program with the flag --config: flags, environment, exit code."""

import difflib
import faulthandler
import functools
import logging as std_logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from dvd_gan.configs import fields
from dvd_gan.runtime import files, multihost, run_config
from dvd_gan.runtime.errors import PREEMPTED, RunError, UsageError

CONFIG = config_flags.DEFINE_config_file('config', None, 'The config, a file with get_config().')


def run(
  program: Callable[[list[str]], int | None], with_config: Callable[[list[str]], list[str]] = lambda argv: argv
) -> None:
  """Runs a program with the flag --config. A user error is reported as one line on stderr, with exit code 2.

  Args:
    program: called with the non-flag arguments; returns the exit code, None for 0.
    with_config: rewrites the arguments so that their --config can be loaded.
  """
  faulthandler.register(signal.SIGUSR1, sys.__stderr__)  # prints each thread's stack, to debug a hang
  sys.unraisablehook = _unraisable
  # TensorFlow prints a notice about its CPU kernels at every start. It only reads data here.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  # Orbax logs forty lines per save, and TFDS logs its configuration as a warning.
  logging.set_verbosity(logging.ERROR)
  std_logging.getLogger('asyncio').setLevel(std_logging.CRITICAL)  # as for `_unraisable`
  # Persistent compilation cache: a second start of a config compiles nothing. JAX_COMPILATION_CACHE_DIR has priority.
  if not jax.config.jax_compilation_cache_dir:
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    jax.config.update('jax_compilation_cache_dir', os.path.join(home, 'dvd_gan', 'jax'))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)  # also cache programs that compile quickly
  try:
    app.run(functools.partial(_guarded, program), flags_parser=functools.partial(_parse_flags, with_config))
  except KeyboardInterrupt:  # outside the training loop there is nothing to save
    multihost.leave(PREEMPTED)


def config_name() -> str:
  """The name of the --config file, without its suffix."""
  return os.path.splitext(os.path.basename(config_flags.get_config_filename(flags.FLAGS['config'])))[0]


def _guarded(program: Callable[[list[str]], int | None], argv: list[str]) -> None:
  try:
    code = program(argv)
  except (UsageError, RunError, *files.errors()) as error:  # files.errors(): a full or missing disk, a bucket
    _fail(error, _code(error))
  except Exception as error:
    multihost.leave(1, error)
  if jax.distributed.is_initialized():
    multihost.gather()  # process 0 may still be writing, and JAX's own wait at exit is short
    jax.distributed.shutdown()  # waits for all: process 0 hosts the coordination service
  multihost.leave(code or 0)


def _unraisable(fault: Any) -> None:
  """Omits errors of orbax's remaining reads after one of a checkpoint's arrays could not be read: nothing awaits them."""
  if str(fault.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(fault)


def _parse_flags(with_config: Callable[[list[str]], list[str]], argv: list[str]) -> list[str]:
  """Parses flags as app.run does, but reports config errors in one line instead of ml_collections' traceback."""
  given = [argument.lstrip('-').partition('=')[0] for argument in argv if argument.startswith('-')]
  for name in [flag.removeprefix('config.') for flag in given if flag.startswith('config.')]:
    if name in run_config.RENAMED:
      _fail(f'--config.{name} is now --config.{run_config.RENAMED[name]}')
    if name not in fields.RULES:
      last = name.rpartition('.')[2]
      near = [field for field in fields.RULES if field.rpartition('.')[2] == last]
      near = near or difflib.get_close_matches(name, fields.RULES)
      _fail(f'the config has no field {name}' + (f'; did you mean {" or ".join(near)}?' if near else ''))
  try:
    sys.argv = argv = with_config(argv)  # ml_collections reads field overrides from sys.argv
  except (UsageError, RunError, *files.errors()) as error:
    _fail(error, _code(error))
  try:
    rest = flags.FLAGS(argv)
    if CONFIG.value is None:
      _fail('--config=configs/FILE.py is missing')
    CONFIG.value.keys()  # the config file is loaded on first access
    return rest
  except Exception as error:  # a config file may raise anything
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if not isinstance(error, (OSError, flags.Error, TypeError, ValueError)):
      file = next((argument for argument in argv if argument.startswith('--config=')), 'the config')
      lines.insert(0, f'{type(error).__name__} in {file}:')
    message = f'--config: {lines[-1]}' if 'Traceback' in lines[0] else ' '.join(' '.join(lines).split())
    _fail(message, code=1 if files.passing(error) else 2)


def _code(error: Exception) -> int:
  """The exit code; a launcher may retry on 1."""
  return 2 if isinstance(error, UsageError) or files.refused(error) else 1


def _fail(message: object, code: int = 2) -> None:
  if isinstance(message, Exception) and not isinstance(message, (UsageError, RunError)):
    message = files.first_line(message)[:300]  # TensorFlow appends the server's response
  print(f'error: {message}', file=sys.stderr)
  multihost.leave(code)
