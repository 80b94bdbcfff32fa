import numpy as np

from dvd_gan.datasets import window

LENGTHS = np.array([5, 9, 30, 6, 7])


def _plans(config, steps, rows=None):
  rows = np.arange(config.train.batch_size) if rows is None else rows
  plans = [window.plan(config, step, rows, LENGTHS) for step in steps]
  return window.Plan(*(np.concatenate(field) for field in zip(*plans, strict=True)))


def test_the_plans_of_two_hosts_together_equal_the_plan_of_one(config):
  whole = window.plan(config, 3, np.arange(8), LENGTHS)
  parts = [window.plan(config, 3, np.arange(4 * host, 4 * host + 4), LENGTHS) for host in range(2)]
  for field, pieces in zip(whole, zip(*parts, strict=True), strict=True):
    joined = np.concatenate([piece.reshape(2, 4, -1) for piece in pieces], axis=1)
    np.testing.assert_array_equal(field.reshape(2, 8, -1), joined)


def test_every_clip_occurs_once_per_epoch_in_an_order_that_changes(config):
  clips = _plans(config, range(20)).clip  # 20 * 2 * 8 samples = 64 epochs of 5
  epochs = clips.reshape(-1, 5)
  assert (np.sort(epochs, 1) == np.arange(5)).all()
  assert len({tuple(epoch) for epoch in epochs}) > 30


def test_windows_lie_within_their_clips_and_use_every_possible_start(config):
  config.data.frames, config.data.stride = 3, 2
  plans = _plans(config, range(60))
  assert (plans.start >= 0).all()
  assert (plans.start + window.span(3, 2) <= LENGTHS[plans.clip]).all()
  assert set(plans.start[plans.clip == 3]) == {0, 1}
  assert set(plans.start[plans.clip == 0]) == {0}


def test_about_half_of_the_windows_are_flipped_if_data_flip_is_set_and_none_otherwise(config):
  assert not _plans(config, range(5)).flip.any()
  config.data.flip = True
  assert 0.3 < _plans(config, range(20)).flip.mean() < 0.7


def test_the_d_steps_of_one_step_read_different_clips(config):
  first, second = window.plan(config, 0, np.arange(8), np.full(100, 9)).clip.reshape(2, 8)
  assert not set(first) & set(second)


def test_step_one_million_can_be_planned_directly(config):
  late = window.plan(config, 10**6, np.arange(8), LENGTHS)
  assert late.clip.shape == (16,)


def test_the_seed_changes_the_order_of_clips(config):
  before = _plans(config, range(5)).clip
  config.seed = 1
  assert not np.array_equal(before, _plans(config, range(5)).clip)
