"""Runs of several real processes on this machine, started by launch/local_cluster.sh."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from dvd_gan import checkpoint, evaluate, prediction, sharding
from tests.conftest import FAST_COMPILE, PACE, ROOT, tiny_config

SMALL = {
  'data.resolution': 8,
  'data.frames': 4,
  'gen.multipliers': (2, 2),
  'gen.attention': (),
  'disc.multipliers': (1, 2, 2),
  'sample.statistics_batches': 1,
}


class Cluster:
  """Starts training processes with a small config, and kills those that are left."""

  def __init__(self, folder):
    self.folder, self.running = folder, []
    rng = np.random.default_rng(0)
    np.savez(folder / 'clips.npz', video=rng.integers(0, 256, (20, 7, 8, 8, 3), np.uint8), label=np.arange(20) % 3)

  def start(self, processes, devices, name, mode='train', workdir=None, **fields):
    """Starts processes with `devices` devices each. Without `workdir` the workdir is the folder `name`."""
    fields = SMALL | {'data.name': 'array_file', 'data.source': str(self.folder / 'clips.npz')} | fields
    flags = [
      f'--mode={mode}',
      '--config=tests/tiny.py',
      f'--workdir={workdir or self.folder / name}',
      '--heartbeat_seconds=10',
    ]
    flags += [f'--config.{field}={value}' for field, value in fields.items()]
    env = {**os.environ, 'DEVICES': str(devices), 'XLA_FLAGS': FAST_COMPILE}
    log = (self.folder / f'{name}-{len(self.running)}.log').open('w+')
    process = subprocess.Popen(
      ['bash', 'launch/local_cluster.sh', str(processes), *flags],
      cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    process.log = pathlib.Path(log.name)
    self.running.append(process)
    return process

  def run(self, *args, **kwargs):
    """Waits for the end; returns (exit code, output)."""
    return self.end(self.start(*args, **kwargs))

  def end(self, process, seconds=300):
    try:
      process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
      pytest.fail(f'still running after {seconds} s: {process.log.read_text()[-3000:]}')
    return process.returncode, process.log.read_text()

  def stop_all(self):
    for process in self.running:
      try:
        os.killpg(process.pid, signal.SIGKILL)
      except ProcessLookupError:
        continue


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
  cluster = Cluster(tmp_path_factory.mktemp('cluster'))
  yield cluster
  cluster.stop_all()


def lines(workdir):
  path = workdir / 'metrics.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, process, what, seconds=300):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.log.read_text()
    assert time.monotonic() < deadline, f'{what} did not come: {process.log.read_text()[-3000:]}'
    time.sleep(0.05)


def process_of(cluster_process, number):
  """The process id of one of a cluster's processes."""
  found = subprocess.run(['ps', '-ewwo', 'pid,pgid,args'], capture_output=True, text=True, check=True).stdout
  for line in found.splitlines()[1:]:
    pid, group, args = line.split(None, 2)
    if int(group) == cluster_process.pid and 'dvd_gan.main' in args and f'--process={number} ' in args:
      return int(pid)
  raise AssertionError(f'no process {number}')


def steps_of(workdir):
  return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit())


def small_config(**fields):
  config = tiny_config()
  config.update_from_flattened_dict(SMALL | fields)
  return config


def ema_of(workdir, step):
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  state, _ = checkpoint.Checkpoints(workdir / 'checkpoints').restore(step, small_config(), mesh)
  return jax.device_get(state.ema_params)


def test_a_run_resumed_on_2_1_and_4_processes_matches_an_uninterrupted_run_of_one_process(cluster):
  """SIGTERM to one of two processes stops both and saves; then 1 and 4 processes resume the run."""
  workdir = cluster.folder / 'parts'
  endless = {'train.steps': 1000, 'train.checkpoint_every': 1000}
  two = cluster.start(2, 4, 'parts', **endless)
  wait_for(lambda: len(lines(workdir)) >= 2, two, 'the second step')
  os.kill(process_of(two, 1), signal.SIGTERM)
  code, output = cluster.end(two)
  assert code == 42, output
  stopped = lines(workdir)[-1]['step']
  assert steps_of(workdir) == [stopped]
  assert f'[0] stopped by another host at step {stopped}' in output
  assert '[1] stopped' not in output and '[1] step' not in output  # only process 0 prints

  code, output = cluster.run(1, 1, 'parts', **{'train.steps': stopped + 1})
  assert code == 0 and f'resuming {workdir} at step {stopped}' in output, output
  # The checksums of all arrays match; otherwise this step would be set aside.
  code, output = cluster.run(4, 1, 'parts', **{'train.steps': stopped + 1, 'mesh.shard': 2})
  assert code == 0 and f'resuming {workdir} at step {stopped + 1}' in output and 'warning' not in output, output

  code, output = cluster.run(1, 8, 'whole', **{'train.steps': stopped + 1})
  assert code == 0, output
  parts, whole = lines(workdir), lines(cluster.folder / 'whole')
  assert [line['step'] for line in parts] == [line['step'] for line in whole] == list(range(1, stopped + 2))
  for one, other in zip(parts, whole, strict=True):
    for name in one.keys() - set(PACE):
      assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), (one['step'], name)
  emas = (ema_of(cluster.folder / name, stopped + 1) for name in ('parts', 'whole'))
  jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4), *emas)


def test_a_killed_process_or_damaged_checkpoint_loses_only_steps_since_the_last_good_one(cluster):
  workdir = cluster.folder / 'killed'
  fields = {'train.steps': 1000, 'train.checkpoint_every': 1, 'mesh.shard': 2}
  two = cluster.start(2, 1, 'killed', **fields)

  def saving():
    folder = workdir / 'checkpoints'
    return folder.exists() and len(steps_of(workdir)) > 1 and list(folder.glob('*.orbax-checkpoint-tmp'))

  wait_for(saving, two, 'a save')
  os.kill(process_of(two, 1), signal.SIGKILL)
  start = time.monotonic()
  code, output = cluster.end(two, seconds=120)
  assert code not in (0, 2, 42), output
  assert time.monotonic() - start < 90  # a heartbeat timeout of 10 s, and a margin for a busy machine
  newest, reached = steps_of(workdir)[-1], lines(workdir)[-1]['step']
  assert reached - newest <= 2  # the unfinished save, and the step computed meanwhile

  # The unfinished save is ignored on restore.
  code, output = cluster.run(2, 1, 'killed', **(fields | {'train.steps': newest}))
  assert code == 0 and f'resuming {workdir} at step {newest}' in output and 'warning' not in output, output

  # One host's part of that checkpoint is truncated: all hosts restore the one before it.
  for path in (workdir / 'checkpoints' / str(newest) / 'state').glob('ocdbt.process_1/d/*'):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  code, output = cluster.run(2, 1, 'killed', **(fields | {'train.steps': newest + 1}))
  assert code == 0, output
  assert f'warning: checkpoint {newest}' in output and f'resuming {workdir} at step {newest - 1}' in output
  assert 'Event loop is closed' not in output, output
  assert steps_of(workdir)[-1] == newest + 1 and (workdir / 'checkpoints' / f'damaged-{newest}').exists()
  assert [line['step'] for line in lines(workdir)] == list(range(1, newest + 2))


def test_two_processes_evaluate_and_predict_with_the_same_results_as_one(cluster):
  fields = {'data.context': 1, 'data.frames': 5, 'train.steps': 2, 'sample.num': 3, 'sample.futures': 2}
  fields |= {'eval.protocols': ('toy',), 'eval.samples': 8, 'eval.batch_size': 8}
  workdir = cluster.folder / 'prediction'
  for processes, mode in ((1, 'train'), (2, 'evaluate'), (2, 'sample')):
    code, output = cluster.run(processes, 2, 'prediction', mode, **fields)
    assert code == 0, output

  def results():
    (sampled,) = (workdir / 'samples').glob('*.json')
    return json.loads((workdir / 'eval' / 'toy-2-of_8.json').read_text()), json.loads(sampled.read_text())

  together = results()
  config = small_config(**fields, **{'data.name': 'array_file', 'data.source': str(cluster.folder / 'clips.npz')})
  config.eval.cache = str(cluster.folder / 'another_cache')
  evaluate.evaluate(config, epath.Path(workdir))
  prediction.predict(config, epath.Path(workdir))
  alone = results()
  for one, other in zip(together, alone, strict=True):
    assert one.keys() == other.keys()
  for kind, name in (('frechet', 'distance'), ('frechet', 'floor'), ('inception_score', 'score')):
    assert together[0][kind][name] == pytest.approx(alone[0][kind][name], rel=1e-2), name
  for row in ('mean', 'best', 'copy_last'):
    np.testing.assert_allclose(together[1]['psnr'][row], alone[1]['psnr'][row], atol=0.02)


ONE_READ_FAILS = """
import jax, orbax.checkpoint as ocp, sys
from dvd_gan import checkpoint, sharding
from dvd_gan.runtime import multihost
from tests.runtime import test_multihost
port, process, folder, newest = sys.argv[1:]
multihost.start(f'localhost:{port}', 2, int(process), 10)
restore = ocp.StandardCheckpointHandler.restore
def failing(self, path, *args, **kwargs):
  if process == '1' and f'/{newest}/' in str(path):
    raise OSError('a bad sector')
  return restore(self, path, *args, **kwargs)
ocp.StandardCheckpointHandler.restore = failing
config = test_multihost.small_config()
found = checkpoint.Checkpoints(folder).restore_newest(config, sharding.make_mesh(), set_aside=False)
print('restored', found[0])
multihost.gather()
"""


def test_if_one_host_cannot_read_a_checkpoint_all_hosts_restore_the_one_before_it(cluster):
  """One process saves two steps; two processes restore."""
  code, output = cluster.run(1, 1, 'read', **{'train.steps': 2, 'train.checkpoint_every': 1})
  assert code == 0, output
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  env = {**os.environ, 'XLA_FLAGS': FAST_COMPILE}
  command = [sys.executable, '-c', ONE_READ_FAILS, port]
  both = [
    subprocess.Popen(
      [*command, str(i), str(cluster.folder / 'read' / 'checkpoints'), '2'],
      cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    for i in range(2)
  ]  # fmt: skip
  for i, process in enumerate(both):
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and 'restored 1' in output, output
    assert ('a bad sector' if i else 'see the log of process 1') in output, output


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--processes=2'], 'need --coordinator'),
    (['--coordinator=localhost:1', '--processes=2', '--process=2'], 'less than --processes=2'),
    (['--coordinator=localhost', '--processes=1'], 'is not HOST:PORT'),
  ],
)
def test_invalid_multihost_flags_are_a_one_line_usage_error(flags, message, tmp_path):
  command = [sys.executable, '-m', 'dvd_gan.main', '--config=configs/smoke.py', f'--workdir={tmp_path}', *flags]
  result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert result.returncode == 2 and re.fullmatch(rf'error: .*{re.escape(message)}.*\n', result.stderr), result.stderr


def test_local_cluster_sh_without_a_number_of_processes_exits_with_code_2():
  result = subprocess.run(
    ['bash', 'launch/local_cluster.sh', 'two'], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert result.returncode == 2 and 'how many processes' in result.stderr
