import numpy as np
import pytest

from dvd_gan import interpolation, sample
from dvd_gan.runtime.errors import UsageError

NAMES = ('a', 'b', 'c')


@pytest.fixture
def walks(sampler, config):
  """(kind, classes, count) -> videos and the class of each frame, at seed 3 and truncation 0.7."""
  standing = sampler.standing(0.7)
  opened = sample.Opened(1, sampler, {0.7: standing}, '', NAMES)

  def call(kind, classes, count):
    config.sample.update(interpolate=kind, classes=classes, num=count, seed=3)
    return interpolation.walks(config, opened, 0.7)

  call.samples = lambda labels: sampler.videos(standing, np.array(labels), truncation=0.7, seed=3).astype(int)
  call.draw = lambda z, label: np.asarray(sampler.draw(standing, 0.7 * z[None], np.array([label])))[0].astype(int)
  call.latent = sampler.latent
  return call


def test_a_latent_walk_begins_at_a_sample_and_returns_to_it(walks):
  videos, names = walks('latent', (2, 0), 2)
  assert videos.shape == (2, 40, 16, 16, 3) and videos.dtype == np.uint8  # 8 clips of 5 frames
  assert names == [['c'] * 40, ['a'] * 40]
  assert abs(videos[:, 0] - walks.samples([2, 0])[:, 0]).max() <= 1
  half, quarter = (walks.draw(z, 2) for z in (-walks.latent(3, 0), walks.latent(3, 0, part=1)))
  assert abs(videos[0, 20] - half[0]).max() <= 1 and abs(videos[0, 10] - quarter[0]).max() <= 1
  # Compare the first frames of the clips: the change from the last clip to the first is not much larger than others.
  first = videos[0, ::5].astype(int)
  steps = abs(np.diff(np.concatenate([first, first[:1]]), axis=0)).mean(axis=(1, 2, 3))
  assert steps.min() > 0 and steps[-1] < 2 * steps[:-1].max()


def test_a_class_walk_shows_an_unchanged_sample_of_each_class(walks):
  videos, names = walks('class', (1, 0, 2), 2)
  assert videos.shape == (2, 30, 16, 16, 3)
  for leg, label in enumerate((1, 0, 2)):
    assert abs(videos[:, 10 * leg : 10 * leg + 5] - walks.samples([label, label])).max() <= 1
  assert names == 2 * [['b'] * 8 + ['a'] * 10 + ['c'] * 10 + ['b'] * 2]
  # Between two classes a frame differs from the frame of the same index in the sample.
  between, here = videos[0, 6].astype(int), walks.samples([1])[0, 1]
  assert abs(between - here).max() > 1


def test_a_class_walk_needs_two_classes_and_uses_all_by_default(walks):
  with pytest.raises(UsageError, match='two classes'):
    walks('class', (1, 1), 1)
  assert len(walks('class', (), 1)[0][0]) == 30  # all three classes by default
