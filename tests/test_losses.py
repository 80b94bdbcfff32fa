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
