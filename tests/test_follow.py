import json

import pytest

from dvd_gan import checkpoint, follow


def test_checkpoints_come_as_they_are_saved_and_are_marked_while_evaluated(config, tmp_path, monkeypatch):
  folder = tmp_path / 'checkpoints'
  (folder / '2').mkdir(parents=True)
  config.train.steps = 5
  found = follow.steps(config, tmp_path)
  assert next(found) == 2 and checkpoint.marks(tmp_path)['evaluating'] == {'step': 2}
  monkeypatch.setattr(follow.time, 'sleep', lambda seconds: (folder / '5').mkdir())
  assert list(found) == [5] and checkpoint.marks(tmp_path)['evaluating'] == {'step': 5}


def results(values, **more):
  return [(step, {'protocol': 'toy', 'samples': 600, 'value': value, **more}) for step, value in values]


@pytest.mark.parametrize(
  ('more', 'better', 'worse'), [({'frechet': {}}, [40, 25, 20], 31), ({'protocol': 'is_k600'}, [20, 30, 40], 26)]
)
def test_the_best_is_marked_and_two_bad_evaluations_running_raise_the_alarm(tmp_path, capsys, more, better, worse):
  for step, result in results(enumerate([*better, worse, better[1], worse], 1), **more):
    follow.compare(tmp_path, step, result)
    assert checkpoint.marks(tmp_path)['best']['step'] == min(step, 3)
  assert capsys.readouterr().err == ''  # the evaluation between the two bad ones was better
  for step, result in results([(7, worse)], **more):
    follow.compare(tmp_path, step, result)
  warning = capsys.readouterr().err
  assert 'warning: step 7' in warning and 'than at step 3' in warning and warning.count('\n') == 1
  assert list(tmp_path.glob('events.*'))


def test_numbers_of_another_protocol_or_count_are_not_compared(tmp_path):
  follow.compare(tmp_path, 1, {'protocol': 'toy', 'samples': 600, 'value': 10.0, 'frechet': {}})
  follow.compare(tmp_path, 2, {'protocol': 'toy', 'samples': 60, 'value': 90.0, 'frechet': {}})
  best = json.loads((tmp_path / checkpoint.MARKS).read_text())['best']
  assert (best['step'], best['samples']) == (2, 60)
