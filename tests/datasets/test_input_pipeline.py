"""Tests of the tf.data pipeline: equal bytes on any number of hosts and after a resume, and clean exits in mid-read."""

import gc
import os
import signal
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf

from dvd_gan import sharding
from dvd_gan.datasets import input_pipeline, window
from tests.conftest import ROOT
from tests.datasets.clips import batch, open_files

ROWS = np.arange(8)


def same(one, other):
  assert one.keys() == other.keys()
  for name, value in one.items():
    np.testing.assert_array_equal(value, other[name])


def test_batches_are_equal_on_1_2_and_4_hosts_and_after_a_resume(prepared):
  config, source = prepared.config, prepared.source
  batches = list(input_pipeline.host_batches(config, source, range(3), ROWS))
  assert len(batches) == 3
  same(batches[2], batch(config, source, 2))
  for hosts in (2, 4):
    parts = [batch(config, source, 2, rows) for rows in np.split(ROWS, hosts)]
    for name, value in batches[2].items():
      np.testing.assert_array_equal(value, np.concatenate([part[name] for part in parts], axis=1))


@pytest.mark.parametrize('threads', [1, 3])
def test_a_batch_holds_the_windows_of_its_plan(prepared, threads):
  config = prepared.config.copy_and_resolve_references()
  config.data.threads, config.data.flip = threads, True
  video, label = prepared.source.read(window.plan(config, 10**6, ROWS, prepared.source.lengths))
  got = batch(config, prepared.source, 10**6)
  assert got['video'].dtype == np.uint8 and got['label'].dtype == np.int32
  same(got, {'video': video.reshape(2, 8, 5, 16, 16, 3), 'label': label.reshape(2, 8)})


def test_batches_are_sharded_over_the_devices_and_end_after_the_last_step(prepared):
  mesh = sharding.make_mesh()
  batches = input_pipeline.Batches(prepared.config, prepared.source, mesh, 1)
  got = list(batches)
  batches.close()
  assert len(got) == prepared.config.train.steps - 1 and batches.waited > 0
  for name, value in batch(prepared.config, prepared.source, 1).items():
    np.testing.assert_array_equal(got[0][name], value)
    assert got[0][name].sharding.is_equivalent_to(sharding.train_batch(mesh), value.ndim)


def test_a_smaller_ram_limit_prefetches_fewer_batches_with_the_same_content(prepared, monkeypatch):
  config = prepared.config.copy_and_resolve_references()
  kept, prefetch = [], tf.data.Dataset.prefetch
  monkeypatch.setattr(tf.data.Dataset, 'prefetch', lambda self, size: kept.append(size) or prefetch(self, size))
  config.data.prefetch = 50
  size = 2 * 8 * 5 * 16 * 16 * 3
  for config.data.ram_gib in (1e-9, 7.5 * size / 2**30, 8.0):
    same(batch(config, prepared.source), batch(prepared.config, prepared.source))
  assert kept[::2] == [1, 6, 50]


def test_an_error_in_the_reading_code_is_raised_unchanged(prepared, monkeypatch):
  monkeypatch.setattr(prepared.source, 'read', lambda plan: plan.nothing)
  with pytest.raises(AttributeError, match="'Plan' object has no attribute 'nothing'"):
    batch(prepared.config, prepared.source)


def test_a_source_is_garbage_collected_after_its_batches_are_closed(prepared):
  """TensorFlow keeps every function that was passed to `numpy_function` alive."""
  source = open_files(prepared.config, prepared.folder, prepared.files)
  alive = weakref.ref(source)
  batches = input_pipeline.host_batches(prepared.config, source, range(9), ROWS)
  next(batches)
  batches.close()
  del source, batches
  gc.collect()
  assert alive() is None


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts without it
import numpy as np
from dvd_gan.datasets import catalog, input_pipeline, record_files
from dvd_gan.runtime import app, preemption
from tests.tiny import get_config
config = get_config()
config.data.num_classes, config.data.dir = 30, sys.argv.pop()
source = catalog.open_records(config)
read = record_files.read_bytes
def slow(*arguments):
  time.sleep(0.02)
  return read(*arguments)
record_files.read_bytes = slow
def start(step):
  batches = input_pipeline.host_batches(config, source, range(step, sys.maxsize), np.arange(8))
  next(batches)
  return batches
for step in range(20):
  start(step).close()
batches = start(20)
def rest(_=None):
  print('reading', flush=True)
  while True:
    next(batches)
"""

HANGS = """
stop = preemption.StopSignal()
stop.nothing_to_save = False
record_files.read_bytes = lambda *_: time.sleep(1000)
rest()
"""

GONE = """
def gone(*_):
  raise OSError(5, 'Input/output error')
record_files.read_bytes, record_files.WAITS = gone, ()
sys.argv.append('--config=configs/default.py')
app.run(rest)
"""


@pytest.mark.parametrize(
  ('end', 'signals', 'code', 'message'),
  [
    ("print('reading', flush=True); sys.exit(7)", [], 7, ''),
    ('rest()', [signal.SIGINT], -signal.SIGINT, 'KeyboardInterrupt'),
    (HANGS, [signal.SIGTERM, signal.SIGTERM], 1, ''),
    (GONE, [], 1, 'error: [Errno 5] Input/output error'),
  ],
  ids=['its last line', 'Ctrl-C', 'a disk that hangs', 'a disk that is gone'],
)
def test_a_program_that_stops_in_mid_read_exits_with_the_right_code_and_message(prepared, end, signals, code, message):
  """Twenty pipelines are started and closed first."""
  program = [sys.executable, '-c', PROGRAM + end, prepared.config.data.dir]
  env = {**os.environ, 'TF_ENABLE_ONEDNN_OPTS': '0'}  # with oneDNN, TensorFlow logs a line on some processors
  process = subprocess.Popen(program, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  try:
    assert process.stdout.readline() == 'reading\n', process.stderr.read()
    for number in signals:
      time.sleep(1.5)  # the prefetched batches are used up; two signals within a second count as one
      assert process.poll() is None
      process.send_signal(number)
    _, errors = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == code and (errors.splitlines() or [''])[-1] == message, errors
  assert 'Traceback' not in errors or message == 'KeyboardInterrupt', errors
