import json
import os
import subprocess
import sys

import pytest

from dvd_gan import benchmark
from dvd_gan.configs import default
from dvd_gan.runtime import validation
from tests import tiny_prediction
from tests.conftest import ROOT, tiny_config


def test_the_benchmark_prints_a_json_object_as_its_last_line_without_tensorflow():
  program = (
    'import sys; sys.modules.update(dict.fromkeys(["tensorflow", "clu"]));'
    'from dvd_gan import benchmark; from tests.conftest import tiny_config;'
    'benchmark.SIZES["tiny"] = tiny_config; sys.argv[1:] = ["--size=tiny", "--repeats=2"]; benchmark.main()'
  )
  result = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=True
  )
  output = json.loads(result.stdout.splitlines()[-1])
  for name in ('step_s', 'compile_s', 'model_tflop', 'clips_per_s', 'share_of_matmul_rate'):
    assert output[name] >= 0, name
  assert output['size'] == 'tiny' and output['resolution'] == 16 and output['repeats'] == 2


@pytest.mark.parametrize('flag', ['--batch_size=0', '--repeats=0'])
def test_a_batch_size_or_a_number_of_repeats_of_0_is_a_one_line_usage_error(flag, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['benchmark', '--size=smoke', flag])
  with pytest.raises(SystemExit) as exit_:
    benchmark.main()
  assert exit_.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1


def test_size_64x64x12_ch32_b4_is_the_default_config_with_32_channels_and_a_batch_of_4():
  config = benchmark.SIZES['64x64x12_ch32_b4']()
  assert (config.data.resolution, config.data.frames, config.gen.ch, config.train.batch_size) == (64, 12, 32, 4)
  assert config == _with_narrow_widths(default.get_config())


@pytest.mark.parametrize('tiny', [tiny_config, tiny_prediction.get_config])
def test_measure_sampling_reports_times_throughput_batch_size_and_flops(tiny):
  config = tiny()
  config.sample.batch_size = 2
  output = benchmark.measure_sampling(config, repeats=3)
  assert 0 < output['draw_s_min'] <= output['draw_s'] and output['videos_per_s'] > 0
  assert output['batch_size'] == 2 and output['model_tflop'] >= 0


@pytest.mark.parametrize('name', ['kinetics600_64x12', 'kinetics600_64x48', 'kinetics600_128x12'])
def test_kinetics600_sizes_are_valid_full_width_and_in_bfloat16(name):
  config = benchmark.SIZES[name]()
  validation.validate(config)
  assert (config.gen.ch, config.disc.ch, config.dtype) == (*([96] * 2 if '128' in name else [128] * 2), 'bfloat16')


def test_size_64x64_5to11_ch32_b4_predicts_11_frames_from_5_in_float32():
  config = benchmark.SIZES['64x64_5to11_ch32_b4']()
  assert (config.data.context, config.data.frames, config.gen.ch, config.disc.ch, config.dtype) == (
    5,
    16,
    32,
    32,
    'float32',
  )


def _with_narrow_widths(config):
  config.gen.ch = config.disc.ch = 32
  config.train.batch_size = 4
  return config
