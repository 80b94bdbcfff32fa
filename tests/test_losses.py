import jax
import jax.numpy as jnp
import pytest

from dvd_gan import losses


def test_discriminator_hinge_loss_matches_a_hand_computation():
  real, fake = {'spatial': jnp.array([2.0, 0.5])}, {'spatial': jnp.array([-3.0, 0.25])}
  # relu(1 - 2) = 0, relu(1 - 0.5) = 0.5; relu(1 - 3) = 0, relu(1 + 0.25) = 1.25
  assert losses.hinge_disc(real, fake)['spatial'] == pytest.approx(0.25 + 0.625)


def test_generator_loss_is_the_negative_mean_score():
  assert losses.hinge_gen({'temporal': jnp.array([2.0, -6.0])})['temporal'] == pytest.approx(2.0)


def test_gradients_raise_real_and_lower_fake_scores_in_d_and_raise_fake_scores_in_g():
  total = lambda real, fake: losses.hinge_disc({'d': real}, {'d': fake})['d']  # noqa: E731
  real, fake = jax.grad(total, (0, 1))(jnp.array([0.0, 5.0]), jnp.array([0.0, -5.0]))
  assert real.tolist() == [-0.5, 0] and fake.tolist() == [0.5, 0]  # no gradient beyond the margin
  assert jax.grad(lambda fake: losses.hinge_gen({'d': fake})['d'])(jnp.array([3.0, 3.0])).tolist() == [-0.5, -0.5]


def test_lecam_penalises_real_scores_above_the_fake_average_and_fake_scores_below_the_real_one():
  real, fake = {'a': jnp.array([0.5, -2.0])}, {'a': jnp.array([-1.0, 3.0])}
  means = {'real': {'a': 0.2}, 'fake': {'a': -0.1}}
  # The penalty is the squared distance of real scores above the fake average and of fake ones below the real average.
  expected = (0.6**2 + 0) / 2 + (1.2**2 + 0) / 2
  assert float(losses.lecam(real, fake, means)) == pytest.approx(expected)
  assert float(losses.lecam(real | {'b': real['a']}, fake | {'b': fake['a']},
                            {side: one | {'b': one['a']} for side, one in means.items()})) == pytest.approx(2 * expected)  # fmt: skip


def test_score_averages_move_by_a_hundredth_of_the_difference():
  means = {'real': {'a': jnp.float32(1)}, 'fake': {'a': jnp.float32(-1)}}
  moved = losses.moved_means(means, {'score_real_a': 3.0, 'score_fake_a': -2.0})
  assert float(moved['real']['a']) == pytest.approx(1.02) and float(moved['fake']['a']) == pytest.approx(-1.01)
