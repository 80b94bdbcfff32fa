"""Orthogonal initialisation of parameter trees (paper, section 4).

The modules only declare shapes; the values are drawn here with numpy. In JAX, compiling a random draw and a QR
decomposition for each shape of a network took nearly as long as compiling its train step, and a batched QR can hang
XLA's CPU thread pool (seen with jaxlib 0.10.2 on two cores).
"""

import math
from typing import Any

import jax
import numpy as np


def orthogonal(seed: tuple[int, ...], shapes: Any) -> Any:
  """Draws a tree of f32 numpy arrays, a pure function of (seed, shapes).

  Args:
    seed: any non-negative integers.
    shapes: tree of arrays or ShapeDtypeStructs.

  Returns:
    The tree. Leaves with two or more axes, reshaped to [-1, out], have orthonormal rows or columns; all other leaves
    (biases and attention gains) are zero.
  """
  leaves, structure = jax.tree.flatten(shapes)
  return structure.unflatten([_draw(np.random.default_rng((*seed, i)), leaf.shape) for i, leaf in enumerate(leaves)])


def _draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  if len(shape) < 2:
    return np.zeros(shape, np.float32)
  rows, columns = math.prod(shape[:-1]), shape[-1]
  q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns)), np.float32))
  # The sign correction makes the distribution uniform over orthogonal matrices.
  q *= np.sign(np.diagonal(r))
  return np.ascontiguousarray(q.T if rows < columns else q).reshape(shape)
