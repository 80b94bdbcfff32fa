"""TPU slices by name: how many devices, what they hold and how fast they are."""

import re
from typing import NamedTuple

from dvd_gan.errors import UsageError


class Chip(NamedTuple):
  """One device as JAX sees it: a core of v2 and v3, a chip of the others.

  Peaks are the vendor's, per device: bf16 TFLOP/s; GB/s of its memory; GB/s of all its links to its neighbours, out.
  `hbm_gib` is what XLA lets a program use (measured by compiling one that is too large).
  """

  tflops: float
  hbm_gbps: float
  ici_gbps: float
  hbm_gib: float
  types: tuple[str, ...]  # gcloud's accelerator types of this kind begin so
  cores: int  # that gcloud counts per device in an accelerator type
  dimensions: int  # of the torus


# Sources: cloud.google.com/tpu/docs/v3 and so on (peaks); compiled here (usable memory).
CHIPS = {
  'v3': Chip(123 / 2, 900 / 2, 4 * 100 / 2, 15.48, ('v3',), 1, 2),
  'v4': Chip(275, 1200, 6 * 45, 30.75, ('v4',), 2, 3),
  'v5e': Chip(197, 819, 400 / 2, 15.75, ('v5litepod',), 1, 2),
  'v5p': Chip(459, 2765, 1200 / 2, 95.73, ('v5p',), 2, 3),
  'v6e': Chip(918, 1638, 800 / 2, 31.24, ('v6e',), 1, 2),
}


class Topology(NamedTuple):
  """A slice."""

  name: str  # v5e:16x16
  kind: str
  devices: int

  @property
  def chip(self) -> Chip:
    return CHIPS[self.kind]


def parse(text: str) -> Topology:
  """A slice by its shape, `v5e:16x16`, or by gcloud's accelerator type, `v5litepod-256`.

  Raises:
    UsageError: if there is none of that name.
  """
  if match := re.fullmatch(r'(v\d[ep]?):(\d+(?:x\d+)+)', text):
    kind, sides = match[1], [int(side) for side in match[2].split('x')]
    if kind in CHIPS and len(sides) == CHIPS[kind].dimensions:
      count = 1
      for side in sides:
        count *= side
      return Topology(text, kind, count * (2 if kind == 'v3' else 1))  # v3: two cores on a chip
  if match := re.fullmatch(r'([a-z0-9]+)-(\d+)', text):
    for kind, chip in CHIPS.items():
      if match[1] in chip.types and int(match[2]) % chip.cores == 0:
        chips = int(match[2]) // chip.cores // (2 if kind == 'v3' else 1)
        if sides := _sides(chips, chip.dimensions):
          return parse(f'{kind}:{"x".join(map(str, sides))}')
  raise UsageError(
    f'dry_run.topology={text} is no slice known here: say its shape, {", ".join(CHIPS)} as in v5e:16x16, or its type '
    'as in v5litepod-256'
  )


def _sides(chips: int, dimensions: int) -> list[int]:
  """The most cubic torus of a power of two chips, short sides first."""
  power = chips.bit_length() - 1
  if chips < 1 or chips != 1 << power:
    return []
  return [1 << ((power + i) // dimensions) for i in range(dimensions)]
