"""Counts the requests of a training run to a bucket, in the log of the tests' fake of Cloud Storage.

python results/scripts/bucket_requests.py OLD_CLONE     # writes results/input/bucket.json

OLD_CLONE is a clone at the commit to compare with (8f9ba5d: TensorFlow reads blocks of a MiB). moving_shapes at 64
pixels, 12 frames of 250. The model is tiny, because only requests are counted. Both runs read the same windows.
"""

import collections
import importlib
import os
import subprocess
import sys
import tempfile

import measured  # beside this script

STEPS, EVERY, BATCH = 60, 30, 8  # checkpoints at 30 and 60
FIELDS = {
  'data.dir': 'gs://bucket/data', 'data.clips': 60, 'data.resolution': 64, 'data.frames': 12, 'train.batch_size': BATCH,
  'gen.ch': 1, 'gen.multipliers': '(2,2,2,1,1)', 'gen.attention': '()', 'disc.ch': 1, 'disc.multipliers': '(1,1,1)',
  'disc.pool': 8, 'disc.frames_k': 1, 'sample.num': 2, 'sample.batch_size': 2, 'sample.statistics_batches': 1,
  'sample.statistics_batch_size': 2, 'train.log_every': 1, 'train.checkpoint_every': EVERY, 'train.sample_every': EVERY,
}  # fmt: skip


def run(clone: str) -> dict[str, float | str]:
  """Trains with its own bucket and counts the run's requests after the data set is prepared."""
  sys.path.append(str(measured.ROOT))
  with importlib.import_module('tests.fake_bucket').FakeBucket() as bucket:
    cache = tempfile.mkdtemp()
    env = os.environ | bucket.environment | {'PYTHONPATH': clone, 'JAX_PLATFORMS': 'cpu', 'XDG_CACHE_HOME': cache}
    flags = [f'--config.{field}={value}' for field, value in FIELDS.items()]

    def train(steps: int) -> None:
      command = [sys.executable, '-m', 'dvd_gan.main', '--config=default', '--workdir=gs://bucket/run', *flags]
      subprocess.run([*command, f'--config.train.steps={steps}'], cwd=clone, env=env, check=True, capture_output=True)

    train(1)  # prepares the data set
    before = len(bucket.log)
    train(1 + STEPS)
    log = [request for request in bucket.log[before:] if request.status < 300]
    windows = 2 * BATCH * STEPS  # two D steps
    data = [request for request in log if request.kind == 'read' and '.tfrecord' in request.name]
    rest = [request for request in log if request not in data and request.kind == 'read']
    uploads = collections.Counter(
      'events' if 'events.out' in request.name else request.name.rpartition('/')[2]
      for request in log if request.kind == 'upload'
    )  # fmt: skip
    return {
      'commit': measured.commit(clone),
      'windows': windows,
      'requests_per_window': len(data) / windows,
      'kilobytes_per_window': sum(request.sent for request in data) / windows / 1000,
      'other_reads': len(rest),
      'uploads_of_metrics': uploads['metrics.jsonl'],
      'uploads_of_events': uploads['events'],
      'steps': STEPS,
      'checkpoints': STEPS // EVERY,
    }


if __name__ == '__main__':
  clones = str(measured.ROOT), sys.argv[1]
  measured.save(measured.ROOT / 'results' / 'input' / 'bucket.json', [run(clone) for clone in clones])
