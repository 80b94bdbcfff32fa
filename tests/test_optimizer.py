import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dvd_gan import optimizer


@pytest.mark.parametrize('b1', [0.0, 0.5])
def test_updates_match_optax_adam_and_no_first_moment_is_stored_without_momentum(b1):
  ours, theirs = optimizer.adam(1e-3, b1, 0.999), optax.adam(1e-3, b1=b1, b2=0.999)
  params = {'w': jnp.array([1.0, -2.0, 3.0])}
  a, b = ours.init(params), theirs.init(params)
  for i in range(3):
    grads = {'w': jnp.array([0.1, -0.5, 2.0]) * (i + 1)}
    (ua, a), (ub, b) = ours.update(grads, a, params, step=i), theirs.update(grads, b, params)
    np.testing.assert_allclose(ua['w'], ub['w'], rtol=1e-5)
  saved = sum(leaf.size for leaf in jax.tree.leaves(b)) - sum(leaf.size for leaf in jax.tree.leaves(a))
  assert (saved >= 3) == (b1 == 0)


def test_the_learning_rate_is_constant_then_falls_linearly_and_is_0_only_after_the_last_step():
  constant, falling = optimizer.adam(0.1, 0.0, 0.999), optimizer.adam(0.1, 0.0, 0.999, 6, 10)
  params, grads = {'w': jnp.ones(2)}, {'w': jnp.array([1.0, -3.0])}
  state = constant.init(params)
  # A resumed run may add decay, because the optimizer state has the same structure.
  assert jax.tree.structure(state) == jax.tree.structure(falling.init(params))
  whole = constant.update(grads, state, params, step=0)[0]['w']
  factors = [falling.update(grads, state, params, step=step)[0]['w'] / whole for step in range(11)]
  np.testing.assert_allclose(factors, np.outer([1] * 7 + [0.75, 0.5, 0.25, 0], [1, 1]), atol=1e-6)


def test_a_learning_rate_decay_that_begins_after_the_last_step_has_no_effect():
  params, grads = {'w': jnp.ones(2)}, {'w': jnp.array([1.0, -3.0])}
  for decay in ((0, 0), (10, 10), (12, 10)):
    opt = optimizer.adam(0.1, 0.0, 0.999, *decay)
    updates = opt.update(grads, opt.init(params), params, step=9)[0]['w']
    np.testing.assert_allclose(updates, [-0.1, 0.1], rtol=1e-4)
