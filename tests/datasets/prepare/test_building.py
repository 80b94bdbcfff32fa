import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from dvd_gan.configs import default
from dvd_gan.datasets import catalog, sources
from dvd_gan.datasets.prepare import building
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError
from tests.conftest import ROOT, tiny_config
from tests.datasets.clips import batch, encode
from tests.test_configs import NAMES, load

DATA = {name: load(name).data.name for name in NAMES}


# moving_shapes is drawn, and TFDS downloads bair (test_catalog.py).
@pytest.mark.parametrize('name', [name for name in NAMES if DATA[name] not in ('moving_shapes', 'bair')])
def test_missing_data_gives_a_one_line_error_that_names_the_data_set_and_data_source(name, tmp_path):
  config = load(name)
  config.data.dir = str(tmp_path)
  with pytest.raises(UsageError) as error:
    sources.open_source(config)
  message = str(error.value)
  assert '\n' not in message and 'data.source=FOLDER' in message and DATA[name] in message
  assert not list(tmp_path.iterdir())
  # Prepare needs data.source too.
  with pytest.raises(UsageError, match='data.source=FOLDER'):
    sources.open_source(config, build=True)


def test_train_without_prepared_data_exits_with_a_one_line_error():
  command = [sys.executable, '-m', 'dvd_gan.main', '--mode=train', '--config=configs/ucf101_128x16.py']
  command += ['--workdir={tmp}', '--config.data.dir={tmp}', '--config.train.batch_size=8']
  result = subprocess.run(
    [part.format(tmp='/nonexistent/place') for part in command], cwd=ROOT, capture_output=True, text=True, check=False
  )
  output = [line for line in result.stderr.splitlines() if line]
  assert result.returncode == 2 and len(output) == 1, result.stderr
  assert output[0].startswith('error: ucf101 is not prepared in /nonexistent/place') and 'ucfTrainTestlist' in output[0]


def test_every_config_names_a_known_data_set():
  assert set(DATA.values()) <= {*sources.TFDS_SOURCES, 'array_file'}
  assert {DATA[name] for name in NAMES if name.startswith('kinetics600')} == {'kinetics600'}
  assert default.get_config().data.name == 'moving_shapes'


HOST = """
import json, sys
import jax, ml_collections
import numpy as np
host, hosts, port = map(int, sys.argv[1:4])
jax.distributed.initialize(f'localhost:{port}', num_processes=hosts, process_id=host)
from dvd_gan import sharding
from dvd_gan.datasets import input_pipeline, sources
config, step = ml_collections.ConfigDict(json.loads(sys.argv[4])), int(sys.argv[5])
mesh = sharding.make_mesh(devices=jax.devices()[::2] + jax.devices()[1::2])  # no host's devices are neighbours
batches = input_pipeline.Batches(config, sources.open_source(config), mesh, step)
for name, array in next(batches).items():
  for shard in array.addressable_shards:
    np.savez(f'{sys.argv[6]}_{name}_{host}_{shard.index[1].start}', shape=array.shape, part=shard.data)
batches.close()
"""


def test_two_processes_together_read_the_batch_of_one_process(tmp_path):
  """Two real processes in one jax.distributed run; each reads its rows of step 10^6 and places them on its devices."""
  config = tiny_config()
  config.data.num_classes, config.data.dir = 30, str(tmp_path / 'tfds')
  step = 10**6
  config.train.steps = step + 1
  whole = batch(config, sources.open_source(config), step)
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  env = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
  arguments = [str(port), config.to_json_best_effort(), str(step), str(tmp_path / 'part')]
  hosts = [subprocess.Popen([sys.executable, '-c', HOST, str(i), '2', *arguments], cwd=ROOT, env=env) for i in range(2)]
  assert [host.wait(timeout=120) for host in hosts] == [0, 0]
  for name, expected in whole.items():
    for row in range(8):
      host = row // 2 % 2
      part = np.load(tmp_path / f'part_{name}_{host}_{row}.npz')
      assert tuple(part['shape']) == expected.shape
      np.testing.assert_array_equal(part['part'], expected[:, row : row + 1])


def test_a_build_killed_before_or_during_its_last_two_actions_is_completed(config, tmp_path):
  (tmp_path / 'source' / 'cats').mkdir(parents=True)
  encode(tmp_path / 'source' / 'cats' / 'a.mp4')
  (tmp_path / 'source' / 'cats' / 'b.mp4').write_bytes(b'not a video')
  config.data.name, config.data.source, config.data.dir = (
    'video_folder',
    str(tmp_path / 'source'),
    str(tmp_path / 'tfds'),
  )
  folder = catalog.open_records(config).folder
  rejects = (folder / 'rejects.jsonl').read_text()
  assert 'b.mp4' in rejects
  cache = building.cache_folder(building.make_builder(config, *building.builder_class(config)), config.data, folder)
  (cache / 'train').mkdir(parents=True)
  # Killed while it deleted the cache, which has lost its list of rejects: the list beside the data stays.
  assert '1 files rejected' in catalog.open_records(config, build=True).describe()
  assert not cache.exists()
  # Killed before the last two actions: the rejects are not beside the data, the cache is whole.
  for name in ('rejects.jsonl', building.DECODER_FILE):
    (folder / name).unlink()
  (cache / 'train').mkdir(parents=True)
  (cache / 'rejects-all.jsonl').write_text(rejects)
  assert '1 files rejected' in catalog.open_records(config).describe()
  assert not cache.exists()


def test_data_sets_of_different_resolution_have_different_cache_folders(config):
  config.data.cache = '/somewhere'
  places = set()
  for size in (64, 128):
    config.data.name, config.data.resolution = 'kinetics600', size
    places.add(
      building.cache_folder(
        building.make_builder(config, *building.builder_class(config)), config.data, epath.Path('/data/1.0.0')
      )
    )
  assert len(places) == 2 and all(str(place).startswith('/somewhere/kinetics600-') for place in places)


def test_an_unwritable_data_dir_is_reported_in_one_line(config, tmp_path):
  (tmp_path / 'file').write_text('')
  config.data.num_classes, config.data.dir = 30, str(tmp_path / 'file' / 'tfds')
  with pytest.raises(UsageError, match='cannot prepare moving_shapes') as error:
    catalog.open_records(config)
  assert '\n' not in str(error.value)


def test_the_size_of_a_file_whose_owner_has_no_user_name_is_read(tmp_path):
  """As in a container with a mounted folder."""
  path = tmp_path / 'file'
  path.write_bytes(b'abc')
  if os.getuid():
    pytest.skip('only root gives files away')
  os.chown(path, 54321, 54321)
  assert files.size_and_time(epath.Path(path))[0] == 3
