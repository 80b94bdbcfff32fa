import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import augment

SIZE = 16


@pytest.fixture(scope='module')
def video():
  """Six clips of four frames."""
  return jax.random.uniform(jax.random.key(0), (6, 4, SIZE, SIZE, 3), minval=-1.0)


def changed(video, *kinds, seed=1):
  draws = augment.draw(jax.random.key(seed), len(video), SIZE, kinds)
  return np.asarray(augment.apply(draws, video)), jax.device_get(draws)


def test_without_augmentation_kinds_nothing_is_drawn_and_the_video_is_unchanged(video):
  same, draws = changed(video)
  assert draws == {}
  np.testing.assert_array_equal(same, video)


@pytest.mark.parametrize('kind', augment.KINDS)
def test_augmentation_is_equal_for_all_frames_of_a_clip_and_differs_between_clips(video, kind):
  still = jnp.broadcast_to(video[:1, :1], video.shape)
  out, _ = changed(still, kind)
  np.testing.assert_allclose(out, np.broadcast_to(out[:, :1], out.shape), atol=1e-6)
  assert len({clip.tobytes() for clip in out}) > 3


@pytest.mark.parametrize('kind', augment.KINDS)
def test_each_augmentation_is_affine_and_its_derivative_matches_its_difference(video, kind):
  """Each augmentation is affine in the clip, so its directional derivative equals a finite difference."""
  draws = augment.draw(jax.random.key(1), len(video), SIZE, (kind,))
  direction = jax.random.normal(jax.random.key(2), video.shape)
  before, derivative = jax.jvp(lambda x: augment.apply(draws, x), (video,), (direction,))
  np.testing.assert_allclose(augment.apply(draws, video + direction) - before, derivative, atol=1e-4)
  assert abs(derivative).mean() > 0.3


def test_translation_moves_pixels_and_fills_with_grey(video):
  out, draws = changed(video, 'translation')
  for clip, moved, (down, right) in zip(np.asarray(video), out, draws['translation'], strict=True):
    padded = np.pad(clip, ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = padded[:, 2 - down : 2 - down + SIZE, 2 - right : 2 - right + SIZE]
    np.testing.assert_array_equal(moved, expected)


def test_translation_is_uniform_up_to_an_eighth_of_the_side():
  shifts = np.asarray(augment.draw(jax.random.key(0), 5000, SIZE, ('translation',))['translation'])
  for axis in range(2):
    values, counts = np.unique(shifts[:, axis], return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2] and counts.min() > 900


def test_cutout_greys_a_square_of_half_the_side_at_any_position(video):
  out, draws = changed(video, 'cutout')
  for clip, cut, (top, left) in zip(np.asarray(video), out, draws['cutout'], strict=True):
    expected = clip.copy()
    expected[:, max(top, 0) : top + 8, max(left, 0) : left + 8] = 0
    np.testing.assert_array_equal(cut, expected)
  corners = np.asarray(augment.draw(jax.random.key(0), 5000, SIZE, ('cutout',))['cutout'])
  assert corners.min() == -4 and corners.max() == 12


def test_colour_changes_brightness_saturation_and_contrast_of_a_whole_clip(video):
  out, draws = changed(video, 'colour')
  for clip, coloured, (brightness, saturation, contrast) in zip(np.asarray(video), out, draws['colour'], strict=True):
    expected = clip + brightness
    grey = expected.mean(-1, keepdims=True)
    expected = grey + saturation * (expected - grey)
    expected = expected.mean() + contrast * (expected - expected.mean())
    np.testing.assert_allclose(coloured, expected, atol=1e-5)
  drawn = np.asarray(augment.draw(jax.random.key(0), 5000, SIZE, ('colour',))['colour'])
  np.testing.assert_allclose(drawn.min(0), [-0.5, 0, 0.5], atol=0.01)
  np.testing.assert_allclose(drawn.max(0), [0.5, 2, 1.5], atol=0.01)
