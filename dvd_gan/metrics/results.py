"""Reads evaluation results, eval/PROTOCOL-STEP.json, and formats them as text."""

import json
from typing import Any, NamedTuple

from etils import epath

# Defaults for fields that results of earlier versions lack.
OLDER = {'truncation': 1.0, 'seed': 0, 'loops': 1, 'fewer': None, 'definition': {}}


class Row(NamedTuple):
  """One metric of a result, formatted as text."""

  what: str
  value: str
  real: str  # the reference value, from real clips: the floor of a distance, the score of real clips
  about: str  # what `real` was computed from


def of_step(workdir: epath.Path, step: int) -> list[dict[str, Any]]:
  """All results of a checkpoint, sorted by file name."""
  return [one for one in every(workdir) if one['step'] == step]


def every(workdir: epath.Path) -> list[dict[str, Any]]:
  """All results of a run's checkpoints, sorted by file name."""
  folder = workdir / 'eval'
  found = []
  for path in sorted(folder.glob('*.json')) if folder.exists() else []:
    one = json.loads(path.read_text())
    if isinstance(one, dict) and 'protocol' in one and 'step' in one:
      one = OLDER | one
      found.append(one | {'definition': {'version': 1, 'splits': 1} | one['definition']})
  return found


def name(result: dict[str, Any]) -> str:
  """The protocol, its version if it is not 1, and the truncation if it is not 1."""
  version, truncation = result['definition']['version'], result.get('truncation', 1)
  return (
    result['protocol']
    + (f', version {version}' if version > 1 else '')
    + (f', truncation {truncation:g}' if truncation != 1 else '')
  )


def rows(result: dict[str, Any]) -> list[Row]:
  """The metrics of a result."""
  found = []
  if part := result.get('frechet'):
    spread = f' ± {part["std"]:.3f} in {result["loops"]} loops' if 'std' in part else ''
    clips = 'real against real ({} and {})'.format(*part['floor_clips'])
    found.append(Row('Frechet distance', f'{part["distance"]:.3f}{spread}', f'{part["floor"]:.3f}', clips))
  if part := result.get('inception_score'):
    several = result['definition']['splits'] > 1 or result['loops'] > 1
    spread = f' ± {part["std"]:.3f}' if several else ''
    found.append(Row('Inception Score', f'{part["score"]:.3f}{spread}', f'{part["real"]:.3f}', 'real clips'))
  if part := result.get('accuracy'):
    real = result['accuracy_real']
    found += [Row(f'{what} right', f'{part[what]:.1%}', f'{real[what]:.1%}', 'real clips') for what in part]
  if (part := result.get('memorised')) and 'nearer' in part:
    about = 'real clips, by definition'
    found.append(Row('nearer to a real clip than 99 % of others are', f'{part["nearer"]:.1%}', '1.0%', about))
  return found


def remarks(result: dict[str, Any]) -> list[str]:
  """Remarks and warnings that limit how a result can be compared."""
  fewer = f'fewer than the protocol asks for: {result["fewer"]}' if result['fewer'] else None
  warning = result.get('frechet', {}).get('warning')
  return list(filter(None, (result['definition'].get('remark'), fewer, warning and f'warning: {warning}')))


def summary(result: dict[str, Any]) -> str:
  """A result in a few lines."""
  lines = [f'{name(result)}, {result["samples"]} samples', *(f'  {remark}' for remark in remarks(result))]
  lines += [f'  {row.what} {row.value}, {row.about} {row.real}' for row in rows(result)]
  return '\n'.join(lines)
