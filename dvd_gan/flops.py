"""Floating-point operations of a JAX function, counted on its jaxpr.

Counts convolutions and matrix products, with two operations for each multiply-add. Kernel taps on padding are excluded,
as in XLA's own count. Loop bodies are multiplied by their trip counts, unlike in XLA's count. Other operations
(normalisation, activations, the optimizer) are under one per cent and are not counted.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


def count(fn: Any, *args: Any) -> int:
  """FLOPs of one call of `fn`; the arguments may be ShapeDtypeStructs."""
  return _jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def _jaxpr(jaxpr: Any) -> int:
  return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
  name = equation.primitive.name
  if name == 'dot_general':
    return _dot(equation)
  if name == 'conv_general_dilated':
    return _convolution(equation)
  if name == 'cond':
    # Platform-dependent branches of one computation. Some multiply padding too, so the smallest count is taken.
    return min(_jaxpr(branch.jaxpr) for branch in equation.params['branches'])
  if name == 'while':
    raise ValueError('a while loop has no trip count to multiply by')
  trips = equation.params['length'] if name == 'scan' else 1
  return trips * sum(_jaxpr(inner) for inner in _inner(equation.params))


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """The jaxprs among an equation's parameters: bodies of loops, calls and custom gradients."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      jaxpr = getattr(item, 'jaxpr', item)  # a ClosedJaxpr or a Jaxpr
      if hasattr(jaxpr, 'eqns'):
        yield jaxpr


def _dot(equation: Any) -> int:
  (contracting, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracting)


def _convolution(equation: Any) -> int:
  params = equation.params
  left, kernel = (variable.aval.shape for variable in equation.invars)
  out = equation.outvars[0].aval.shape
  numbers = params['dimension_numbers']
  taps = math.prod(
    inner_taps(
      left[numbers.lhs_spec[2 + axis]],
      kernel[numbers.rhs_spec[2 + axis]],
      out[numbers.out_spec[2 + axis]],
      stride=params['window_strides'][axis],
      low=params['padding'][axis][0],
      dilation=params['lhs_dilation'][axis],
      kernel_dilation=params['rhs_dilation'][axis],
    )
    for axis in range(len(out) - 2)
  )
  batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
  inputs = kernel[numbers.rhs_spec[1]]
  return 2 * batch * features * inputs * taps // params['batch_group_count']


def inner_taps(
  size: int, kernel: int, out: int, *, stride: int = 1, low: int = 0, dilation: int = 1, kernel_dilation: int = 1
) -> int:
  """Number of (output position, kernel tap) pairs along one axis that read an input element, not padding or a gap."""
  at = stride * np.arange(out)[:, None] + kernel_dilation * np.arange(kernel) - low
  inside = (at >= 0) & (at <= (size - 1) * dilation)
  return int(np.sum(inside & (at % dilation == 0)))
