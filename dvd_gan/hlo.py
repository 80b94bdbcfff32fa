"""What a compiled program moves, read from its text, with loops counted as often as they run.

XLA's own `cost_analysis` counts the body of a loop once. Here each instruction of the optimised program counts its
operands and its result as bytes moved through the device's memory (a fusion is one instruction: what stays inside it
never reaches the memory), and each collective the bytes that it is given. Bytes are an upper bound: an instruction that reads
a slice of a larger array, as each turn of a loop does, counts the whole array.
"""

import collections
import re
from typing import NamedTuple

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
# What moves nothing, or is only a name for something else.
FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'partition-id', 'iota',
        'optimization-barrier'}  # fmt: skip
WIDTH = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8,
         'u64': 8, 'f64': 8}  # fmt: skip

_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$')
_SHAPE = re.compile(r'\b(' + '|'.join(WIDTH) + r')\[([\d,]*)\]')


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  shape: str
  opcode: str
  rest: str  # operands and attributes


class Traffic(NamedTuple):
  """Of one run of a program on one device."""

  bytes: float
  collectives: dict[str, dict[str, float]]  # kind -> {'count', 'bytes'}
  dtypes: dict[str, set[str]]  # kind -> dtypes that it carries


def size(shape: str) -> int:
  """Bytes of a shape as the text has it, `(f32[2,3], bf16[4])` say."""
  total = 0
  for dtype, sides in _SHAPE.findall(shape):
    count = WIDTH[dtype]
    for side in sides.split(','):
      count *= int(side or 1)
    total += count
  return total


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """(computations by name, name of the entry)."""
  computations: dict[str, list[Instruction]] = {}
  entry, current = '', None
  for line in text.splitlines():
    if current is None:
      if match := _HEADER.match(line):
        current = computations.setdefault(match[2], [])
        entry = match[2] if match[1] else entry
    elif line.startswith('}'):
      current = None
    elif match := _INSTRUCTION.match(line):
      current.append(Instruction(*match.groups()))
  return computations, entry


def traffic(text: str) -> Traffic:
  """Walks the entry of an optimised program, loop bodies multiplied by their trip counts."""
  computations, entry = parse(text)
  total = 0.0
  collectives: dict = collections.defaultdict(lambda: {'count': 0.0, 'bytes': 0.0})
  dtypes: dict = collections.defaultdict(set)

  def walk(name: str, times: float) -> None:
    nonlocal total
    shapes = {instruction.name: instruction.shape for instruction in computations[name]}
    for instruction in computations[name]:
      opcode = instruction.opcode.removesuffix('-start')
      if opcode == 'while':
        body, condition = (re.search(rf'{part}=%?([\w.\-]+)', instruction.rest)[1] for part in ('body', 'condition'))
        walk(body, times * trips(computations, condition, instruction.rest))
        continue
      if opcode in ('call', 'conditional', 'async'):
        for called in re.findall(
          r'(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)', instruction.rest
        ):
          walk(called, times)
        continue
      if opcode in FREE or opcode.endswith('-done'):
        continue
      operands = instruction.rest.split('), ')[0]
      inputs = sum(size(shapes.get(operand, '')) for operand in re.findall(r'%([\w.\-]+)', operands))
      if opcode in COLLECTIVES:
        collectives[opcode]['count'] += times
        collectives[opcode]['bytes'] += times * inputs
        dtypes[opcode] |= {dtype for dtype, _ in _SHAPE.findall(instruction.shape)}
      total += times * (inputs + size(instruction.shape))

  walk(entry, 1.0)
  return Traffic(total, {kind: dict(row) for kind, row in collectives.items()}, dict(dtypes))


def trips(computations: dict[str, list[Instruction]], condition: str, attributes: str) -> int:
  """How often a loop runs: what XLA knows of it, else the number that its counter is compared with.

  Raises:
    ValueError: if neither can be read.
  """
  if match := re.search(r'known_trip_count[^\d]*(\d+)', attributes):
    return int(match[1])
  found = []
  todo = [condition]
  while todo:
    for instruction in computations[todo.pop()]:
      todo += re.findall(r'calls=%?([\w.\-]+)', instruction.rest)
      if instruction.opcode == 'constant' and instruction.shape.startswith(('s32[]', 'u32[]')):
        found.append(int(re.match(r'(-?\d+)', instruction.rest)[1]))
  if not found:
    raise ValueError(f'the loop with condition {condition} has no trip count that can be read')
  return max(found)
