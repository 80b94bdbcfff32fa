import os
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import FAST_COMPILE, ROOT
from tests.datasets.clips import encode


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder in which the wheel is installed without its dependencies, and the wheel's path."""
  folder = tmp_path_factory.mktemp('wheel')
  pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
  source = folder / 'source'
  # Build from a copy of the tracked files, because setuptools leaves a folder build/ behind.
  names = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
  for name in filter(None, names.split('\0')):
    if name.startswith(('dvd_gan/', 'configs/')) or '/' not in name:
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      if (ROOT / name).is_symlink():
        (source / name).symlink_to((ROOT / name).readlink())
      elif (ROOT / name).exists():
        (source / name).write_bytes((ROOT / name).read_bytes())
  subprocess.run([*pip, 'wheel', str(source), '--no-deps', '--wheel-dir', str(folder)], check=True)
  (wheel,) = folder.glob('*.whl')
  subprocess.run([*pip, 'install', str(wheel), '--no-deps', '--target', str(folder / 'target')], check=True)
  return folder, wheel


def test_the_wheel_contains_configs_and_data_files_and_only_the_dvd_gan_package(installed):
  folder, wheel = installed
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.split('/')[0] for name in names if '.dist-info' not in name} == {'dvd_gan'}
  for name in (
    'configs/smoke.py',
    'py.typed',
    'datasets/prepare/kinetics600.txt',
    'metrics/networks/shapes_classifier.npz',
    'metrics/report.html',
  ):
    assert f'dvd_gan/{name}' in names
  assert (folder / 'target' / 'bin' / 'dvd-gan').exists()


def test_the_readmes_commands_for_your_own_videos_run_from_another_folder(installed):
  """Runs the commands under "Your own videos"; flags for a smaller model are added to the first one."""
  folder, _ = installed
  text = (ROOT / 'README.md').read_text()
  block = text[text.index('Your own videos') :].split('\n\n')[1]
  commands = [line.strip() for line in block.splitlines()]
  assert [command.split('--')[0] for command in commands[:4]] == ['python -m dvd_gan.main '] * 4 and len(commands) == 5
  for name in ('bikes', 'carphone', 'bunny'):
    (folder / 'videos' / name).mkdir(parents=True)
    encode(folder / 'videos' / name / 'a.mp4')
  small = 'data.resolution=8 data.frames=4 disc.frames_k=2 gen.ch=2 gen.multipliers=(2,1) gen.attention=() disc.ch=2 '
  small += 'disc.multipliers=(1,1,1) disc.pool=1 gen.z_dim=4 gen.embed_dim=4 train.batch_size=2 train.steps=1 '
  small += (
    'train.sample_every=0 sample.statistics_batches=1 sample.statistics_batch_size=2 sample.batch_size=2 sample.num=2'
  )
  commands[0] += ' ' + ' '.join(f"'--config.{flag}'" for flag in [*small.split(), f'data.dir={folder}/data'])
  env = {**os.environ, 'PYTHONPATH': str(folder / 'target'), 'XLA_FLAGS': FAST_COMPILE}
  env['PATH'] = f'{os.path.dirname(sys.executable)}:{env["PATH"]}'
  output = []
  for command in commands:
    command = command.replace('FOLDER', str(folder / 'videos'))
    done = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    output.append(done.stdout)
  assert 'done: 1 steps' in output[0] and 'samples/step_00000001' in output[1] and output[3].strip() == 'runs/model'
  assert (folder / 'runs' / 'model' / 'classes.txt').read_text() == 'bikes\nbunny\ncarphone\n'
  assert 'walk_class_truncation_1_seed_0.gif' in output[2] and output[4].strip() == '(4, 4, 8, 8, 3)'
