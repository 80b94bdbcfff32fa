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
      of the other two filled up to its sides, and all taps: the least that it can do.
  """

  flop: float
  padded: float


def count(text: str) -> Arithmetic:
  """Walks an optimised program, fusions included.

  Raises:
    ValueError: see hlo.trips; or if an operation is of a form that is not known here.
  """
  computations, entry = hlo.parse(text)
  total, padded = 0.0, 0.0

  def walk(name: str, times: float) -> None:
    nonlocal total, padded
    shapes = {one.name: one.shape for one in computations[name]}
    for one in computations[name]:
      if one.opcode in ('convolution', 'dot'):
        operands = [_sides(shapes[operand]) for operand in hlo.operands(one)[:2]]
        pairs, rows, summed, columns = (_convolution if one.opcode == 'convolution' else _dot)(one, *operands)
        total += times * 2 * pairs
        filled = min(_filled(rows) * columns, rows * _filled(columns))
        padded += times * 2 * _filled(summed) * filled
      for called, trips in hlo.called(computations, one):
        walk(called, times * trips)

  walk(entry, 1.0)
  return Arithmetic(total, padded)


def _filled(side: int) -> int:
  return -(-side // MXU) * MXU


def _sides(shape: str) -> list[int]:
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
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', one.rest)
  window = {
    key: value.split('x')
    for key, value in (item.split('=') for item in re.search(r'window=\{([^}]*)\}', one.rest)[1].split())
  } if 'window={' in one.rest else {}  # fmt: skip
  out = _sides(one.shape)
  spatial = sorted(label for label in labels[1] if label.isdigit())
  taps, covered, places = 1, 1, 1
  for i, label in enumerate(spatial):
    size, side, width = (
      sizes[names.index(label)] for sizes, names in ((left, labels[1]), (out, labels[3]), (kernel, labels[2]))
    )
    known = {key: int(values[i].split('_')[0]) for key, values in window.items() if key != 'rhs_reversal'}
    taps *= flops.inner_taps(
      size,
      width,
      side,
      stride=known.get('stride', 1),
      low=known.get('pad', 0),
      dilation=known.get('lhs_dilate', 1),
      kernel_dilation=known.get('rhs_dilate', 1),
    )
    covered *= width
    places *= side
  batch, features = out[labels[3].index('b')], out[labels[3].index('f')]
  inputs = kernel[labels[2].index('i')]
  groups = re.search(r'batch_group_count=(\d+)', one.rest)
  pairs = batch * features * inputs * taps // (int(groups[1]) if groups else 1)
  return pairs, batch * places, inputs * covered, features
