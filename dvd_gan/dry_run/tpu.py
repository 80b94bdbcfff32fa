"""TPU slices by name: how many devices, how much memory they have, how fast they and their network are."""

import math
import re
from typing import NamedTuple

from dvd_gan.runtime.errors import UsageError


class Chip(NamedTuple):
  """One device as JAX sees it: a core of v2 and v3, a chip of the others.

  Peaks are the vendor's, per device: bf16 TFLOP/s; GB/s of its memory; GB/s of all its links to its neighbours, out.
  `hbm_gib` is what XLA lets a program use (measured by compiling one that is too large; v2: half of v3's).
  """

  tflops: float
  hbm_gbps: float
  ici_gbps: float
  hbm_gib: float
  type: str  # gcloud's accelerator types of this kind begin with it
  type_unit: int  # what gcloud counts in an accelerator type, per chip: 2 cores or the chip
  devices: int  # per chip
  dimensions: int  # of the network
  smallest: int  # chips of the smallest slice
  largest: int  # and of the largest


# Sources: cloud.google.com/tpu/docs/v3 and so on (peaks, slices); compiled here (usable memory). JAX's own table
# (jax.experimental.pallas.tpu.get_tpu_info_for_chip) has 140 TFLOP/s for a v3 chip and 2,460 GB/s for v5p's memory. For
# v3 the vendor's 123 is what four 128 x 128 units do at 940 MHz; for v5p we keep the vendor's 2,765.
CHIPS = {
  'v2': Chip(45 / 2, 600 / 2, 4 * 62 / 2, 7.74, 'v2', 2, 2, 2, 4, 256),
  'v3': Chip(123 / 2, 900 / 2, 4 * 100 / 2, 15.48, 'v3', 2, 2, 2, 4, 1024),
  'v4': Chip(275, 1200, 6 * 45, 30.75, 'v4', 2, 1, 3, 4, 4096),
  'v5e': Chip(197, 819, 400 / 2, 15.75, 'v5litepod', 1, 1, 2, 1, 256),
  'v5p': Chip(459, 2765, 1200 / 2, 95.73, 'v5p', 2, 1, 3, 4, 6144),
  'v6e': Chip(918, 1638, 800 / 2, 31.24, 'v6e', 1, 1, 2, 1, 256),
}
CUBE = 4  # chips along a side of the blocks that large slices of v4 and v5p consist of


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
    """Seconds of an all-reduce of so many bytes on every device, at the peak of the links that it can use.

    Along an axis without wrap-around links it runs at half of that axis's peak.
    """
    used = sum((side > 1) * (1 if wraps else 0.5) for side, wraps in zip(self.sides, self._wraps(), strict=True))
    peak = self.chip.ici_gbps * 1e9 * (used or 1) / self.chip.dimensions  # no axis is used by one chip
    return 2 * (self.devices - 1) / self.devices * size / peak

  def _wraps(self) -> list[bool]:
    """Whether each axis has wrap-around links (jax-ml.github.io/scaling-book, "TPU networking")."""
    if self.chip.dimensions == 3:
      return [all(side % CUBE == 0 for side in self.sides)] * 3
    return [side == math.isqrt(self.chip.largest) for side in self.sides]


def parse(text: str) -> Topology:
  """A slice by its shape, `v5e:16x16`, or by gcloud's accelerator type, `v5litepod-256`.

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
  """Whether a shape, also a long one, is a slice of v4 or v5p made of whole blocks."""
  fits = len(sides) == chip.dimensions == 3 and math.prod(sides) <= chip.largest
  return fits and all(side % CUBE == 0 for side in sides) and list(sides) == sorted(sides)


def _shape(chip: Chip, chips: int) -> tuple[int, ...]:
  """The most cubic slice of so many chips, short sides first; () if there is none."""
  if not chip.smallest <= chips <= chip.largest:
    return ()
  unit = CUBE**3 if chip.dimensions == 3 else 1
  if chips < unit or chip.dimensions == 2:
    power = chips.bit_length() - 1
    if chips != 1 << power or (chip.dimensions == 2 and chips == 2):
      return ()
    sides = tuple(1 << ((power + i) // chip.dimensions) for i in range(chip.dimensions))
    return (2, 2, 1) if sides == (1, 2, 2) else sides  # the name of that one slice has its short side last
  cubes, rest = divmod(chips, unit)
  if rest:
    return ()
  divisors = [side for side in range(1, cubes + 1) if cubes % side == 0]
  shapes = [
    (a, b, cubes // (a * b)) for a in divisors for b in divisors if cubes % (a * b) == 0 and a <= b <= cubes // (a * b)
  ]
  return tuple(CUBE * side for side in min(shapes, key=lambda sides: (sides[2], -sides[0])))
