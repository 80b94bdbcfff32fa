import subprocess
import sys

import numpy as np
import pytest

from configs import default
from dvd_gan.datasets import pipeline
from dvd_gan.errors import UsageError
from tests.conftest import ROOT, tiny_config
from tests.test_configs import NAMES, load

DATA = {name: load(name).data.name for name in NAMES}


@pytest.mark.parametrize('name', [name for name in NAMES if DATA[name] not in ('moving_shapes',)])
def test_a_config_whose_data_are_absent_says_what_to_put_where(name, tmp_path):
  config = load(name)
  config.data.dir = str(tmp_path)
  with pytest.raises(UsageError) as error:
    pipeline.open_source(config)
  message = str(error.value)
  assert '\n' not in message and 'data.source=FOLDER' in message and DATA[name] in message
  assert not list(tmp_path.iterdir())
  # Neither does prepare know where they are.
  with pytest.raises(UsageError, match='data.source=FOLDER'):
    pipeline.open_source(config, build=True)


def test_the_program_says_it_in_one_line():
  command = [sys.executable, '-m', 'dvd_gan.main', '--mode=train', '--config=configs/ucf101_128x16.py']
  command += ['--workdir={tmp}', '--config.data.dir={tmp}', '--config.train.batch_size=8']
  result = subprocess.run(
    [part.format(tmp='/nonexistent/place') for part in command], cwd=ROOT, capture_output=True, text=True, check=False
  )
  told = [line for line in result.stderr.splitlines() if line]
  assert result.returncode == 2 and len(told) == 1, result.stderr
  assert told[0].startswith('error: ucf101 is not prepared in /nonexistent/place') and 'ucfTrainTestlist' in told[0]


def test_every_config_names_a_data_set_that_there_is():
  assert set(DATA.values()) <= {*pipeline.TFDS_SOURCES, 'array_file'}
  assert {DATA[name] for name in NAMES if name.startswith('kinetics600')} == {'kinetics600'}
  assert default.get_config().data.name == 'moving_shapes'


HOST = """
import hashlib, sys
import jax
host, hosts, port = map(int, sys.argv[1:4])
jax.distributed.initialize(f'localhost:{port}', num_processes=hosts, process_id=host)
from dvd_gan import sharding
from dvd_gan.datasets import pipeline
from tests.conftest import tiny_config
config = tiny_config()
config.data.num_classes, config.data.dir = 30, sys.argv[4]
mesh = sharding.make_mesh()
rows = sharding.host_rows(mesh, config.train.batch_size)
batches = pipeline.open_source(config).host_batches(int(sys.argv[5]), rows)
import numpy as np
np.savez(f'{sys.argv[6]}_{host}', rows=rows, **next(batches))
"""


def test_processes_together_read_what_one_reads(tmp_path):
  """Two real processes in one jax.distributed run; each reads its rows of step 10^6."""
  import socket

  config = tiny_config()
  config.data.num_classes, config.data.dir = 30, str(tmp_path / 'tfds')
  step = 10**6
  whole = next(pipeline.open_source(config).host_batches(step, np.arange(8)))
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  hosts = [
    subprocess.Popen(
      [sys.executable, '-c', HOST, str(i), '2', str(port), config.data.dir, str(step), str(tmp_path / 'host')], cwd=ROOT
    )
    for i in range(2)
  ]
  assert [host.wait(timeout=120) for host in hosts] == [0, 0]
  parts = [np.load(tmp_path / f'host_{i}.npz') for i in range(2)]
  assert np.concatenate([part['rows'] for part in parts]).tolist() == list(range(8))
  for name, value in whole.items():
    np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], axis=1), value)
