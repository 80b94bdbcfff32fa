import jax
import jax.numpy as jnp
import pytest

from dvd_gan import losses


def test_discriminator_hinge_by_hand():
  real, fake = {'spatial': jnp.array([2.0, 0.5])}, {'spatial': jnp.array([-3.0, 0.25])}
  # relu(1 - 2) = 0, relu(1 - 0.5) = 0.5; relu(1 - 3) = 0, relu(1 + 0.25) = 1.25
  assert losses.hinge_disc(real, fake)['spatial'] == pytest.approx(0.25 + 0.625)


def test_generator_loss_by_hand():
  assert losses.hinge_gen({'temporal': jnp.array([2.0, -6.0])})['temporal'] == pytest.approx(2.0)


def test_gradients_push_real_up_fake_down_and_the_generators_fakes_up():
  total = lambda real, fake: losses.hinge_disc({'d': real}, {'d': fake})['d']  # noqa: E731
  real, fake = jax.grad(total, (0, 1))(jnp.array([0.0, 5.0]), jnp.array([0.0, -5.0]))
  assert real.tolist() == [-0.5, 0] and fake.tolist() == [0.5, 0]  # nothing beyond the margin
  assert jax.grad(lambda fake: losses.hinge_gen({'d': fake})['d'])(jnp.array([3.0, 3.0])).tolist() == [-0.5, -0.5]


def test_lecam_bounds_scores_by_the_other_sides_average():
  real, fake = {'a': jnp.array([0.5, -2.0])}, {'a': jnp.array([-1.0, 3.0])}
  means = {'real': {'a': 0.2}, 'fake': {'a': -0.1}}
  # Real scores above the fakes' average, and fakes' scores below the real clips', cost their squared distance.
  expected = (0.6**2 + 0) / 2 + (1.2**2 + 0) / 2
  assert float(losses.lecam(real, fake, means)) == pytest.approx(expected)
  assert float(losses.lecam(real | {'b': real['a']}, fake | {'b': fake['a']},
                            {side: one | {'b': one['a']} for side, one in means.items()})) == pytest.approx(2 * expected)  # fmt: skip


def test_averages_of_scores_move_by_a_hundredth():
  means = {'real': {'a': jnp.float32(1)}, 'fake': {'a': jnp.float32(-1)}}
  moved = losses.moved_means(means, {'score_real_a': 3.0, 'score_fake_a': -2.0})
  assert float(moved['real']['a']) == pytest.approx(1.02) and float(moved['fake']['a']) == pytest.approx(-1.01)
