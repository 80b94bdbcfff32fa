import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from dvd_gan import checkpoint, sharding, train
from dvd_gan.datasets import record_files
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError
from dvd_gan.runtime.progress import Steps
from tests.conftest import FAST_COMPILE, PACE, ROOT


@pytest.fixture
def run(config, tmp_path, monkeypatch):
  """Trains the tiny config on one device from an array file; keyword arguments are fields of `train`."""
  rng = np.random.default_rng(0)
  config.data.name = 'array_file'
  config.data.source = str(tmp_path / 'clips.npz')
  np.savez(config.data.source, video=rng.integers(0, 256, (20, 7, 16, 16, 3), np.uint8), label=np.arange(20) % 3)
  make_mesh = sharding.make_mesh
  monkeypatch.setattr(sharding, 'make_mesh', lambda shard: make_mesh(shard, jax.devices()[:1]))

  def call(name, **fields):
    for field, value in fields.items():
      config.train[field] = value
    return train.train(config, epath.Path(tmp_path / name))

  call.config, call.folder = config, tmp_path
  return call


def lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def results(workdir):
  """The lines without the metrics that depend on time."""
  return [{name: line[name] for name in line if name not in PACE} for line in lines(workdir)]


def saved(config, workdir, step):
  """All arrays of a checkpoint."""
  checkpoints = checkpoint.Checkpoints(workdir / 'checkpoints')
  state, standing = checkpoints.restore(step, config, sharding.make_mesh(1))
  assert int(state.step) == step
  checkpoints.close()
  return jax.tree.map(np.asarray, (state, standing))


def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one(run, capsys):
  assert run('whole', steps=4) == 0
  assert all('sample_deviation' in line for line in lines(run.folder / 'whole')[1::2])  # at checkpoints
  assert run('parts', steps=2) == 0
  # A checkpoint written during training, with its arrays donated to the next step, equals that of a run that stopped.
  whole, parts = (saved(run.config, run.folder / name, 2) for name in ('whole', 'parts'))
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  # A killed run may leave lines beyond its checkpoint, the last of them incomplete.
  with (run.folder / 'parts' / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 3, "gen_loss_spatial": 1.0}\n{"step": 4, "gen')
  assert run('parts', steps=4) == 0
  assert 'resuming' in capsys.readouterr().out
  whole, parts = (saved(run.config, run.folder / name, 4) for name in ('whole', 'parts'))
  jax.tree.map(np.testing.assert_array_equal, whole, parts)
  assert results(run.folder / 'whole') == results(run.folder / 'parts')
  assert [line['step'] for line in lines(run.folder / 'parts')] == [1, 2, 3, 4]


def test_training_reads_one_dataset_element_per_step_and_a_signal_during_a_read_saves(run, monkeypatch):
  run.config.data.update(name='moving_shapes', dir=str(run.folder / 'tfds'), clips=3)
  iterate, read, drawn = tf.data.Dataset.as_numpy_iterator, record_files.read_bytes, []

  def watched(self):
    for element in iterate(self):
      drawn.append(element['video'].shape)
      yield element

  def slow(*arguments):
    if len(drawn) >= 3 and not killed:
      killed.append(os.kill(os.getpid(), signal.SIGTERM))
    time.sleep(0.02)
    return read(*arguments)

  killed = []
  monkeypatch.setattr(tf.data.Dataset, 'as_numpy_iterator', watched)
  monkeypatch.setattr(record_files, 'read_bytes', slow)
  assert run('run', steps=1000, checkpoint_every=1000) == train.PREEMPTED
  step = lines(run.folder / 'run')[-1]['step']
  assert drawn == step * [(2, 8, 5, 16, 16, 3)]  # one element per step
  assert saved(run.config, run.folder / 'run', step)[0].step == step >= 3


def test_a_recompiled_run_is_bitwise_equal_to_the_first(run):
  run('first', steps=2)
  jax.clear_caches()
  jax.config.update('jax_enable_compilation_cache', False)
  try:
    run('again', steps=2)
  finally:
    jax.config.update('jax_enable_compilation_cache', True)
  first, again = (saved(run.config, run.folder / name, 2) for name in ('first', 'again'))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert results(run.folder / 'first') == results(run.folder / 'again')
  # With another number of CPUs the last digits differ, so config.json holds the number.
  record = json.loads((run.folder / 'again' / 'config.json').read_text())
  assert record['cpus'] == len(os.sched_getaffinity(0))


def test_a_sign_of_collapse_is_logged_and_the_checkpoint_before_it_is_marked(run, monkeypatch, capsys):
  monkeypatch.setattr(train.alarm, 'WINDOW', 2)
  monkeypatch.setattr(train.alarm, 'DEAD_AFTER', 32)
  run('run', steps=2)
  monkeypatch.setattr(train.alarm, 'DEAD', -1.0)  # every loss is above it, and the window begins at step 2
  run('run', steps=3)
  assert lines(run.folder / 'run')[-1]['alarm'] == 2 and 'alarm' not in lines(run.folder / 'run')[-2]
  warning = capsys.readouterr().err
  assert 'warning: sign of collapse at step 3: disc_loss_spatial is' in warning
  assert f'{run.folder}/run/checkpoints/2, is kept (to return to it: dvd_gan/runtime/README.md, Going back)' in warning
  assert checkpoint.marks(run.folder / 'run')['alarm-disc_loss_spatial-high'] == {'step': 2}


def test_training_in_a_workdir_that_another_process_has_locked_is_a_usage_error(run):
  lock = epath.Path(run.folder / 'run' / '.lock')
  with files.exclusive(lock, 'training here'), pytest.raises(UsageError, match='another process is training in'):
    run('run', steps=2)
  assert list((run.folder / 'run').iterdir()) == []


def test_a_run_writes_config_metrics_checkpoints_samples_events_and_parameters(run, capsys):
  run('run', steps=2, sample_every=2)
  workdir = run.folder / 'run'
  names = {path.name for path in workdir.iterdir()}
  assert {'config.json', 'metrics.jsonl', 'checkpoints', 'samples'} <= names
  assert any(name.startswith('events.') for name in names)
  assert {p.name for p in (workdir / 'samples').iterdir()} == {'step_00000002.mp4', 'step_00000002.gif'}
  record = json.loads((workdir / 'config.json').read_text())
  assert record['config']['train']['steps'] == 2 and record['versions']['jax'] == jax.__version__
  progress = capsys.readouterr().err
  for word in ('step 2/2', 'steps/s', 'left', 'D_S', 'G_T', 'input wait'):
    assert word in progress
  # TensorBoard shows the animated grid as an image.
  from tensorboard.backend.event_processing import event_accumulator

  events = event_accumulator.EventAccumulator(str(workdir), size_guidance={'tensors': 0})
  events.Reload()
  tags = events.Tags()['tensors']
  assert {'samples', 'config', 'parameters', 'loss/gen_spatial', 'score/real_temporal', 'sigma/disc_max'} <= set(tags)
  assert {f'perf/{name}' for name in PACE} <= set(tags)
  assert b'disc.frames_k=3' in events.Tensors('config')[0].tensor_proto.string_val[0]
  parameters = (workdir / 'parameters.txt').read_text()
  assert parameters.startswith('G\n') and 'gru_4/' in parameters and '\nD_T\n' in parameters
  assert events.Tensors('samples')[0].tensor_proto.string_val[2].startswith(b'GIF89a')


def test_resuming_with_a_changed_model_is_refused_without_allow_config_change(run):
  (run.folder / 'run').mkdir()
  (run.folder / 'run' / 'config.json').write_text('{"config": {"gen": {"ch": 99}}}')  # from a run without a checkpoint
  run('run', steps=2)
  run.config.disc.frames_k = 2
  with pytest.raises(UsageError, match='disc.frames_k=3, not 2.*allow_config_change'):
    run('run', steps=4)
  assert run('run', steps=3, allow_config_change=True) == 0
  run.config.gen.ch = 3
  with pytest.raises(UsageError, match='does not fit this config'):
    run('run', steps=4)
  # The failed attempt changed nothing: the run goes on as before.
  run.config.gen.ch = 2
  assert run('run', steps=4, allow_config_change=False) == 0


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_training_saves_a_checkpoint_and_ends_with_exit_code_42(run, monkeypatch, capsys, number):
  show, handler = Steps.show, signal.getsignal(number)

  def interrupt(self, step, *args, **kwargs):
    show(self, step, *args, **kwargs)
    if step == 1:
      os.kill(os.getpid(), number)

  monkeypatch.setattr(Steps, 'show', interrupt)
  assert run('run', steps=4) == train.PREEMPTED == 42
  output = capsys.readouterr().out
  assert lines(run.folder / 'run')[-1]['step'] == 2
  assert saved(run.config, run.folder / 'run', 2)[0].step == 2
  # Only the state is saved: a short grace period leaves no time for standing statistics.
  assert saved(run.config, run.folder / 'run', 2)[1] is None
  assert f'stopped by {signal.Signals(number).name} at step 2' in output
  assert signal.getsignal(number) is handler  # restored


def test_a_non_finite_update_stops_training_and_is_not_saved(run, monkeypatch):
  run('run', steps=2)
  before = saved(run.config, run.folder / 'run', 2)
  make = train.train_step.make_spec
  monkeypatch.setattr(
    train.train_step,
    'make_spec',
    lambda config, **options: make(config, **options)._replace(gen_opt=_poison(config)),
  )
  with pytest.raises(
    train.NonFiniteError, match='step 3 are not finite; the last checkpoint is from step 2.*the state'
  ):
    run('run', steps=9, checkpoint_every=1)
  # The losses of step 3 were finite but its update was not, so the step must not be saved.
  newest = checkpoint.Checkpoints(run.folder / 'run' / 'checkpoints').newest()
  assert newest == 2
  jax.tree.map(np.testing.assert_array_equal, before, saved(run.config, run.folder / 'run', 2))


def _poison(config):
  """Adam whose updates are NaN."""
  import optax

  from dvd_gan import optimizer

  adam = optimizer.adam(config.train.gen_lr, config.train.b1, config.train.b2)

  def update(*args, **extra):
    updates, state = adam.update(*args, **extra)
    return jax.tree.map(lambda leaf: leaf * np.nan, updates), state

  return optax.GradientTransformationExtraArgs(adam.init, update)


def test_an_unwritable_workdir_is_a_usage_error(run):
  (run.folder / 'file').write_text('')
  with pytest.raises(UsageError, match='cannot write'):
    run('file/run', steps=2)


def test_an_unknown_best_metric_is_a_usage_error(run):
  with pytest.raises(UsageError, match='train.best_metric=fvd is not a metric; choose one of disc_grad_norm'):
    run('run', steps=3, keep_best=1, best_metric='fvd')


def test_only_the_newest_checkpoints_are_kept(run):
  run('run', steps=4, checkpoint_every=1, keep_checkpoints=2)
  assert sorted(int(path.name) for path in (run.folder / 'run' / 'checkpoints').iterdir()) == [3, 4]


def program(run, workdir):
  """The command that trains the tiny config in a separate process without TensorFlow and clu."""
  config = run.config
  fields = ['resolution', 'frames', 'num_classes', 'name', 'source']
  overrides = [f'--config.data.{field}={config.data[field]}' for field in fields]
  overrides += ['--config.gen.ch=2', '--config.gen.multipliers=(4,2,2)', '--config.gen.attention=(8,)']
  overrides += ['--config.disc.ch=4', '--config.disc.multipliers=(1,2,2)', '--config.disc.frames_k=3']
  overrides += ['--config.train.batch_size=8', '--config.train.steps=100000', '--config.train.log_every=1']
  overrides += ['--config.mesh.loops=scan', '--config.sample.statistics_batches=2']
  overrides += ['--config.sample.num=3', '--config.sample.batch_size=4']
  missing = 'import sys; sys.modules.update(dict.fromkeys(["tensorflow", "clu", "tensorflow_datasets"]));'
  start = [sys.executable, '-c', missing + 'from dvd_gan import main; main.app.run(main.main)']
  return [*start, '--config=configs/default.py', f'--workdir={workdir}', *overrides]


def test_a_signal_during_the_first_compilation_ends_with_exit_code_42_and_saves_nothing(run):
  workdir = run.folder / 'process'
  env = {**os.environ, 'XLA_FLAGS': FAST_COMPILE, 'JAX_COMPILATION_CACHE_DIR': str(run.folder / 'cold')}
  process = subprocess.Popen(
    [*program(run, workdir), '--mode=train'], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
  )
  deadline = time.monotonic() + 300
  while not (workdir / 'config.json').exists():  # the last file written before the loop
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.1)
  time.sleep(2)
  process.send_signal(signal.SIGTERM)
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 42 and 'before the first step: nothing to save' in output
  assert not list((workdir / 'checkpoints').iterdir())
  assert not (workdir / 'metrics.jsonl').exists() or not lines(workdir)


class MetadataServer(http.server.BaseHTTPRequestHandler):
  """The part of Google's metadata server that announces preemption and maintenance."""

  says = {'preempted': 'FALSE', 'maintenance-event': 'NONE'}

  def do_GET(self):
    path, _, name = self.path.rpartition('/')
    known = path == '/computeMetadata/v1/instance' and self.headers['Metadata-Flavor'] == 'Google'
    self.send_response(200 if known else 404)
    self.end_headers()
    self.wfile.write(self.says[name].encode())

  def log_message(self, *args):
    pass


def test_the_program_without_tensorflow_trains_saves_stops_resumes_and_samples(run, monkeypatch):
  """Uses separate processes: `array_file` needs neither TensorFlow nor clu, and SIGTERM is a real signal."""
  workdir = run.folder / 'process'
  command = program(run, workdir)
  server = http.server.ThreadingHTTPServer(('localhost', 0), MetadataServer)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  env = {**os.environ, 'XLA_FLAGS': FAST_COMPILE, 'GCE_METADATA_HOST': f'localhost:{server.server_port}'}

  process = subprocess.Popen([*command, '--mode=train'], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
  deadline = time.monotonic() + 300
  while not (workdir / 'metrics.jsonl').exists() or len(lines(workdir)) < 2:
    assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
    time.sleep(0.2)
  monkeypatch.setitem(MetadataServer.says, 'maintenance-event', 'TERMINATE_ON_HOST_MAINTENANCE')
  while not (saved := [int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit()]):
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.2)
  while lines(workdir)[-1]['step'] < saved[0] + 2:  # training continues
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.2)
  process.send_signal(signal.SIGTERM)
  server.shutdown()
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 42, errors
  reached = lines(workdir)[-1]['step']

  done = [*command, '--mode=train', f'--config.train.steps={reached + 1}']
  assert subprocess.run(done, cwd=ROOT, env=env, check=False).returncode == 0
  assert [line['step'] for line in lines(workdir)] == list(range(1, reached + 2))
  subprocess.run([*command, '--mode=sample', '--config.sample.each=True'], cwd=ROOT, env=env, check=True)
  written = sorted(path.name for path in (workdir / 'samples').iterdir())
  # That checkpoint has no standing statistics, so they are computed.
  subprocess.run([*command, '--mode=sample', f'--config.sample.step={reached}'], cwd=ROOT, env=env, check=True)
  stem = f'step_{reached + 1:08d}_truncation_1_seed_0'
  assert f'{stem}.mp4' in written and f'{stem}_00002_class_002.gif' in written
