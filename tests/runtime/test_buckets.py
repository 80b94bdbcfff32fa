"""gs:// paths with a fake Cloud Storage server on loopback, mostly in separate processes."""

import json
import os
import signal
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from dvd_gan.datasets import buckets, index
from dvd_gan.runtime import files
from tests.conftest import FAST_COMPILE, ROOT
from tests.fake_bucket import Blob, FakeBucket
from tests.runtime.test_multihost import SMALL, Cluster, process_of, wait_for

# TensorFlow retries after milliseconds, and a limited number of times.
IMPATIENT = {
  'GCS_RETRY_CONFIG_INIT_DELAY_TIME_US': '1000',
  'GCS_RETRY_CONFIG_MAX_DELAY_TIME_US': '5000',
  'GCS_RETRY_CONFIG_MAX_RETRIES': '6',
}
DATA = {'data.name': 'moving_shapes', 'data.dir': 'gs://bucket/data', 'data.num_classes': 30, 'data.source': ''}
RUN = 'gs://bucket/run'


@pytest.fixture(scope='module')
def bucket(tmp_path_factory):
  """The fake; its `environment` is for processes that use it, and has an empty cache folder."""
  with FakeBucket() as bucket:
    bucket.environment |= IMPATIENT | {'XDG_CACHE_HOME': str(tmp_path_factory.mktemp('cache'))}
    yield bucket


def program(bucket, *flags, config=True, **fields):
  """Runs dvd_gan.main with the tiny config or the run's own; returns (exit code, output)."""
  flags += tuple(f'--config.{field}={value}' for field, value in (SMALL | DATA | fields).items())
  command = [sys.executable, '-m', 'dvd_gan.main', f'--workdir={RUN}', *['--config=tests/tiny.py'] * config, *flags]
  env = {**os.environ, 'XLA_FLAGS': FAST_COMPILE, **bucket.environment}
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
  return done.returncode, done.stdout + done.stderr


def logged(bucket):
  """The lines of metrics.jsonl in the bucket."""
  return [json.loads(line) for line in bucket.objects.get('bucket/run/metrics.jsonl', b'').decode().splitlines()]


def saved(bucket):
  """The steps that have a checkpoint."""
  end = '/commit_success.txt'
  names = [name for name in bucket.objects if name.startswith('bucket/run/checkpoints/') and name.endswith(end)]
  return sorted(int(step) for name in names if (step := name.removesuffix(end).rpartition('/')[2]).isdigit())


@pytest.fixture
def cluster(bucket, tmp_path, monkeypatch):
  for name, value in bucket.environment.items():
    monkeypatch.setenv(name, value)
  cluster = Cluster(tmp_path)
  yield cluster
  cluster.stop_all()
  bucket.fail_share = 0.0


def test_training_in_an_unreliable_bucket_resumes_after_a_killed_host_without_losing_steps(bucket, cluster):
  fields = DATA | {'train.checkpoint_every': 2}
  bucket.fail_share = 0.05
  first = cluster.start(2, 1, 'first', workdir=RUN, **fields | {'train.steps': 10_000})
  wait_for(lambda: saved(bucket), first, 'a checkpoint')
  os.kill(process_of(first, 1), signal.SIGKILL)
  code, output = cluster.end(first)
  assert code not in (0, 2), output
  reached, before = saved(bucket)[-1], len(bucket.log)
  code, output = cluster.run(1, 1, 'again', workdir=RUN, **fields | {'train.steps': reached + 2})
  assert code == 0 and f'resuming {RUN} at step ' in output and 'damaged' not in output, output
  assert any(request.status == 503 for request in bucket.log[before:])
  assert [line['step'] for line in logged(bucket)] == list(range(1, reached + 3))
  assert saved(bucket)[-1] == reached + 2
  # Every step is logged, but files are uploaded only at the start, at each checkpoint and at the end.
  uploads = [request.name for request in bucket.log[before:] if request.kind == 'upload' and request.status == 200]
  assert uploads.count('bucket/run/metrics.jsonl') <= 4
  events = [name for name in uploads if 'events.out.tfevents' in name]
  assert 1 <= len(events) <= 5 and len(set(events)) == 1
  bucket.fail_share = 0.0
  fields = {'eval.protocols': 'toy', 'eval.samples': 16, 'sample.num': 2}
  with futures.ThreadPoolExecutor() as pool:
    ends = pool.map(lambda mode: program(bucket, f'--mode={mode}', **fields), ('sample', 'evaluate'))
    for result, (code, output) in zip(('samples/', 'eval/toy-'), ends, strict=True):
      assert code == 0 and any(name.startswith(f'bucket/run/{result}') for name in bucket.objects), output


WINDOWS = """
import numpy as np
from dvd_gan.datasets import sources, window
from tests.tiny import get_config
config = get_config()
config.update_from_flattened_dict(FIELDS)
source = sources.open_source(config)
plan = window.plan(config, 0, np.arange(8), source.lengths)
print('opened', flush=True)
input()
print(len(plan.clip), sum(len(frame) for frames in source.encoded(plan) for frame in frames))
source.read(plan)
"""


def test_a_window_of_frames_is_one_range_request_and_the_index_is_read_only_once(bucket):
  code = WINDOWS.replace('FIELDS', repr(SMALL | DATA))
  env = {**os.environ, **bucket.environment}
  with subprocess.Popen(
    [sys.executable, '-c', code], cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == 'opened\n'
    before = len(bucket.log)
    count, size = map(int, process.communicate('\n', timeout=100)[0].split())
  reads = [request for request in bucket.log[before:] if request.kind == 'read']
  assert len(reads) == 2 * count and {request.status for request in reads} == {206}
  assert size <= sum(request.sent for request in reads) / 2 <= 1.2 * size
  # The next start uses its local copy of the index.
  assert any('index-train.npy' in request.name for request in bucket.log)
  before = len(bucket.log)
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=env, input='\n', text=True, check=True, timeout=100)
  assert not any('index-train' in request.name and request.kind == 'read' for request in bucket.log[before:])


STAGE = """
import sys
from dvd_gan.datasets import buckets
from etils import epath
paths = [epath.Path(f'gs://other/set/{name}') for name in ('a', 'b')]
copies = buckets.stage(paths, sys.argv[1])
print([copy.read_bytes() for copy in copies])
"""


def test_stage_copies_only_missing_or_changed_files_to_the_local_disk(bucket, tmp_path):
  bucket.objects |= {'other/set/a': Blob(b'first'), 'other/set/b': Blob(b'second')}

  def stage():
    before = len(bucket.log)
    command = [sys.executable, '-c', STAGE, str(tmp_path)]
    env = {**os.environ, **bucket.environment, 'JAX_PLATFORMS': 'cpu'}
    output = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=100).stdout
    assert output.splitlines()[-1] == "[b'first', b'second']"
    return output, [request.name for request in bucket.log[before:] if request.kind == 'read']

  output, read = stage()
  assert 'copying 2 of 2 files' in output and sorted(read) == ['other/set/a', 'other/set/b']
  (tmp_path / 'other' / 'set' / 'b').write_bytes(b'sec')  # of an earlier data set of that name
  (tmp_path / 'other' / 'set' / 'b.partial').write_bytes(b's')  # of an interrupted copy
  (tmp_path / 'film.partial').write_bytes(b'f')  # the user's
  assert stage()[1] == ['other/set/b'] and stage()[1] == []
  assert sorted(path.name for path in (tmp_path / 'other' / 'set').iterdir()) == ['a', 'b']
  assert (tmp_path / 'film.partial').exists()


def test_a_bucket_folder_is_listed_and_an_error_is_not_taken_for_a_missing_folder(bucket, monkeypatch):
  for name, value in bucket.environment.items():
    monkeypatch.setenv(name, value)
  files.client.cache_clear()
  bucket.objects |= {f'other/films/{name}': Blob(b'') for name in ('', 'b/', 'b/1.mp4', 'a.mp4', '.DS_Store')}
  films = epath.Path('gs://other/films')
  assert files.is_folder(films) and files.walk(films) == ['a.mp4', 'b/1.mp4']
  assert not files.is_folder(epath.Path('gs://other/film'))
  monkeypatch.setattr(bucket, 'fail_share', 1.0)
  monkeypatch.setattr(bucket, 'status', 401)
  with pytest.raises(files.errors()) as raised:
    files.is_folder(films)
  assert files.passing(raised.value)
  files.client.cache_clear()


def test_staging_more_than_the_local_disk_can_hold_is_a_usage_error(monkeypatch, tmp_path):
  monkeypatch.setattr(buckets, 'sizes', lambda paths: [10**18])
  with pytest.raises(files.UsageError, match='1000000000.0 GB are to be copied'):
    buckets.stage([epath.Path('gs://b/a')], str(tmp_path))


@pytest.mark.parametrize(
  ('status', 'exit_code', 'config'), [(503, 1, True), (503, 1, False), (401, 1, True), (403, 2, True), (403, 2, False)]
)
def test_exit_code_for_a_bucket_error_is_1_if_a_retry_may_help_and_2_otherwise(bucket, status, exit_code, config):
  bucket.fail_share, bucket.status = 1.0, status
  try:
    code, output = program(bucket, '--mode=train', config=config)
  finally:
    bucket.fail_share, bucket.status = 0.0, 503
  errors = [line for line in output.splitlines() if line.startswith('error: ')]
  assert code == exit_code and len(errors) == 1 and 'Traceback' not in output, output


def test_an_index_is_built_if_it_is_missing_but_not_if_it_cannot_be_read(monkeypatch, tmp_path, capsys):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  built = []
  monkeypatch.setattr(buckets, 'sizes', lambda paths: [100] * len(paths))
  monkeypatch.setattr(index, 'build', lambda *args: built.append(args) or index.Index(*np.zeros((4, 1), int), {}))
  monkeypatch.setattr(index, '_write', lambda *args: None)
  folder = epath.Path('gs://nowhere/data')

  def load(error):
    def read_bytes(path):
      raise error

    monkeypatch.setattr(type(folder), 'read_bytes', read_bytes)
    index.load(folder, [folder / 'a.tfrecord'], 'train')

  with pytest.raises(tf.errors.AbortedError):
    load(tf.errors.AbortedError(None, None, 'All 10 retry attempts failed'))
  assert not built
  load(FileNotFoundError())
  assert built and 'indexing 1 files of gs://nowhere/data' in capsys.readouterr().err


def test_bucket_errors_are_classified_as_passing_refused_or_neither():
  from google.api_core import exceptions

  passing = [tf.errors.AbortedError(None, None, ''), exceptions.RetryError('', None), exceptions.ServiceUnavailable('')]
  passing += [ConnectionResetError(), TimeoutError(), ValueError('ABORTED: All 8 retry attempts failed')]
  passing += [tf.errors.PermissionDeniedError(None, None, 'HTTP response code 401'), exceptions.Unauthorized('')]
  refused = [tf.errors.PermissionDeniedError(None, None, ''), exceptions.Forbidden(''), exceptions.NotFound('')]
  others = [ValueError('checksum'), OSError(28, 'No space left on device'), PermissionError()]
  assert all(files.passing(error) and not files.refused(error) for error in passing)
  assert all(files.refused(error) and not files.passing(error) for error in refused)
  assert not any(files.passing(error) or files.refused(error) for error in others)


def test_a_gs_path_without_tensorflow_is_a_usage_error(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  files.check_remote('/local')
  with pytest.raises(files.UsageError, match='gs://b/run: gs:// paths need TensorFlow'):
    files.check_remote('gs://b/run')
