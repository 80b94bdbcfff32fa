"""Finds the config of a command (a Python file by path or name, or a run's config.json) and formats --help."""

import inspect
import os
import re
from typing import Any

from etils import epath

from dvd_gan.configs import default
from dvd_gan.runtime import files, run_config
from dvd_gan.runtime.errors import UsageError

FOLDER = os.path.dirname(default.__file__)
OF_RUNS = ('train', 'sample', 'evaluate', 'export')  # modes that default to the config of the run in --workdir


def with_config(argv: list[str]) -> list[str]:
  """Rewrites the arguments so that ml_collections can load their --config.

  A file is found by its path or, in `configs/`, by its name. The default is the config.json of the run in --workdir.

  Raises:
    UsageError: if the file does not exist, or if there is neither --config nor a run.
    RunError: if the workdir's bucket does not answer.
  """
  given, mode, workdir = (_value(argv, name) for name in ('config', 'mode', 'workdir'))
  rest = list(argv)
  if given is None:
    mode = mode or 'train'
    files.check_remote(workdir or '')
    saved = os.path.join(os.path.expanduser(workdir or ''), run_config.FILE)
    try:
      there = mode in OF_RUNS and workdir and epath.Path(saved).exists()
    except (KeyError, *files.errors()) as error:  # KeyError: a URL scheme unknown to epath
      raise files.failure(error, f'--workdir={workdir} cannot be read') from None
    if not there:
      run = f', or --workdir=DIR of a run ({saved} does not exist)' if workdir and mode in OF_RUNS else ''
      raise UsageError(f'--mode={mode} needs --config=configs/FILE.py{run}')
    given = saved
  else:
    while (at := _place(rest, 'config')) is not None:
      del rest[at : at + (1 if '=' in rest[at] else 2)]
  if given.endswith('.json'):
    get_config(given)
    return [rest[0], f'--config={__file__}:{given}', *rest[1:]]  # has to precede the flags of its fields
  path, colon, argument = given.partition(':')
  named = os.path.join(FOLDER, f'{path}.py')
  if not os.path.isfile(path) and os.path.isfile(named):
    path = named
  if not os.path.isfile(path):
    names = sorted(name.removesuffix('.py') for name in os.listdir(FOLDER) if name.endswith('.py'))
    there = ', '.join(name for name in names if name not in ('__init__', 'fields'))
    raise UsageError(f'--config={given}: there is no file {path}; give its path or one of the names {there}')
  if colon and re.search(r'def get_config\(\)', open(path).read()):
    raise UsageError(f'--config={given}: {path} takes no argument after a colon')
  return [rest[0], f'--config={path}{colon}{argument}', *rest[1:]]


def get_config(path: str) -> Any:
  """Reads a run's config.json. Missing fields get the current defaults; fields that no longer exist are ignored."""
  files.check_remote(path)
  file = epath.Path(path).expanduser()
  if not file.exists():
    raise UsageError(f'--config={path}: there is no such file')
  config = default.get_config()
  try:
    for name, value in run_config.read(file).items():
      group = value if isinstance(value, dict) else {'': value}
      for field, one in group.items():
        place, key = (config.get(name), field) if field else (config, name)
        if place is not None and key in place:
          place[key] = tuple(one) if isinstance(one, list) else one
  except (TypeError, AttributeError, ValueError) as error:
    raise UsageError(f'{path} does not fit the current config fields; correct it, or set --config: {error}') from None
  config.train.allow_config_change = False  # it applies to one start only
  return config


def help_text(modes: dict[str, str]) -> str:
  """The text of --help: the modes, and each field of default.py with its default and its comment."""
  lines = [
    'python -m dvd_gan.main --mode=MODE --config=configs/FILE.py --workdir=DIR [--config.FIELD=VALUE ...]', '',
    'Without --config: the config of the run in --workdir.', '', 'Modes:',
  ]  # fmt: skip
  lines += [f'  {mode:10} {what}' for mode, what in modes.items()]
  lines += ['', 'Fields, with their defaults:']
  for line in inspect.getsource(default.get_config).splitlines():
    if field := re.fullmatch(r'  ([a-z_]+)\.([a-z_0-9]+) = (.+?)(?:  # (.*))?', line):
      group, name, value, comment = field.groups()
      if 'ConfigDict' in value:
        continue
      group = {'evaluation': 'eval.', 'config': ''}.get(group, f'{group}.')
      lines.append(f'  --config.{group}{name}={value}' + (f'\n      {comment}' if comment else ''))
  return '\n'.join(lines)


def _value(argv: list[str], name: str) -> str | None:
  """The value of a flag: --name=value, -name=value or --name value; None if absent."""
  if (at := _place(argv, name)) is None:
    return None
  _, equals, value = argv[at].partition('=')
  return value if equals else argv[at + 1] if at + 1 < len(argv) else ''


def _place(argv: list[str], name: str) -> int | None:
  """Index of the last occurrence of a flag; None if absent."""
  places = [i for i, argument in enumerate(argv) if re.match(f'--?{name}(=|$)', argument)]
  return places[-1] if places else None
