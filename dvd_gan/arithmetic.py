"""What a compiled program computes, read from its text, with loops counted as often as they run.

The counterpart of flops.py, which counts what the mathematics needs: more than that is work that the compiler added or
was made to do twice.
"""

import math
import re
from typing import NamedTuple

from dvd_gan import flops, hlo

MXU = 128  # rows and columns of a TPU's matrix unit (256 from v6e on: what is said of it there is too low)


class Arithmetic(NamedTuple):
  """FLOPs of one run of a program on one device, of convolutions and matrix products.

  Attributes:
    flop: two for each multiply-add, taps that fall on padding excluded, as flops.py counts.
    padded: those of a matrix unit that takes each operation as one matrix product, with the summed axis and the cheaper
      of the other two filled up to its sides, and taps beyond the edges: the least that it can do.
  """

  flop: float
  padded: float


def count(text: str) -> Arithmetic:
  """Walks an optimised program, fusions included.

  Raises:
    ValueError: see hlo.trips.
  """
  return of(*hlo.parse(text))


def of(computations: dict[str, list[hlo.Instruction]], name: str) -> Arithmetic:
  """Of one run of a computation of a program (hlo.parse), with all that it calls."""
  total, padded = 0.0, 0.0

  def walk(name: str, times: float) -> None:
    nonlocal total, padded
    shapes = {one.name: one.shape for one in computations[name]}
    for one in computations[name]:
      if one.opcode in ('convolution', 'dot'):
        operands = [sides(shapes[operand]) for operand in hlo.operands(one)[:2]]
        pairs, rows, summed, columns = (_convolution if one.opcode == 'convolution' else _dot)(one, *operands)
        total += times * 2 * pairs
        filled = min(_filled(rows) * columns, rows * _filled(columns))
        padded += times * 2 * _filled(summed) * filled
      for called, trips in hlo.called(computations, one):
        walk(called, times * trips)

  walk(name, 1.0)
  return Arithmetic(total, padded)


def _filled(side: int) -> int:
  return -(-side // MXU) * MXU


def sides(shape: str) -> list[int]:
  """The lengths of a shape's axes, as the text has it: `f32[2,3]{1,0}` -> [2, 3]."""
  match = re.match(r'\w+\[([\d,]*)\]', shape)
  return [int(side) for side in match[1].split(',') if side]


def _dot(one: hlo.Instruction, left: list[int], right: list[int]) -> tuple[int, int, int, int]:
  """(multiply-adds; rows, summed, columns of the product)."""

  def axes(what: str) -> list[int]:
    match = re.search(rf'{what}_dims=\{{([\d,]*)\}}', one.rest)
    return [int(axis) for axis in match[1].split(',') if axis] if match else []

  summed = math.prod(left[axis] for axis in axes('lhs_contracting'))
  together = math.prod(left[axis] for axis in axes('lhs_batch'))
  rows, columns = math.prod(left) // summed // together, math.prod(right) // summed // together
  return together * rows * summed * columns, together * rows, summed, columns


def _convolution(one: hlo.Instruction, left: list[int], kernel: list[int]) -> tuple[int, int, int, int]:
  """(multiply-adds; rows, summed, columns of the product that it is)."""
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', one.rest).groups()
  out = sides(one.shape)

  def side(label: str) -> tuple[int, int, int]:
    return tuple(sizes[names.index(label)] for sizes, names in zip((left, kernel, out), labels, strict=True))

  axes = [(*side(str(i)), window) for i, window in enumerate(_windows(one, len(out) - 2))]
  taps = math.prod(flops.inner_taps(size, width, places, **window) for size, width, places, window in axes)
  batch, features = out[labels[2].index('b')], out[labels[2].index('f')]
  inputs = kernel[labels[1].index('i')]  # of one group
  groups = re.search(r'batch_group_count=(\d+)', one.rest)
  pairs = batch * features * inputs * taps // (int(groups[1]) if groups else 1)
  # Taps of an output place beyond the edges too, but not in holes: a TPU's compiler writes a product of many pairs of
  # matrices as a convolution whose input is nearly all holes.
  each = (-(-flops.inner_taps(None, width, count, **window) // count) for _, width, count, window in axes)
  places, summed = math.prod(axis[2] for axis in axes), inputs * math.prod(each)
  return pairs, batch * places, summed, features


# What the text calls the attributes of a window, without those that are 1 (or 0) throughout.
_WINDOW = {'stride': 'stride', 'pad': 'low', 'lhs_dilate': 'dilation', 'rhs_dilate': 'kernel_dilation'}


def _windows(one: hlo.Instruction, axes: int) -> list[dict[str, int]]:
  """For each spatial axis, what flops.inner_taps takes; `window={size=3x3 pad=1_1x1_1}` in the text."""
  found: list[dict[str, int]] = [{} for _ in range(axes)]
  if match := re.search(r'window=\{([^}]*)\}', one.rest):
    for name, values in (item.split('=') for item in match[1].split()):
      if name in _WINDOW:
        for axis, value in zip(found, values.split('x'), strict=True):
          axis[_WINDOW[name]] = int(value.split('_')[0])
  return found
