"""FLOPs of a compiled program, counted on its HLO text. Loop bodies are multiplied by their trip counts.

flops.py counts the FLOPs of the JAX function. The difference is work that the compiler adds or repeats.
"""

import math
import re

from dvd_gan import flops
from dvd_gan.dry_run import hlo


def count(text: str) -> float:
  """FLOPs of one run of an optimised program on one device: convolutions and matrix products, also in fusions.

  A multiply-add counts as two. Kernel taps on padding are not counted, as in flops.py.

  Raises:
    ValueError: see hlo.trips.
  """
  return of(*hlo.parse(text))


def of(computations: dict[str, list[hlo.Instruction]], name: str) -> float:
  """FLOPs of one run of a computation from `hlo.parse` and of the computations that it calls."""
  total = 0.0
  shapes = {one.name: one.shape for one in computations[name]}
  for one in computations[name]:
    if one.opcode in ('convolution', 'dot'):
      operands = [sides(shapes[operand]) for operand in hlo.operands(one)[:2]]
      total += 2 * (_convolution if one.opcode == 'convolution' else _dot)(one, *operands)
    total += sum(trips * of(computations, called) for called, trips in hlo.called(computations, one))
  return total


def sides(shape: str) -> list[int]:
  """Axis lengths of a shape in HLO text: `f32[2,3]{1,0}` -> [2, 3]."""
  match = re.match(r'\w+\[([\d,]*)\]', shape)
  return [int(side) for side in match[1].split(',') if side]


def _dot(one: hlo.Instruction, left: list[int], right: list[int]) -> int:
  """Multiply-adds of a matrix product."""

  def axes(what: str) -> list[int]:
    match = re.search(rf'{what}_dims=\{{([\d,]*)\}}', one.rest)
    return [int(axis) for axis in match[1].split(',') if axis] if match else []

  summed = math.prod(left[axis] for axis in axes('lhs_contracting'))
  return math.prod(sides(one.shape)) * summed


def _convolution(one: hlo.Instruction, left: list[int], kernel: list[int]) -> int:
  """Multiply-adds of a convolution."""
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', one.rest).groups()
  out = sides(one.shape)

  def side(label: str) -> tuple[int, int, int]:
    return tuple(sizes[names.index(label)] for sizes, names in zip((left, kernel, out), labels, strict=True))

  axes = [(*side(str(i)), window) for i, window in enumerate(_windows(one, len(out) - 2))]
  taps = math.prod(flops.inner_taps(size, width, places, **window) for size, width, places, window in axes)
  batch, features = out[labels[2].index('b')], out[labels[2].index('f')]
  inputs = kernel[labels[1].index('i')]  # per group
  groups = re.search(r'batch_group_count=(\d+)', one.rest)
  return batch * features * inputs * taps // (int(groups[1]) if groups else 1)


# HLO's window attributes and the matching arguments of flops.inner_taps. HLO omits attributes with default values.
_WINDOW = {'stride': 'stride', 'pad': 'low', 'lhs_dilate': 'dilation', 'rhs_dilate': 'kernel_dilation'}


def _windows(one: hlo.Instruction, axes: int) -> list[dict[str, int]]:
  """Keyword arguments of flops.inner_taps per spatial axis, from HLO text such as `window={size=3x3 pad=1_1x1_1}`."""
  found: list[dict[str, int]] = [{} for _ in range(axes)]
  if match := re.search(r'window=\{([^}]*)\}', one.rest):
    for name, values in (item.split('=') for item in match[1].split()):
      if name in _WINDOW:
        for axis, value in zip(found, values.split('x'), strict=True):
          axis[_WINDOW[name]] = int(value.split('_')[0])
  return found
