import ast
import json

import pytest
from etils import epath

from dvd_gan import main
from dvd_gan.configs import default, smoke
from dvd_gan.runtime import config_file, run_config
from dvd_gan.runtime.errors import UsageError
from tests.conftest import tiny_config


@pytest.fixture
def run(tmp_path):
  """The workdir of a run of the tiny config with class names."""
  config = tiny_config()
  config.data.num_classes, config.gen.multipliers = 3, (4, 2, 2)
  run_config.write(config, epath.Path(tmp_path), ('bikes', 'bunny', 'carphone'))
  (tmp_path / 'checkpoints').mkdir()
  return tmp_path


def test_a_malformed_config_json_is_a_usage_error(run):
  for content in ('[]', '{"config": []}', '{"config": {"data": {"frames": 12.5}}}', 'no json'):
    (run / 'config.json').write_text(content)
    with pytest.raises(UsageError, match='config.json'):
      config_file.with_config(['x', '--mode=sample', f'--workdir={run}'])


def test_without_a_config_flag_the_config_of_the_workdir_is_used(run):
  for mode in ('train', 'sample', 'evaluate'):
    found = config_file.with_config(['x', f'--mode={mode}', f'--workdir={run}', '--config.seed=3'])
    assert found[1] == f'--config={config_file.__file__}:{run}/config.json' and found[-1] == '--config.seed=3'
  assert config_file.with_config(['x', f'--config={run}/config.json', '--mode=sample'])[1] == found[1]
  config, saved = config_file.get_config(f'{run}/config.json'), json.loads((run / 'config.json').read_text())['config']
  assert json.loads(config.to_json_best_effort()) == saved
  assert config.gen.multipliers == (4, 2, 2) and isinstance(config.gen.multipliers, tuple)


def test_a_config_json_of_an_older_version_gets_defaults_and_renamed_fields(run):
  content = json.loads((run / 'config.json').read_text())
  del content['config']['data']['crop'], content['classes']
  content['config']['data'] |= {'given': content['config']['data'].pop('context'), 'no_longer': 1}
  (run / 'config.json').write_text(json.dumps(content))
  config = config_file.get_config(f'{run}/config.json')
  assert config.data.crop == 'random' and config.data.context == 0 and 'no_longer' not in config.data
  config.data.name = 'array_file'
  assert run_config.class_names(config, epath.Path(run)) == ('0', '1', '2')
  config.data.name, config.data.num_classes = 'moving_shapes', 30
  assert run_config.class_names(config, epath.Path(run))[1] == 'circle left-right'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      ['--workdir=nowhere'],
      '--mode=train needs --config=configs/FILE.py, or --workdir=DIR of a run (nowhere/config.json does not exist)',
    ),
    (['--mode=sample', '--workdir=nowhere'], '--mode=sample needs --config'),
    (['--mode=prepare'], '--mode=prepare needs --config=configs/FILE.py'),
    (['--config=nothing'], 'there is no file nothing; give its path or one of the names bair_fp_64x16'),
    (['--config', 'configs/nothing.py'], 'there is no file configs/nothing.py'),
    (['--config=smoke:large'], 'smoke.py takes no argument after a colon'),
    (['--config=nowhere/config.json'], '--config=nowhere/config.json: there is no such file'),
  ],
)
def test_a_missing_config_is_a_one_line_usage_error(arguments, message):
  with pytest.raises(UsageError) as error:
    config_file.with_config(['x', *arguments])
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_config_is_found_by_path_or_by_name():
  assert config_file.with_config(['x', '--workdir', 'config', '--config=nothing', '--config', 'smoke']) == [
    'x', f'--config={smoke.__file__}', '--workdir', 'config'
  ]  # fmt: skip
  for given in (['--config=smoke'], ['--config', 'smoke'], [f'--config={smoke.__file__}']):
    assert config_file.with_config(['x', '--mode=train', *given, '--config.seed=1']) == [
      'x', f'--config={smoke.__file__}', '--mode=train', '--config.seed=1'
    ]  # fmt: skip


def test_help_lists_every_mode_and_every_config_field_with_its_comment():
  text = config_file.help_text(main.MODES)
  for mode in main.MODES:
    assert f'\n  {mode}' in text
  names = [name for group, value in default.get_config().to_dict().items() for name in (
    [f'{group}.{field}' for field in value] if isinstance(value, dict) else [group]
  )]  # fmt: skip
  assert [name for name in names if f'\n  --config.{name}=' not in text] == []
  values = [line.partition('=')[2] for line in text.splitlines() if line.startswith('  --config.')]
  assert len([ast.literal_eval(value) for value in values]) == len(names)
  assert text.count('\n      ') == len(names)  # a comment for each
  assert '--config.seed=0\n      of the parameters, the noise and the order of the data\n' in text


def test_sample_classes_can_be_given_by_name_or_by_number(run):
  config, workdir = tiny_config(), epath.Path(run)
  config.data.num_classes = 0
  for wanted, found in ((('carphone', 0), (2, 0)), (('bikes,bunny',), (0, 1)), (('1', 'bikes'), (1, 0)), ((), ())):
    config.sample.classes = wanted
    run_config.settle(config, workdir)
    for _ in range(2):  # a second time changes nothing
      run_config.number_classes(config, run_config.class_names(config, workdir))
    assert config.sample.classes == found and config.data.num_classes == 3  # the run's
  for wanted, message in (
    ('bike', 'there is no class bike; the 3 classes include bikes$'),
    ('7', 'there is no class 7; the 3 classes include bikes, bunny, carphone$'),
  ):
    config.sample.classes = (wanted,)
    with pytest.raises(UsageError, match=message):
      run_config.number_classes(config, run_config.class_names(config, workdir))
  names = ('1', '10', 'a, b')
  for wanted, found in (('10', (1,)), (1, (1,)), ('a, b', (2,)), ('1,2', (0, 2))):
    config.sample.classes = (wanted,)
    run_config.number_classes(config, names)
    run_config.number_classes(config, names)
    assert config.sample.classes == found
