import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan.models import attention


def _setup(module, x, gain):
  params = module.init(jax.random.key(0), x)['params']

  def fill(path, leaf):
    return (
      jnp.float32(gain) if path[-1].key == 'gain' else 0.4 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    )

  return {'params': jax.tree_util.tree_map_with_path(fill, params)}


def test_attention_is_the_identity_at_initialisation():
  x = jax.random.normal(jax.random.key(1), (2, 3, 4, 5, 16))
  module = attention.SeparableAttention()
  params = module.init(jax.random.key(0), x)
  np.testing.assert_array_equal(module.apply(params, x), x)


@pytest.mark.parametrize('name', ['height', 'width', 'time'])
def test_axis_attention_matches_the_formula_along_its_axis(name):
  x = jax.random.normal(jax.random.key(1), (2, 3, 4, 5, 16))
  axis = attention.AXES[name]
  module = attention.AxisAttention(axis)
  variables = _setup(module, x, gain=0.7)
  out = np.asarray(module.apply(variables, x))
  q, k, v = (np.asarray(variables['params'][part]['kernel'], np.float64) for part in ('query', 'key', 'value'))
  lines = np.moveaxis(np.asarray(x, np.float64), axis, 3)
  expected = np.empty_like(lines)
  for place in np.ndindex(lines.shape[:3]):
    line = lines[place]  # [L, C]
    logits = (line @ q) @ (line @ k).T
    weights = np.exp(logits - logits.max(1, keepdims=True))
    expected[place] = line + 0.7 * (weights / weights.sum(1, keepdims=True)) @ (line @ v)
  np.testing.assert_allclose(np.moveaxis(out, axis, 3), expected, atol=1e-4)


def test_separable_attention_connects_an_output_pixel_to_every_input_pixel():
  x = jax.random.normal(jax.random.key(1), (1, 3, 4, 4, 8))
  module = attention.SeparableAttention()
  variables = _setup(module, x, gain=1.0)
  reach = jax.grad(lambda x: module.apply(variables, x)[0, 2, 3, 3].sum())(x)
  assert (jnp.abs(reach).sum(-1) > 0).all()


def test_attention_query_and_key_have_an_eighth_of_the_channels():
  x = jnp.zeros((1, 3, 4, 4, 32))
  params = attention.AxisAttention(2).init(jax.random.key(0), x)['params']
  assert params['query']['kernel'].shape == (32, 4) == params['key']['kernel'].shape
  assert params['value']['kernel'].shape == (32, 32)
