import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.conftest import FAST_COMPILE, ROOT


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder in which the wheel is installed, without what it depends on."""
  folder = tmp_path_factory.mktemp('wheel')
  pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
  source = folder / 'source'
  # A copy of what git has: setuptools leaves build/ where it builds.
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


def test_the_wheel_holds_the_configs_but_takes_no_other_name(installed):
  folder, wheel = installed
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.split('/')[0] for name in names if '.dist-info' not in name} == {'dvd_gan'}
  for name in ('configs/smoke.py', 'py.typed', 'datasets/prepare/kinetics600.txt', 'metrics/networks/shapes_classifier.npz'):
    assert f'dvd_gan/{name}' in names
  assert (folder / 'target' / 'bin' / 'dvd-gan').exists()


def test_it_trains_samples_and_exports_from_any_folder(installed):
  folder, _ = installed
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, (8, 6, 8, 8, 3), np.uint8)
  np.savez(folder / 'clips.npz', video=clips, label=np.arange(8) % 2, classes=['bikes', 'carphone'])
  env = {**os.environ, 'PYTHONPATH': str(folder / 'target'), 'XLA_FLAGS': FAST_COMPILE}

  def run(*arguments, code='-m dvd_gan.main'):
    command = [sys.executable, *code.split(maxsplit=1), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

  flags = 'data.resolution=8 data.frames=4 disc.frames_k=2 gen.ch=2 gen.multipliers=(2,1) disc.ch=2 disc.multipliers=(1,1,1) '
  flags += 'gen.z_dim=4 gen.embed_dim=4 train.batch_size=2 train.steps=1 train.sample_every=0 sample.statistics_batches=1 '
  flags += 'sample.statistics_batch_size=2 sample.batch_size=2 sample.num=2 data.name=array_file data.source=clips.npz'
  run('--config=smoke', '--workdir=run', *(f'--config.{flag}' for flag in flags.split()))
  assert 'bikes' in run('--mode=sample', '--workdir=run', '--config.sample.classes=bikes', '--config.sample.each=True')
  assert run('--mode=export', '--workdir=run').strip().endswith('run/export-1')
  assert (folder / 'run' / 'export-1' / 'classes.txt').read_text() == 'bikes\ncarphone\n'
  code = 'import dvd_gan; model = dvd_gan.load("run/export-1"); print(dvd_gan.__file__, model.sample(["carphone"]).shape)'
  done = subprocess.run([sys.executable, '-c', code], cwd=folder, env=env, capture_output=True, text=True, check=True)
  assert str(folder / 'target') in done.stdout and done.stdout.strip().endswith('(1, 4, 8, 8, 3)')
