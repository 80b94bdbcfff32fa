"""Compiles the real step for TPU slices with libtpu, at a narrow width."""

import contextlib
import importlib.metadata
import io
import json
import os
import signal
import subprocess
import sys

import jax
import pytest
from etils import epath

from dvd_gan.configs import kinetics600_64x12, moving_shapes_fp_32
from dvd_gan.dry_run import command
from dvd_gan.runtime.errors import RunError, UsageError
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


@pytest.fixture(autouse=True)
def quick_compile(monkeypatch):
  """Compiles in this process at O1, in a third of the time: the same program except for on-chip memory."""
  monkeypatch.setattr(command, 'in_child', lambda fn, *args: fn(*args))
  jax.config.update('jax_optimization_level', 'O1')
  cached = jax.config.jax_enable_compilation_cache
  yield
  jax.config.update('jax_enable_compilation_cache', cached)
  jax.config.update('jax_optimization_level', 'UNKNOWN')


def test_flop_memory_and_traffic_per_device_do_not_grow_with_the_slice(tmp_path):
  """One video per replica, on 32 and on 512 replicas."""
  output = io.StringIO()
  with contextlib.redirect_stdout(output):
    small = command.dry_run(narrow('v3-32', each=32), 'tiny', epath.Path(tmp_path))
  large = command.dry_run(narrow('v3:16x16', each=512), 'tiny', None)
  assert (small['devices'], large['devices']) == (32, 512)
  assert large['tflop_per_device'] == small['tflop_per_device']
  assert large['xla_tflop_per_device'] == pytest.approx(small['xla_tflop_per_device'], rel=0.01)
  assert large['hbm_used_gib'] == pytest.approx(small['hbm_used_gib'], rel=0.05, abs=0.01)
  assert large['all-reduce_gb'] == pytest.approx(small['all-reduce_gb'], rel=0.01)
  for result in (small, large):
    plain_data_parallelism(result)
    assert 0.8 < result['program_tflop_per_device'] / result['tflop_per_device'] < 1.15
    assert result['libtpu'] == importlib.metadata.version('libtpu')

  # The result is written, and printed last.
  output = output.getvalue()
  assert json.loads((tmp_path / 'dry_run' / 'v3-4x4.json').read_text()) == small == json.loads(output.splitlines()[-1])
  assert 'the compiled program does' in output
  for key in 'config topology devices batch fits hbm_used_gib hbm_limit_gib tflop_per_device roofline_s'.split():
    assert key in small
  assert all(not isinstance(value, (dict, list)) for value in small.values())
  assert 'tiny on v3:4x4: 32 devices, batch 32 (1 each)' in output and 'at 40% of that' in output


def plain_data_parallelism(result):
  """Asserts that all collectives are float32 all-reduces, although the compute is bfloat16."""
  assert result['collectives'] == 'all-reduce' and result['all-reduce_dtypes'] == 'f32'


def test_sharding_the_state_saves_memory_and_adds_all_gathers():
  plain = command.dry_run(narrow('v5e:16x16', each=256), 'tiny', None)
  split = command.dry_run(narrow('v5e:16x16', each=256, mesh__shard=4), 'tiny', None)
  plain_data_parallelism(plain)
  assert split['optimizer_gib'] < 0.3 * plain['optimizer_gib'] and split['ema_gib'] < 0.3 * plain['ema_gib']
  assert split['parameters_gib'] == plain['parameters_gib']
  assert set(split['collectives'].split()) <= {'all-reduce', 'all-gather', 'reduce-scatter'}
  assert 'all-gather' in split['collectives'] and split['all-reduce_dtypes'] == 'f32'


@pytest.mark.parametrize('slice_', ['v5litepod-32', 'v5litepod-256'])
def test_the_estimate_is_within_20_percent_of_the_compiled_memory(slice_):
  """Two of the committed rows, one with remat, hold the compiler's own figures at full width."""
  row = json.loads((ROOT / 'results' / 'dry_run' / f'kinetics600_64x12-{slice_}.json').read_text())
  config = kinetics600_64x12.get_config()
  config.dry_run.topology, config.dry_run.compile = slice_, False
  config.gen.remat = config.disc.remat = row['remat']
  config.mesh.shard, config.train.microbatches = row['shard'], row['microbatches']
  found = command.dry_run(config, row['config'], None)
  assert found['optimization'] == 'ESTIMATE' and found['hbm_used_gib'] == pytest.approx(row['hbm_used_gib'], rel=0.2)
  for key in ('tflop_per_device', 'parameters_gib', 'optimizer_gib', 'ema_gib', 'fits', 'devices'):
    assert found[key] == pytest.approx(row[key], rel=0.01), key
  assert found['all-reduce_gb'] == pytest.approx(row['all-reduce_gb'], rel=0.02)


def test_the_estimate_of_memory_is_lower_with_remat():
  plain, remat = (
    command.dry_run(narrow('v5litepod-32', each=2**18, dry_run__compile=False, **fields), 'tiny', None)['hbm_used_gib']
    for fields in ({}, {'gen__remat': True, 'disc__remat': True})
  )
  assert remat < 0.5 * plain


def test_the_estimate_of_memory_covers_prediction_with_a_squared_error():
  config = moving_shapes_fp_32.get_config()
  config.dry_run.topology, config.dry_run.compile, config.train.batch_size = 'v5litepod-4', False, 64
  assert command.dry_run(config, 'tiny', None)['temporaries_gib'] > 0


def test_the_estimate_of_memory_refuses_microbatches():
  with pytest.raises(UsageError, match='cannot estimate the memory of microbatches'):
    command.dry_run(narrow('v5litepod-32', each=64, dry_run__compile=False, train__microbatches=2), 'tiny', None)


def abort(*_):
  os.abort()


def test_an_abort_of_the_compiler_is_raised_and_written_as_a_result(tmp_path, monkeypatch, capsys):
  monkeypatch.undo()  # compile in a child process
  monkeypatch.setattr(command.compile, 'account', abort)
  with pytest.raises(RunError, match='the compiler for v5e:4x8 was ended by SIGABRT'):
    command.dry_run(narrow('v5e:4x8', each=32), 'tiny', epath.Path(tmp_path))
  row = json.loads((tmp_path / 'dry_run' / 'v5e-4x8.json').read_text())
  assert row['fits'] is None and row['aborted'] == f'was ended by {signal.SIGABRT.name}'
  assert 'NOT COMPILED' in capsys.readouterr().out


def test_a_step_too_large_for_the_device_is_reported_as_not_fitting(capsys):
  config = narrow('v5e:4x8', each=32 * 2**20)
  result = command.dry_run(config, 'large', None)
  assert not result['fits'] and result['hbm_used_gib'] > result['hbm_limit_gib'] == 15.75
  output = capsys.readouterr().out
  assert 'DOES NOT FIT' in output and 'gen.remat=True' in output


@pytest.mark.parametrize(
  ('topology', 'message'),
  [('v5e:3x3', 'no TPU slice'), ('v9:2x2', 'no TPU slice'), ('v5e:4x8', 'does not divide')],
)
def test_an_unknown_slice_or_an_indivisible_batch_is_refused(topology, message):
  with pytest.raises(UsageError, match=message):
    command.dry_run(narrow(topology, each=48), 'tiny', None)


def test_dry_run_with_an_indivisible_batch_exits_with_code_2_and_the_reason():
  command = [sys.executable, '-m', 'dvd_gan.main', '--mode=dry_run', '--config=configs/smoke.py']
  result = subprocess.run(
    [*command, '--config.dry_run.topology=v5litepod-64'], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert result.returncode == 2
  assert 'error: train.batch_size=8 does not divide over the 64 devices' in result.stderr


PAPER = sorted(
  path.stem for pattern in ('kinetics600_*', 'ucf101_*', 'bair_*') for path in (ROOT / 'configs').glob(f'{pattern}.py')
)


def test_the_committed_full_step_has_at_most_15_percent_more_flop_than_the_model():
  row = json.loads((ROOT / 'results' / 'dry_run' / 'kinetics600_64x12-v5litepod-256.json').read_text())
  assert not row['remat'] and row['program_tflop_per_device'] < 1.15 * row['tflop_per_device']


@pytest.mark.parametrize('name', PAPER)
def test_each_paper_config_has_a_committed_row_that_fits_at_batch_512(name):
  rows = [json.loads(path.read_text()) for path in (ROOT / 'results' / 'dry_run').glob(f'{name}-v5litepod-*.json')]
  assert any(row['fits'] and row['batch'] == 512 and row['hbm_used_gib'] < row['hbm_limit_gib'] for row in rows)
