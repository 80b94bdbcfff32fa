import json
import os
import subprocess
import sys

from configs import default
from dvd_gan import benchmark
from tests.conftest import ROOT


def test_it_prints_one_json_object_last_without_tensorflow():
  program = (
    'import sys; sys.modules.update(dict.fromkeys(["tensorflow", "clu"]));'
    'from dvd_gan import benchmark; from tests.conftest import tiny_config;'
    'benchmark.SIZES["tiny"] = tiny_config; sys.argv[1:] = ["--size=tiny", "--repeats=2"]; benchmark.main()'
  )
  result = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=True
  )
  told = json.loads(result.stdout.splitlines()[-1])
  for name in ('step_s', 'compile_s', 'model_tflop', 'clips_per_s', 'share_of_matmul_rate'):
    assert told[name] >= 0, name
  assert told['size'] == 'tiny' and told['resolution'] == 16 and told['repeats'] == 2


def test_the_default_size_is_the_one_that_scripts_expect():
  config = benchmark.SIZES['64x64x12_ch32_b4']()
  assert (config.data.resolution, config.data.frames, config.gen.ch, config.train.batch_size) == (64, 12, 32, 4)
  assert config == _with_narrow_widths(default.get_config())


def test_prediction_has_a_size_too():
  config = benchmark.SIZES['64x64_5to11_ch32_b4']()
  assert (config.data.given, config.data.frames, config.gen.ch, config.disc.ch, config.dtype) == (
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
