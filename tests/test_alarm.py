import json

import pytest

from dvd_gan import alarm
from tests.conftest import ROOT


def lines(count, first=0, **changed):
  """Lines of a healthy run, one every 10 steps; `changed` are metrics that differ."""
  healthy = {'disc_loss_spatial': 1.3, 'disc_loss_temporal': 1.2, 'gen_sigma_max': 3.0, 'disc_sigma_max': 2.0}
  return [{'step': 10 * (first + i + 1), **healthy, **changed} for i in range(count)]


def raised(log, clips_per_step=32):
  """(step, name, step to go back to) of every sign that is reported while a log is read line by line."""
  watch = alarm.Alarm([], clips_per_step)
  return [(line['step'], sign.name, sign.since) for line in log for sign in watch(line)]


@pytest.mark.parametrize(
  ('changed', 'name', 'within'),
  [
    ({'disc_loss_temporal': 0.05}, 'disc_loss_temporal low', 20),  # motion freezes
    ({'disc_loss_spatial': 2.0}, 'disc_loss_spatial high', 20),
    ({'gen_sigma_max': 9.1}, 'gen_sigma_max', 1),
    ({'disc_sigma_max': 30.0}, 'disc_sigma_max', 1),
  ],
)
def test_each_sign_of_collapse_is_reported_once_with_the_last_healthy_step(changed, name, within):
  log = lines(60) + lines(60, 60, **changed)
  ((step, found, since),) = raised(log)
  assert found == name and 600 < step <= 600 + 10 * within and since <= 600
  assert within > 1 or since == 600  # the last line before the change


def test_no_alarm_for_a_healthy_log_for_early_training_or_for_a_single_outlier():
  assert raised(lines(200)) == []
  assert raised(lines(25, disc_loss_spatial=2.0) + lines(50, 25)) == []  # 8,000 clips, fewer than DEAD_AFTER
  log = lines(200)
  log[150]['disc_loss_temporal'] = 0.0
  assert raised(log) == []


def test_no_alarm_if_the_temporal_loss_is_missing_before_the_run_was_resumed():
  log = lines(60)
  for line in log[:40]:
    del line['disc_loss_temporal']
  assert raised(log) == []


def test_no_alarm_for_spectral_norms_that_grow_slowly_or_stay_small():
  log = lines(300)
  for i, line in enumerate(log):
    line['gen_sigma_max'] = 1 + i / 10
  assert raised(log) == []  # growth to 31 in 3,000 steps
  assert raised(lines(60, gen_sigma_max=1.0) + lines(60, 60, gen_sigma_max=4.0)) == []


def test_a_fall_of_sample_deviation_is_reported_with_the_last_step_at_its_usual_value():
  log = lines(120)
  # Values are compared with the median, so one early outlier does not matter.
  for i, value in ((9, 90.0), (19, 50.0), (29, 52.0), (39, 48.0), (49, 47.0), (59, 30.0), (69, 20.0)):
    log[i]['sample_deviation'] = value
  assert raised(log) == [(700, 'sample_deviation', 500)]


def test_a_sign_is_reported_again_when_it_returns_but_not_when_the_run_is_resumed():
  dead, well = {'disc_loss_spatial': 2.0}, {}
  log = lines(60) + lines(40, 60, **dead) + lines(60, 100, **well) + lines(40, 160, **dead)
  assert [name for _, name, _ in raised(log)] == ['disc_loss_spatial high'] * 2
  watch = alarm.Alarm(log[:95], 32)
  assert watch(log[95]) == []


def test_the_alarm_finds_the_failed_runs_among_the_committed_logs_and_no_others():
  logs = {}
  for path in (ROOT / 'results').glob('**/metrics.jsonl'):
    if 'long_runs' in path.parts:  # only some of the lines were committed
      continue
    logs[str(path.parent.relative_to(ROOT / 'results'))] = list(map(json.loads, path.read_text().splitlines()))
  for run in map(json.loads, (ROOT / 'results' / 'proof' / 'cpu16' / 'logs.jsonl').read_text().splitlines()):
    name, columns = f'proof/cpu16/{run.pop("run")}', run.items()
    logs[name] = [{key: column[i] for key, column in columns if column[i] is not None} for i in range(len(run['step']))]
  found = {}
  for name, log in logs.items():
    train = json.loads((ROOT / 'results' / name / 'config.json').read_text())['config']['train']
    found[name] = {sign for _, sign, _ in raised(log, train['batch_size'] * train['d_steps'])}
  assert {name: signs for name, signs in found.items() if signs} == {
    'moving_shapes_fp_32/game_alone': {'disc_loss_temporal low'},  # its motion froze
    'proof/cpu16/one_d_step-1': {'disc_loss_spatial high'},  # D_S failed to separate clips for a while
    'proof/cpu16/phi_quarter-0': {'disc_loss_temporal high'},  # in 4x4 pixels D_T sees no motion
    'proof/cpu16/phi_quarter-1': {'disc_loss_temporal high'},
  }
