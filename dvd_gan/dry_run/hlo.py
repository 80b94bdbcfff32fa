"""Memory traffic and collectives of a compiled program, counted on its HLO text.

Loop bodies are multiplied by their trip counts; XLA's `cost_analysis` counts them once. The memory traffic of an
instruction is the bytes of its operands and its result. A fusion is one instruction: values inside it never reach the
device's memory. An array that is only sliced counts as its slices, and an array that is updated in place counts as the
updated part. Arrays in a TPU's on-chip memory, `S(1)` in a layout, do not count. A collective counts the bytes of its
operands once, also if several fusions contain it (overlap.py).
"""

import collections
import re
from typing import NamedTuple

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
# Opcodes without memory traffic of their own, and opcodes that only rename a value.
FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'partition-id', 'iota',
        'optimization-barrier'}  # fmt: skip
CALLS = ('while', 'call', 'conditional', 'async')  # the instructions of the called computations are counted instead
FREE_CALLS = ('AllocateBuffer', 'ConcatBitcast')  # custom calls that only name memory
WIDTH = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8,
         'u64': 8, 'f64': 8}  # fmt: skip

_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*)$')
_SHAPE = re.compile(r'\b(' + '|'.join(WIDTH) + r')\[([\d,]*)\](\{[^}]*\})?')


class Instruction(NamedTuple):
  """One line of a computation."""

  name: str
  shape: str
  opcode: str
  rest: str  # operands and attributes


class Traffic(NamedTuple):
  """Traffic of one run of a program on one device."""

  bytes: float
  collectives: dict[str, dict[str, float]]  # kind -> {'count', 'bytes'}
  dtypes: dict[str, set[str]]  # kind -> dtypes of its results


def size(shape: str, *, on_chip: bool = False) -> int:
  """Bytes of a shape in HLO text, such as `(f32[2,3], bf16[4])`; arrays in on-chip memory count only if `on_chip`."""
  total = 0
  for dtype, sides, layout in _SHAPE.findall(shape):
    if 'S(' in layout and not on_chip:
      continue
    count = WIDTH[dtype]
    for side in sides.split(','):
      count *= int(side or 1)
    total += count
  return total


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """Parses HLO text; returns (computations by name, name of the entry computation)."""
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
  """Traffic of an optimised program, with loop bodies multiplied by their trip counts; raises as `trips`."""
  computations, entry = parse(text)
  total = 0.0
  collectives: dict = collections.defaultdict(lambda: {'count': 0.0, 'bytes': 0.0})
  dtypes: dict = collections.defaultdict(set)

  def account(instruction: Instruction, sent: int, times: float) -> None:
    kind = instruction.opcode.removesuffix('-start')
    collectives[kind]['count'] += times
    collectives[kind]['bytes'] += times * sent
    dtypes[kind] |= {dtype for dtype, _, _ in _SHAPE.findall(instruction.shape)}

  def walk(name: str, times: float) -> None:
    nonlocal total
    shapes = {instruction.name: instruction.shape for instruction in computations[name]}
    for instruction in computations[name]:
      opcode = instruction.opcode.removesuffix('-start')
      if opcode in CALLS:
        for inner, runs in called(computations, instruction):
          walk(inner, times * runs)
        continue
      if instruction.name.startswith('async-collective-done'):
        continue
      if opcode in FREE or opcode.endswith('-done') or any(f'"{name}"' in instruction.rest for name in FREE_CALLS):
        continue
      if instruction.opcode in ('copy-start', 'slice-start'):
        total += times * _prefetched(instruction)
        continue
      if instruction.name.startswith('async-collective-start'):
        for one, sent in carried(computations, instruction):
          account(one, sent, times)
        total += times * operand_bytes(instruction, shapes, on_chip=False)
        continue
      if opcode in ('fusion', 'dynamic-slice', 'slice', 'dynamic-update-slice'):
        total += times * _moved(computations, instruction, shapes)
        continue
      if opcode in COLLECTIVES:
        account(instruction, operand_bytes(instruction, shapes), times)
      total += times * (operand_bytes(instruction, shapes, on_chip=False) + size(instruction.shape))

  walk(entry, 1.0)
  return Traffic(total, {kind: dict(row) for kind, row in collectives.items()}, dict(dtypes))


def called(computations: dict[str, list[Instruction]], instruction: Instruction) -> list[tuple[str, int]]:
  """Computations that an instruction runs, including a fusion's, and how often; for a loop, only the body."""
  if instruction.opcode == 'while':
    body, condition = (re.search(rf'{part}=%?([\w.\-]+)', instruction.rest)[1] for part in ('body', 'condition'))
    return [(body, trips(computations, condition, instruction.rest))]
  if instruction.opcode.removesuffix('-start') not in (*CALLS, 'fusion'):
    return []
  names = re.findall(r'(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)', instruction.rest)
  branches = re.search(r'branch_computations=\{([^}]*)\}', instruction.rest)
  return [(name, 1) for name in names + (re.findall(r'%?([\w.\-]+)', branches[1]) if branches else [])]


def operands(instruction: Instruction) -> list[str]:
  """Names of an instruction's operands."""
  return re.findall(r'%([\w.\-]+)', instruction.rest.split('), ')[0])


def operand_bytes(instruction: Instruction, shapes: dict[str, str], *, on_chip: bool = True) -> int:
  """Bytes of an instruction's operands; `shapes` has its computation's shapes by name, `on_chip` is as in `size`."""
  return sum(size(shapes.get(operand, ''), on_chip=on_chip) for operand in operands(instruction))


def fused(fusion: Instruction) -> str:
  """Name of the computation that a fusion runs."""
  return re.search(r'calls=%?([\w.\-]+)', fusion.rest)[1]


def carried(computations: dict[str, list[Instruction]], fusion: Instruction) -> list[tuple[Instruction, int]]:
  """Collectives that a fusion starts, continues or ends, each with the bytes of its operands."""
  inside = computations[fused(fusion)]
  shapes = {one.name: one.shape for one in inside}
  return [(one, operand_bytes(one, shapes)) for one in inside if one.opcode in COLLECTIVES]


def _prefetched(instruction: Instruction) -> int:
  """Device-memory bytes of an asynchronous copy or slice; its result has both sides, (to, from) or ((from), to)."""
  sides = [match[0] for match in _SHAPE.finditer(instruction.shape)]
  if instruction.opcode == 'copy-start':
    return size(sides[0]) + size(sides[1])
  whole, part = sides[:2]
  return size(part) + (size(part, on_chip=True) if size(whole) else 0)


def _moved(computations: dict[str, list[Instruction]], instruction: Instruction, shapes: dict[str, str]) -> int:
  """Bytes that a fusion or an unfused slice reads and writes; `shapes` has the shapes of its computation by name.

  An operand that a fusion returns unchanged is not counted. A collective in a fusion is counted only at its start.
  """
  is_fusion = instruction.opcode == 'fusion'
  inside = computations[fused(instruction)] if is_fusion else [instruction]
  named = {one.name: one for one in inside}
  users = collections.defaultdict(list)
  for one in inside:
    for operand in set(operands(one)):
      users[operand].append(one)

  def read(name: str, shape: str) -> int:
    total = 0
    for user in users[name]:
      if user.opcode in COLLECTIVES or user is inside[-1] and user.opcode == 'tuple':
        continue
      first = operands(user)[0] == name
      if first and user.opcode in ('dynamic-slice', 'slice'):
        total += size(user.shape)
      elif first and user.opcode == 'bitcast':
        total += read(user.name, shape)
      elif not (first and user.opcode == 'dynamic-update-slice'):  # overwritten in place, so not read
        return size(shape)
    return min(total, size(shape))

  def written(one: Instruction) -> int:
    takes = operands(one)
    if one.opcode in COLLECTIVES or one.opcode == 'parameter':
      return 0
    if one.opcode == 'dynamic-update-slice':
      return size(named[takes[1]].shape if takes[1] in named else shapes.get(takes[1], ''))
    if one.opcode == 'tuple':
      return sum(written(named[operand]) for operand in takes if operand in named)
    if one.opcode == 'bitcast' and takes and takes[0] in named:
      return written(named[takes[0]])
    return size(one.shape)

  if is_fusion:
    numbers = {one.name: int(re.match(r'\d+', one.rest)[0]) for one in inside if one.opcode == 'parameter'}
    takes = operands(instruction)
    inputs = sum(read(name, shapes.get(takes[number], '')) for name, number in numbers.items() if number < len(takes))
  else:
    inputs = sum(read(operand, shapes.get(operand, '')) for operand in set(operands(instruction)))
  return inputs + min(written(inside[-1]), size(instruction.shape))


def trips(computations: dict[str, list[Instruction]], condition: str, attributes: str) -> int:
  """Trip count of a loop: XLA's known trip count, else the largest integer constant in its condition.

  Raises:
    ValueError: if there is neither.
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
