import json
import subprocess
import sys

import numpy as np

from tests.conftest import ROOT

COMMAND = [sys.executable, '-m', 'dvd_gan.datasets.benchmark', '--config=configs/default.py', '--seconds=0.2']


def run(*arguments):
  return subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_benchmark_prints_its_rates_as_json_on_the_last_line(tmp_path):
  sizes = [
    '--config.data.resolution=16',
    '--config.data.frames=5',
    '--config.data.clips=30',
    '--config.gen.attention=()',
  ]
  result = run(f'--config.data.dir={tmp_path}', *sizes)
  output = json.loads(result.stdout.splitlines()[-1])
  assert output['resolution'] == 16 and output['frames'] == 5 and output['threads'] == 1
  # Reading includes decoding, so it is not much faster than libjpeg-turbo. Both bounds are loose.
  assert 0.01 < output['share_of_libjpeg_turbo'] < 1.5
  assert output['clips_per_s_core'] > 0 and output['libjpeg_turbo_clips_per_s_core'] > 0


def test_the_benchmark_refuses_array_files_because_they_hold_no_jpegs(tmp_path):
  np.savez(tmp_path / 'a.npz', video=np.zeros((2, 12, 64, 64, 3), np.uint8), label=np.zeros(2, int))
  result = run('--config.data.name=array_file', f'--config.data.source={tmp_path}/a.npz')
  assert result.returncode == 2 and result.stderr.strip() == 'error: data.name=array_file holds no JPEGs'
