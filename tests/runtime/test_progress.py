import os
import subprocess
import sys
import termios

import pytest

from dvd_gan.runtime import progress
from tests.conftest import ROOT

METRICS = dict.fromkeys(progress.LOSSES.values(), 1.2345)


@pytest.fixture
def clock(monkeypatch):
  """Replaces the clock by one that advances 10 s at each reading."""
  now = [0.0]

  def look():
    now[0] += 10
    return now[0]

  monkeypatch.setattr(progress.time, 'monotonic', look)
  monkeypatch.setattr('tqdm.std.time', look)
  return now


def test_the_progress_line_in_a_log_can_be_parsed_by_tpu_worker_sh(clock, capsys, tmp_path):
  steps = progress.Steps(1, 2000, 16, {'samples': 500, 'checkpoint': 0, 'end': 2000})
  steps.show(3, METRICS, 1.0)
  steps.show(1042, METRICS, 2.0, force=True)
  out = capsys.readouterr()
  assert 'samples     step 500, in ' in out.out and 'end         step 2000, in ' in out.out
  assert 'checkpoint' not in out.out  # 0 means none
  assert all(line.startswith('step ') for line in out.err.splitlines())
  run = tmp_path / 'dvd_gan_pod' / 'runs' / 'one'
  run.mkdir(parents=True)
  (run / 'log').write_text(out.err)
  (run / 'exit_code').write_text('0')
  (tmp_path / 'dvd_gan_pod' / 'newest').write_text('one')
  command = ['bash', ROOT / 'launch' / 'tpu_worker.sh', 'status', 'commit']
  status = subprocess.run(
    command, env={**os.environ, 'HOME': str(tmp_path)}, capture_output=True, text=True, check=True
  )
  fields = status.stdout.split('|')
  assert fields[6] == '1042' and fields[7].startswith('step 1042/2000  ')


def test_progress_fits_on_one_line_of_an_80_column_terminal(clock, monkeypatch):
  reading, writing = os.openpty()
  termios.tcsetwinsize(writing, (24, 80))
  with os.fdopen(writing, 'w') as terminal:
    monkeypatch.setattr(sys, 'stderr', terminal)
    steps = progress.Steps(1, 30_000, 16, {})
    for step in (10_000, 12_000, 12_345):  # a smaller increment than the one before is shown as well
      steps.show(step, METRICS, 40.0, force=True)
    shown = os.read(reading, 65536).decode()
    steps.close()
  os.close(reading)
  assert '\n' not in shown and max(map(len, shown.split('\r'))) <= 80
  last = shown.split('\r')[-1]
  for word in ('step 12345/30000', 'steps/s', 'left', 'D 1.23 1.23 G 1.23 1.23', ' wait '):
    assert word in last


def test_pace_is_measured_since_the_previous_call(clock):
  steps = progress.Steps(0, 100, 16, {})
  assert steps.pace(0, 0.0) == {}
  assert steps.pace(20, 5.0) == {'steps_per_s': 2.0, 'clips_per_s': 32.0, 'input_wait': 0.5}
  assert steps.pace(30, 5.0) == {'steps_per_s': 1.0, 'clips_per_s': 16.0, 'input_wait': 0.0}


def test_durations_are_printed_with_at_most_two_units():
  assert [progress.span(s) for s in (0, 59.7, 3600, 90061)] == ['0 s', '1 m 0 s', '1 h 0 m', '1 d 1 h']
