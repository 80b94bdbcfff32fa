"""Spectral norm as a pure function on a parameter tree: (W, u) -> (W / sigma(W), u', sigma).

The modules do not normalise. The train step passes them normalised parameters, so all uses of a network between two of
its updates have the same weights, also in loops and in rematerialised blocks (models/README.md, Decisions). Source:
Miyato et al. 2018; the choice of weights: paper, section 3.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any

# The generator's class embedding e(y) is the only matrix without spectral norm (models/README.md, Training).
UNNORMALISED = 'label_embed'
EPS = 1e-12


def is_normalised(path: tuple, leaf: jax.Array) -> bool:
  """Whether a leaf is a weight under spectral norm: every matrix or kernel except e(y), but no bias or gain."""
  names = [key.key for key in path]
  return leaf.ndim >= 2 and UNNORMALISED not in names


def init(key: jax.Array, params: Tree) -> Tree:
  """Random unit vectors u [out], one for each normalised weight [..., out]; None for all other leaves. f32."""
  flat, structure = jax.tree_util.tree_flatten_with_path(params)
  widths = [leaf.shape[-1] if is_normalised(path, leaf) else 0 for path, leaf in flat]
  # One draw, then split: a draw for each leaf would compile one program for each shape.
  pieces = jnp.split(jax.random.normal(key, (sum(widths),)), np.cumsum(widths)[:-1])
  return structure.unflatten([_unit(piece) if piece.size else None for piece in pieces])


def normalise(params: Tree, u: Tree) -> tuple[Tree, Tree, Tree]:
  """Divides every normalised weight by its largest singular value, after one power iteration.

  Args:
    params: a network's parameters, f32.
    u: the vectors of its weights, from `init` or the previous call.

  Returns:
    (weights, u', sigma): `params` with each normalised leaf divided by sigma, where gradients flow through sigma but
    not through the vectors; the new vectors; and the estimated sigma of each raw weight, f32 scalars; None for leaves
    without spectral norm.
  """
  results = _map(_normalise_leaf, params, u)
  return tuple(_map(lambda leaf, _, i=i: leaf[i], results, u) for i in range(3))


def converge(params: Tree, u: Tree, *, tolerance: float = 1e-6, max_iterations: int = 1000) -> Tree:
  """Repeats power iterations until every sigma changes by at most the fraction `tolerance`; used for sampling.

  Every normalised weight of `normalise(params, converge(params, u))` has largest singular value 1. The loop runs on the
  host around one compiled iteration; a compiled loop for each weight would take many times longer to compile.
  """
  last = None
  for _ in range(max_iterations):
    u, sigmas = _advance(params, u)
    sigma = np.array(jax.device_get(jax.tree.leaves(sigmas)))
    if last is not None and np.all(np.abs(sigma - last) <= tolerance * sigma):
      break
    last = sigma
  return u


@jax.jit
def _advance(params: Tree, u: Tree) -> tuple[Tree, Tree]:
  return normalise(params, u)[1:]


def extremes(sigmas: Tree) -> tuple[jax.Array, jax.Array]:
  """(largest, smallest) sigma over a tree from `normalise`."""
  stacked = jnp.stack(jax.tree.leaves(sigmas))
  return stacked.max(), stacked.min()


def _map(fn, params: Tree, u: Tree) -> Tree:
  """tree.map over `params` and `u`, where None is the vector of a leaf without spectral norm."""
  flat, structure = jax.tree.flatten(u, is_leaf=lambda x: x is None)
  return structure.unflatten([fn(p, v) for p, v in zip(structure.flatten_up_to(params), flat, strict=True)])


def _normalise_leaf(leaf: jax.Array, u: jax.Array | None):
  if u is None:
    return leaf, None, None
  v, u, sigma = jax.lax.stop_gradient(_power_iteration(leaf.reshape(-1, leaf.shape[-1]), u))
  return _divide(leaf, v, u, sigma), u, sigma


def _power_iteration(matrix: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  v = _unit(_product(matrix, u))
  u = _product(matrix.T, v)
  sigma = jnp.linalg.norm(u)  # v^T W u', as u' is W^T v / |W^T v|
  return v, u / jnp.maximum(sigma, EPS), sigma


@jax.custom_vjp
def _divide(leaf: jax.Array, v: jax.Array, u: jax.Array, sigma: jax.Array) -> jax.Array:
  """W / sigma(W), where d sigma / dW = v u^T."""
  return leaf / jnp.maximum(sigma, EPS)


def _divide_forward(leaf, v, u, sigma):
  divided = _divide(leaf, v, u, sigma)
  return divided, (divided, v, u, sigma)


def _divide_backward(saved, d_divided):
  divided, v, u, sigma = saved
  along = jnp.where(sigma > EPS, jnp.sum(d_divided * divided), 0)
  d_leaf = d_divided - (along * v[:, None] * u).reshape(divided.shape)
  return d_leaf / jnp.maximum(sigma, EPS), None, None, None


_divide.defvjp(_divide_forward, _divide_backward)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  # Full f32 on every backend: at a TPU's default precision sigma would have about three significant digits.
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _unit(x: jax.Array) -> jax.Array:
  return x / jnp.maximum(jnp.linalg.norm(x), EPS)
