"""The real step compiled for TPU slices, by libtpu, at a narrow width."""

import json
import subprocess
import sys

import pytest

from dvd_gan import dry_run
from dvd_gan.errors import UsageError
from tests.conftest import ROOT, tiny_config


def narrow(topology, *, each, **fields):
  config = tiny_config()
  config.dtype = 'bfloat16'
  config.data.resolution, config.data.frames = 8, 4
  config.gen.multipliers = config.disc.multipliers = config.gen.attention = ()
  config.dry_run.topology = topology
  config.train.batch_size = each
  for name, value in fields.items():
    group, field = name.split('__')
    config[group][field] = value
  return config


@pytest.fixture(scope='module')
def results():
  """The same step with one video on each device of 32 and of 256 chips, and with the state sharded."""
  return {
    'v5e:4x8': dry_run.dry_run(narrow('v5e:4x8', each=32), 'tiny', None),
    'v5e:16x16': dry_run.dry_run(narrow('v5e:16x16', each=256), 'tiny', None),
    'sharded': dry_run.dry_run(narrow('v5e:4x8', each=32, mesh__shard=4), 'tiny', None),
  }


def test_what_a_device_does_does_not_grow_with_the_slice(results):
  small, large = results['v5e:4x8'], results['v5e:16x16']
  assert (small['devices'], large['devices']) == (32, 256)
  assert large['tflop_per_device'] == small['tflop_per_device']
  assert large['hbm_used_gib'] == pytest.approx(small['hbm_used_gib'], rel=0.05, abs=0.01)
  for kind in small['collectives'].split():
    assert large[f'{kind}_gb'] == pytest.approx(small[f'{kind}_gb'], rel=0.01)


def test_plain_data_parallelism_has_all_reduces_of_float32_and_nothing_else(results):
  for name in ('v5e:4x8', 'v5e:16x16'):
    assert results[name]['collectives'] == 'all-reduce'
    assert results[name]['all-reduce_dtypes'] == 'f32'  # the compute is bfloat16


def test_sharding_the_state_saves_memory_and_gathers_weights(results):
  whole, split = results['v5e:4x8'], results['sharded']
  assert split['optimizer_gib'] < 0.3 * whole['optimizer_gib'] and split['ema_gib'] < 0.3 * whole['ema_gib']
  assert split['parameters_gib'] == whole['parameters_gib']
  assert set(split['collectives'].split()) <= {'all-reduce', 'all-gather', 'reduce-scatter'}
  assert 'all-gather' in split['collectives']


def test_too_large_is_a_result(capsys):
  config = narrow(
    'v5e:4x8', each=32, gen__ch=64, disc__ch=64, data__resolution=64, gen__multipliers=(), disc__multipliers=()
  )
  config.gen.attention = ()
  config.train.batch_size = 32 * 512
  result = dry_run.dry_run(config, 'large', None)
  assert not result['fits'] and result['hbm_used_gib'] > result['hbm_limit_gib'] == 15.75
  told = capsys.readouterr().out
  assert 'DOES NOT FIT' in told and 'gen.remat=True' in told


@pytest.mark.parametrize(
  ('topology', 'message'),
  [('v5e:3x3', 'knows no slice|does not divide'), ('v9:2x2', 'no slice known'), ('v5e:4x8', 'does not divide')],
)
def test_what_cannot_be_compiled_is_told(topology, message):
  with pytest.raises(UsageError, match=message):
    dry_run.dry_run(narrow(topology, each=48), 'tiny', None)


def test_the_program_leaves_its_result(tmp_path):
  command = [
    sys.executable,
    '-m',
    'dvd_gan.main',
    '--mode=dry_run',
    '--config=configs/smoke.py',
    f'--workdir={tmp_path}',
  ]
  command += ['--config.dry_run.topology=v5litepod-4', '--config.data.resolution=8', '--config.data.frames=4']
  command += ['--config.disc.multipliers=()', '--config.gen.attention=()']
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  told = json.loads(result.stdout.splitlines()[-1])
  assert told == json.loads((tmp_path / 'dry_run' / 'v5e-2x2.json').read_text())
  for key in 'config topology devices batch fits hbm_used_gib hbm_limit_gib tflop_per_device roofline_s'.split():
    assert key in told
  assert told['config'] == 'smoke' and told['devices'] == 4 and told['fits']
