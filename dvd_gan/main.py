"""`python -m dvd_gan.main --mode=MODE --config=configs/FILE.py --workdir=DIR [--config.field=value ...]`."""

import os
import sys

import jax
from absl import flags
from etils import epath

from dvd_gan.configs import fields
from dvd_gan.runtime import app, config_file, files, multihost, validation
from dvd_gan.runtime.errors import UsageError

flags.adopt_module_key_flags(app)  # --help lists --config too
MODES = {
  'train': 'trains; resumes from the newest checkpoint in the workdir',
  'sample': 'writes videos of chosen classes, or continues clips',
  'evaluate': 'FVD, FID, IS by a named protocol, with a report',
  'export': 'writes weights, classes and a card to a folder for others',
  'prepare': 'builds the data set of a config',
  'dry_run': 'compiles the train step for a TPU slice, on a CPU',
}
_MODE = flags.DEFINE_enum('mode', 'train', list(MODES), 'What to do.')
_WORKDIR = flags.DEFINE_string('workdir', '', 'The folder of the run, local or gs://.')
_COORDINATOR = flags.DEFINE_string('coordinator', '', 'HOST:PORT of process 0, if JAX does not find the processes.')
_PROCESSES = flags.DEFINE_integer('processes', 0, 'With --coordinator: the number of processes.')
_PROCESS = flags.DEFINE_integer('process', 0, 'With --coordinator: the number of this process, from 0.')
_HEARTBEAT = flags.DEFINE_integer('heartbeat_seconds', 100, 'Time without a heartbeat after which a process is dead.')


def main(argv: list[str]) -> int:
  if len(argv) > 1:
    raise UsageError(f'unexpected argument {argv[1]}: write every option as --name=value')
  mode, config, workdir = _MODE.value, app.CONFIG.value, _workdir()
  validation.validate(config)
  for field in ('source', 'dir', 'cache', 'stage'):
    if config.data[field]:
      config.data[field] = _absolute(config.data[field])  # so that a resume from another folder finds it
  if mode == 'prepare':
    from dvd_gan.datasets import sources

    print(sources.open_source(config, build=True).describe())
    return 0
  if mode == 'dry_run':
    from dvd_gan.dry_run import command

    command.dry_run(config, app.config_name(), workdir)
    return 0
  if workdir is None:
    raise UsageError(f'--mode={mode} needs --workdir=DIR')
  multihost.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _HEARTBEAT.value)
  if mode == 'sample':
    from dvd_gan import prediction, sample

    (prediction.predict if config.data.context else sample.sample)(config, workdir)
    return 0
  if mode == 'evaluate':
    from dvd_gan import evaluate

    evaluate.evaluate(config, workdir)
    return 0
  if mode == 'export':
    from dvd_gan import export

    export.export(config, workdir)
    return 0
  from dvd_gan import train

  validation.validate_batch(config, jax.device_count())
  return train.train(config, workdir)


def _workdir() -> epath.Path | None:
  path = _WORKDIR.value
  if not path:
    return None
  if fault := fields.PATH.fault(path):
    raise UsageError(f'--workdir={path} {fault}')
  files.check_remote(path)
  return epath.Path(_absolute(path))


def _absolute(path: str) -> str:
  return path if '://' in path else os.path.abspath(os.path.expanduser(path))


def run() -> None:
  """Entry point of the program `dvd-gan`."""
  if {'--help', '-h', '-help', '--helpshort', '--helpfull'} & set(sys.argv[1:]):
    print(config_file.help_text(MODES))
    sys.exit(0)
  app.run(main, config_file.with_config)


if __name__ == '__main__':
  run()
