"""`python -m dvd_gan.main --mode=MODE --config=configs/FILE.py --workdir=DIR [--config.field=value ...]`."""

import functools
import os
import sys
from collections.abc import Callable

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from dvd_gan import files, hosts, validation
from dvd_gan.errors import PREEMPTED, RunError, UsageError

MODES = ('prepare', 'train', 'sample', 'evaluate', 'dry_run')
_MODE = flags.DEFINE_enum('mode', 'train', MODES, 'What to do.')
_CONFIG = config_flags.DEFINE_config_file('config', 'configs/default.py', 'The config, a file with get_config().')
_COORDINATOR = flags.DEFINE_string(
  'coordinator', '', 'Many hosts, where JAX does not find them: HOST:PORT of the first.'
)
_PROCESSES = flags.DEFINE_integer('processes', 0, 'With --coordinator: how many processes there are.')
_PROCESS = flags.DEFINE_integer('process', 0, 'With --coordinator: the number of this one, from 0.')
_HEARTBEAT = flags.DEFINE_integer('heartbeat_seconds', 100, 'Silence after which a process counts as dead.')
_WORKDIR = flags.DEFINE_string('workdir', '', 'Where the run leaves everything; local or gs://.')


def main(argv: list[str]) -> int:
  if len(argv) > 1:
    raise UsageError(f'unexpected argument: {argv[1]}')
  config = _CONFIG.value
  mode = _MODE.value
  validation.validate(config)
  if mode == 'prepare':
    from dvd_gan.datasets import sources

    print(sources.open_source(config, build=True).describe())
    return 0
  if mode == 'dry_run':
    from dvd_gan import dry_run

    jax.config.update('jax_enable_compilation_cache', False)  # a program for another machine cannot be loaded from it
    name = os.path.splitext(os.path.basename(config_flags.get_config_filename(flags.FLAGS['config'])))[0]
    dry_run.dry_run(config, name, _workdir() if _WORKDIR.value else None)
    return 0
  if not _WORKDIR.value:
    raise UsageError(f'--mode={mode} needs --workdir=DIR')
  hosts.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _HEARTBEAT.value)
  workdir = _workdir()
  if mode == 'sample':
    from dvd_gan import prediction, sample

    (prediction.predict if config.data.given else sample.sample)(config, workdir)
    return 0
  if mode == 'evaluate':
    from dvd_gan import evaluate

    evaluate.evaluate(config, workdir)
    return 0
  from dvd_gan import train

  validation.validate_batch(config)
  return train.train(config, workdir)


def _workdir() -> epath.Path:
  workdir = _WORKDIR.value
  return epath.Path(workdir if '://' in workdir else os.path.abspath(os.path.expanduser(workdir)))


def run(program: Callable[[list[str]], int | None] = main) -> None:
  """Runs a program with the flag --config; a mistake of the user's is one line on stderr and exit code 2."""
  # TensorFlow reports its CPU kernels on stderr at every start; here it only reads data.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  # orbax tells every save in forty lines, TFDS its whole configuration as a warning.
  logging.set_verbosity(logging.ERROR)
  # The persistent compilation cache: the second start of a config compiles nothing. JAX_COMPILATION_CACHE_DIR wins.
  if not jax.config.jax_compilation_cache_dir:
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    jax.config.update('jax_compilation_cache_dir', os.path.join(home, 'dvd_gan', 'jax'))
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)  # programs of under a second are cached too
  try:
    app.run(functools.partial(_guarded, program), flags_parser=_parse_flags)
  except KeyboardInterrupt:  # outside the loop, where there is nothing to save
    hosts.leave(PREEMPTED)


def _guarded(program: Callable[[list[str]], int | None], argv: list[str]) -> None:
  try:
    code = program(argv)
  except UsageError as error:
    _fail(error)
  except (RunError, *files.errors()) as error:  # a disk that is full or gone
    _fail(error, code=1)
  except Exception as error:
    hosts.leave(1, error)
  if jax.distributed.is_initialized():
    hosts.gather()  # the first may still be writing, and JAX's own wait at the end is short
    jax.distributed.shutdown()  # the first must not leave before the others, which it serves
  hosts.leave(code or 0)


def _parse_flags(argv: list[str]) -> list[str]:
  """Flags as app.run parses them, with config mistakes in one line in place of ml_collections' traceback."""
  try:
    rest = flags.FLAGS(argv)
    _CONFIG.value.keys()  # the file is loaded when its value is first read
    return rest
  except (OSError, flags.Error, AttributeError, KeyError, TypeError, ValueError, SyntaxError, ImportError) as error:
    _fail(' '.join(str(error).split()) or type(error).__name__)


def _fail(message: object, code: int = 2) -> None:
  print(f'error: {message}', file=sys.stderr)
  hosts.leave(code)


if __name__ == '__main__':
  run()
