import subprocess
import sys

import numpy as np
import pytest

from dvd_gan.datasets import shapes
from tests.conftest import ROOT


def test_a_clip_is_determined_by_seed_and_index():
  first, label = shapes.draw(0, 7, frames=4, size=16)
  again, _ = shapes.draw(0, 7, frames=4, size=16)
  other, _ = shapes.draw(1, 7, frames=4, size=16)
  assert first.dtype == np.uint8 and first.shape == (4, 16, 16, 3) and label == 7
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_the_30_classes_are_balanced():
  _, labels = shapes.draw_many(0, 60, frames=1, size=8)
  assert len(shapes.CLASSES) == 30 and (np.bincount(labels) == 2).all()


def _centres(video):
  """The shape's centre in each frame, as (x, y) in pixels, and its area."""
  background = video[:, :1, :1].astype(int)
  cover = abs(video.astype(int) - background).sum(-1)
  cover = cover / cover.max()
  grid = np.arange(video.shape[1])
  total = cover.sum((1, 2))
  return (cover.sum(1) @ grid) / total, (cover.sum(2) @ grid) / total, total


@pytest.mark.parametrize('motion', range(len(shapes.MOTIONS)))
def test_each_motion_changes_position_or_size_as_its_name_states(motion):
  name = shapes.MOTIONS[motion]
  video, _ = shapes.draw(3, motion, frames=20, size=64)  # a circle
  x, y, area = (values.max() - values.min() for values in _centres(video))
  size = _centres(video)[2].mean()
  assert (x > 4) == (name in ('left-right', 'orbit'))
  assert (y > 4) == (name in ('up-down', 'orbit'))
  assert (area > 0.3 * size) == (name == 'zoom')


def test_the_shape_is_visible_in_every_frame():
  video, _ = shapes.draw_many(0, 300, frames=20, size=24)
  edge = np.concatenate([video[:, :, 0], video[:, :, -1], video[:, :, :, 0], video[:, :, :, -1]], 2)
  centre_seen = abs(video.astype(int) - edge[:, :, :1, None].astype(int)).max((2, 3, 4)) > 40
  assert centre_seen.all()


def test_the_shapes_command_writes_an_array_file(tmp_path):
  out = tmp_path / 'clips.npz'
  command = [sys.executable, '-m', 'dvd_gan.datasets.shapes', f'--out={out}', '--clips=6', '--frames=4', '--size=16']
  subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
  with np.load(out) as arrays:
    np.testing.assert_array_equal(arrays['video'], shapes.draw_many(0, 6, frames=4, size=16)[0])
    assert arrays['label'].tolist() == list(range(6))
