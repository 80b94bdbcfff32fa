"""Communication time of a compiled program that arithmetic does not hide, computed from its HLO text.

The TPU compiler can run a collective during the fusions that follow its start (`async-collective-start` to `-done`).
Each of these fusions contains the collective again, with the same channel id, beside its own arithmetic.
"""

import collections
import re
from collections.abc import Callable

from dvd_gan.dry_run import arithmetic, hlo


def exposed(text: str, flop_per_s: float, network: Callable[[float], float]) -> float:
  """Seconds per run in which a device only communicates.

  The arithmetic of the fusions that contain a collective hides it. The arithmetic is timed at the chip's peak. Slower
  arithmetic hides more, so this is an upper bound.

  Args:
    text: HLO text of an optimised program.
    flop_per_s: peak rate of a device.
    network: seconds of a collective as a function of its bytes.

  Raises:
    ValueError: see hlo.trips.
  """
  computations, entry = hlo.parse(text)

  def walk(name: str) -> float:
    exposed_s = 0.0
    sent: dict[str, float] = {}
    hidden: dict[str, float] = collections.defaultdict(float)
    shapes = {one.name: one.shape for one in computations[name]}
    for one in computations[name]:
      if one.opcode.removesuffix('-start') in hlo.COLLECTIVES:
        exposed_s += network(hlo.operand_bytes(one, shapes))
      elif one.opcode == 'fusion':
        for carried, size in hlo.carried(computations, one):
          channel = re.search(r'channel_id=(\d+)', carried.rest)[1]
          sent[channel] = network(size)
          hidden[channel] += arithmetic.of(computations, hlo.fused(one)) / flop_per_s
      else:
        exposed_s += sum(times * walk(inner) for inner, times in hlo.called(computations, one))
    return exposed_s + sum(max(0.0, seconds - hidden[channel]) for channel, seconds in sent.items())

  return walk(entry)
