"""TPU slices by name: number of devices, memory, and peak rates of the chips and of their network."""

import math
import re
from typing import NamedTuple

from dvd_gan.runtime.errors import UsageError


class Chip(NamedTuple):
  """One JAX device: a core of v2 and v3, a chip of later generations.

  Peaks are the vendor's, per device: bf16 TFLOP/s; GB/s of memory; outgoing GB/s of all links to neighbours together.
  `hbm_gib` is the memory that XLA lets a program use. It was measured by compiling a program that is too large; v2's is
  half of v3's.
  """

  tflops: float
  hbm_gbps: float
  ici_gbps: float
  hbm_gib: float
  type: str  # prefix of gcloud's accelerator types
  type_unit: int  # units per chip in gcloud's accelerator types: 2 if they count cores, 1 if they count chips
  devices: int  # per chip
  dimensions: int  # of the network
  smallest: int  # chips of the smallest slice
  largest: int  # chips of the largest slice


# Sources: cloud.google.com/tpu/docs/v3 and the pages of the other generations (peaks, slices); our compilations (usable
# memory). JAX's table (jax.experimental.pallas.tpu.get_tpu_info_for_chip) has 140 TFLOP/s for a v3 chip and 2,460 GB/s
# for v5p's memory. We keep the vendor's values: 123 is the peak of four 128 x 128 units at 940 MHz; v5p has 2,765 GB/s.
CHIPS = {
  'v2': Chip(45 / 2, 600 / 2, 4 * 62 / 2, 7.74, 'v2', 2, 2, 2, 4, 256),
  'v3': Chip(123 / 2, 900 / 2, 4 * 100 / 2, 15.48, 'v3', 2, 2, 2, 4, 1024),
  'v4': Chip(275, 1200, 6 * 45, 30.75, 'v4', 2, 1, 3, 4, 4096),
  'v5e': Chip(197, 819, 400 / 2, 15.75, 'v5litepod', 1, 1, 2, 1, 256),
  'v5p': Chip(459, 2765, 1200 / 2, 95.73, 'v5p', 2, 1, 3, 4, 6144),
  'v6e': Chip(918, 1638, 800 / 2, 31.24, 'v6e', 1, 1, 2, 1, 256),
}
CUBE = 4  # side length, in chips, of the cubes that make up large slices of v4 and v5p


class Topology(NamedTuple):
  """A slice."""

  name: str  # v5e:16x16
  kind: str
  sides: tuple[int, ...]  # chips along each axis

  @property
  def chip(self) -> Chip:
    return CHIPS[self.kind]

  @property
  def devices(self) -> int:
    return math.prod(self.sides) * self.chip.devices

  def all_reduce_seconds(self, size: float) -> float:
    """Seconds of an all-reduce of `size` bytes on every device, at the peak rate of the usable links.

    An axis without wrap-around links counts half of its peak.
    """
    used = sum((side > 1) * (1 if wraps else 0.5) for side, wraps in zip(self.sides, self._wraps(), strict=True))
    peak = self.chip.ici_gbps * 1e9 * (used or 1) / self.chip.dimensions  # one chip uses no axis
    return 2 * (self.devices - 1) / self.devices * size / peak

  def _wraps(self) -> list[bool]:
    """Whether each axis has wrap-around links (jax-ml.github.io/scaling-book, "TPU networking")."""
    if self.chip.dimensions == 3:
      return [all(side % CUBE == 0 for side in self.sides)] * 3
    return [side == math.isqrt(self.chip.largest) for side in self.sides]


def parse(text: str) -> Topology:
  """Parses the name of a slice: a shape, `v5e:16x16`, or gcloud's accelerator type, `v5litepod-256`.

  Raises:
    UsageError: if there is no such slice.
  """
  if match := re.fullmatch(r'(\w+):(\d+(?:x\d+)+)', text):
    kind, sides = match[1], tuple(int(side) for side in match[2].split('x'))
    if kind in CHIPS and (sides == _shape(CHIPS[kind], math.prod(sides)) or _is_of_cubes(CHIPS[kind], sides)):
      return Topology(text, kind, sides)
  if match := re.fullmatch(r'([a-z0-9]+)-(\d+)', text):
    for kind, chip in CHIPS.items():
      if match[1] == chip.type and int(match[2]) % chip.type_unit == 0:
        if sides := _shape(chip, int(match[2]) // chip.type_unit):
          return Topology(f'{kind}:{"x".join(map(str, sides))}', kind, sides)
  shapes = ', '.join(f'{kind} up to {"x".join(map(str, _shape(chip, chip.largest)))}' for kind, chip in CHIPS.items())
  raise UsageError(
    f'dry_run.topology={text} is no TPU slice: give a shape, such as v5e:4x8 ({shapes}; short sides first), or a type, '
    'such as v5litepod-32'
  )


def _is_of_cubes(chip: Chip, sides: tuple[int, ...]) -> bool:
  """Whether a shape is a v4 or v5p slice of whole cubes; it need not be the most cubic one."""
  fits = len(sides) == chip.dimensions == 3 and math.prod(sides) <= chip.largest
  return fits and all(side % CUBE == 0 for side in sides) and list(sides) == sorted(sides)


def _shape(chip: Chip, chips: int) -> tuple[int, ...]:
  """Sides of the most cubic slice with `chips` chips, short sides first; () if there is none."""
  if not chip.smallest <= chips <= chip.largest:
    return ()
  unit = CUBE**3 if chip.dimensions == 3 else 1
  if chips < unit or chip.dimensions == 2:
    power = chips.bit_length() - 1
    if chips != 1 << power or (chip.dimensions == 2 and chips == 2):
      return ()
    sides = tuple(1 << ((power + i) // chip.dimensions) for i in range(chip.dimensions))
    return (2, 2, 1) if sides == (1, 2, 2) else sides  # exception: the short side is last
  cubes, rest = divmod(chips, unit)
  if rest:
    return ()
  divisors = [side for side in range(1, cubes + 1) if cubes % side == 0]
  shapes = [
    (a, b, cubes // (a * b)) for a in divisors for b in divisors if cubes % (a * b) == 0 and a <= b <= cubes // (a * b)
  ]
  return tuple(CUBE * side for side in min(shapes, key=lambda sides: (sides[2], -sides[0])))
