import pytest

from dvd_gan import checkpoint
from dvd_gan.metrics import follow


def test_follow_yields_checkpoints_as_they_are_saved_and_marks_the_one_being_evaluated(config, tmp_path, monkeypatch):
  folder = tmp_path / 'checkpoints'
  (folder / '2').mkdir(parents=True)
  (folder / '3').mkdir()  # not complete
  complete = lambda path: path.name != '3'  # noqa: E731
  monkeypatch.setattr(checkpoint, 'is_complete', complete)
  config.train.steps = 5
  found = follow.steps(config, tmp_path)
  assert next(found) == 2 and checkpoint.marks(tmp_path) == {'evaluating': {'step': 2}}
  monkeypatch.setattr(follow.time, 'sleep', lambda seconds: (folder / '5').mkdir())
  assert list(found) == [5] and checkpoint.marks(tmp_path)['evaluating'] == {'step': 5}


def results(values, **more):
  found = {'protocol': 'toy', 'samples': 600, 'truncation': 1.0, 'seed': 0, 'definition': {}, **more}
  return [(step, found | {'value': value}) for step, value in values]


def best(workdir):
  return {name: found['step'] for name, found in checkpoint.marks(workdir).items()}


@pytest.mark.parametrize(
  ('more', 'better', 'worse'), [({'frechet': {}}, [40, 25, 20], 31), ({'protocol': 'is_k600'}, [20, 30, 40], 26)]
)
def test_the_best_result_is_marked_and_two_worse_ones_in_a_row_give_a_warning(tmp_path, capsys, more, better, worse):
  for step, result in results(enumerate([*better, worse, better[1], worse], 1), **more):
    follow.compare(tmp_path, step, result)
    assert list(best(tmp_path).values()) == [min(step, 3)]
  assert capsys.readouterr().err == ''  # the evaluation between the two bad ones was better
  for step, result in results([(7, worse)], **more):
    follow.compare(tmp_path, step, result)
  warning = capsys.readouterr().err
  assert 'warning: step 7' in warning and 'than at step 3' in warning and warning.count('\n') == 1
  assert list(tmp_path.glob('events.*'))


def test_each_protocol_sample_count_truncation_and_seed_has_its_own_best_checkpoint(tmp_path):
  other = ({'samples': 60}, {'protocol': 'fvd'}, {'truncation': 0.5}, {'seed': 1})
  for step, more in enumerate(({}, *other), 1):
    for _, result in results([(step, 10.0 * step)], frechet={}, **more):
      follow.compare(tmp_path, step, result)
  assert best(tmp_path) == {
    'best-toy-600-1.0-0': 1,
    'best-toy-60-1.0-0': 2,
    'best-fvd-600-1.0-0': 3,
    'best-toy-600-0.5-0': 4,
    'best-toy-600-1.0-1': 5,
  }
