import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import models
from dvd_gan.models import spectral
from tests.conftest import tiny_config


@pytest.fixture(scope='module')
def trees():
  """Perturbed parameters of both networks, with their initial spectral vectors."""
  rng = np.random.default_rng(0)
  params = [
    jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape, np.float32), tree)
    for tree in models.init(tiny_config())
  ]
  return [(tree, spectral.init(jax.random.key(1), tree)) for tree in params]


def test_every_weight_except_the_class_embedding_is_under_spectral_norm(trees):
  for params, u in trees:
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    vectors = jax.tree.leaves(u, is_leaf=lambda x: x is None)
    for (path, leaf), vector in zip(flat, vectors, strict=True):
      name = jax.tree_util.keystr(path)
      assert (vector is not None) == (leaf.ndim >= 2 and 'label_embed' not in name), name
  names = [jax.tree_util.keystr(path) for tree in trees for path, _ in jax.tree_util.tree_flatten_with_path(tree[1])[0]]
  for part in ('reset', 'update', 'candidate', 'embed', 'query', 'gain', 'stem', 'linear', 'head'):
    assert any(part in name for name in names), f'{part} is not under spectral norm'


def test_the_largest_singular_value_of_every_weight_is_one_after_convergence(trees):
  for params, u in trees:
    weights, _, _ = spectral.normalise(params, spectral.converge(params, u))
    for leaf, vector in zip(jax.tree.leaves(weights), jax.tree.leaves(u, is_leaf=lambda x: x is None), strict=True):
      if vector is not None:
        sigma = np.linalg.svd(np.asarray(leaf).reshape(-1, leaf.shape[-1]), compute_uv=False)[0]
        assert sigma == pytest.approx(1, abs=1e-3)


def test_one_call_of_normalise_does_one_power_iteration(trees):
  params, u = trees[1]
  matrix = np.asarray(params['spatial']['block_0']['conv1']['kernel']).reshape(-1, 4)
  before = np.asarray(u['spatial']['block_0']['conv1']['kernel'])
  v = matrix @ before
  v /= np.linalg.norm(v)
  after = matrix.T @ v
  _, new, sigma = spectral.normalise(params, u)
  np.testing.assert_allclose(new['spatial']['block_0']['conv1']['kernel'], after / np.linalg.norm(after), rtol=1e-4)
  assert sigma['spatial']['block_0']['conv1']['kernel'] == pytest.approx(np.linalg.norm(after), rel=1e-4)


def test_gradient_flows_through_sigma_and_not_through_the_singular_vectors():
  w = {'kernel': jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)), jnp.float32)}
  u = spectral.converge(w, spectral.init(jax.random.key(0), w))
  gradient = jax.grad(lambda w: jnp.sum(jnp.sin(spectral.normalise(w, u)[0]['kernel'])))(w)['kernel']
  # At the fixed point d sigma / dW = v u^T, from numpy's SVD.
  left, sigma, right = np.linalg.svd(np.asarray(w['kernel'], np.float64))
  normal = np.asarray(w['kernel'], np.float64) / sigma[0]
  upstream = np.cos(normal)
  expected = upstream / sigma[0] - np.sum(upstream * normal) / sigma[0] * np.outer(left[:, 0], right[0])
  np.testing.assert_allclose(gradient, expected, atol=1e-4)


def test_spectral_norm_of_a_zero_matrix_is_finite():
  w = {'kernel': jnp.zeros((6, 4))}
  weights, u, _ = spectral.normalise(w, spectral.init(jax.random.key(0), w))
  assert np.isfinite(weights['kernel']).all() and np.isfinite(u['kernel']).all()
