"""Compares the layers with Flax and autodiff."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan.models.ops import layers


def filled(shape, seed, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@pytest.mark.parametrize(
  ('ours', 'theirs', 'shape'),
  [
    (layers.Conv(5, 3), nn.Conv(5, (3, 3), padding='SAME'), (2, 3, 6, 4, 7)),
    (layers.Conv(9, 3), nn.Conv(9, (3, 3), padding='SAME'), (2, 3, 6, 4, 7)),  # more channels out than in
    (layers.Conv(5, 3), nn.Conv(5, (3, 3), padding='SAME'), (2, 3, 2, 2, 7)),  # maps smaller than the kernel
    (layers.Conv(5, 3), nn.Conv(5, (3, 3), padding='SAME'), (2, 3, 1, 2, 7)),
    (layers.Conv(5, 5), nn.Conv(5, (5, 5), padding='SAME'), (2, 3, 3, 2, 7)),
    (layers.Conv(5, 1), nn.Conv(5, (1, 1), padding='SAME'), (2, 3, 6, 4, 7)),
    (layers.Dense(5), nn.Dense(5), (2, 3, 7)),
    (layers.Dense(5, use_bias=False), nn.Dense(5, use_bias=False), (2, 7)),
  ],
)
def test_conv_and_dense_values_and_gradients_match_flax(ours, theirs, shape):
  x = filled(shape, 0)
  shapes = jax.tree.map(jnp.shape, theirs.init(jax.random.key(0), x))
  assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == shapes
  params = jax.tree.map(lambda shape: filled(shape, 1), shapes, is_leaf=lambda node: isinstance(node, tuple))
  weight = filled(ours.apply(params, x).shape, 2)

  def loss(module, params, x):
    return (module.apply(params, x) * weight).sum()

  for a, b in zip(
    jax.tree.leaves(jax.value_and_grad(lambda *args: loss(ours, *args), (0, 1))(params, x)),
    jax.tree.leaves(jax.value_and_grad(lambda *args: loss(theirs, *args), (0, 1))(params, x)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'module', [layers.Conv(4, 3, jnp.bfloat16), layers.Conv(4, 1, jnp.bfloat16), layers.Dense(4, dtype=jnp.bfloat16)]
)
def test_parameter_gradients_of_bfloat16_layers_are_summed_in_float32(module):
  """The kernel's gradient has 16,384 addends of 0.005: a sum in bfloat16 would stop growing at 2."""
  x = jnp.full((16, 32, 32, 2), 0.01)
  params = module.init(jax.random.key(0), x)
  grads = jax.grad(lambda p: (module.apply(p, x).astype(jnp.float32) * 0.5).sum())(params)['params']
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
  assert module.apply(params, x).dtype == jnp.bfloat16
  np.testing.assert_allclose(grads['bias'], 0.5 * 16 * 32 * 32, rtol=1e-3)
  kernel = grads['kernel'][1, 1] if grads['kernel'].ndim == 4 and grads['kernel'].shape[0] == 3 else grads['kernel']
  np.testing.assert_allclose(kernel, 0.5 * 0.01 * 16 * 32 * 32, rtol=5e-3)


def test_gradients_of_scale_match_autodiff():
  x, gain = filled((3, 4), 0), jnp.float32(0.3)
  got = jax.grad(lambda x, g: (layers.scale(x, g) ** 2).sum(), (0, 1))(x, gain)
  expected = jax.grad(lambda x, g: ((x * g) ** 2).sum(), (0, 1))(x, gain)
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)
