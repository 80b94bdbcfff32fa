"""Saves measurements with the command, commit and machine; runs the benchmark of a clone."""

import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


def commit(folder: str | pathlib.Path = ROOT) -> str:
  """The short commit of a clone, by default of this one; with a + if tracked files differ from it."""
  git = ['git', '-C', str(folder)]
  changed = subprocess.run([*git, 'status', '--porcelain', '-uno'], capture_output=True, text=True, check=True).stdout
  name = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=True).stdout
  return name.strip() + ('+' if changed else '')


def machine() -> str:
  """The processor's model and its widest vector extension."""
  names = [line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name')]
  flags = next((line for line in open('/proc/cpuinfo') if line.startswith('flags')), '')
  widest = 'AVX-512' if 'avx512f' in flags else 'AVX2' if 'avx2' in flags else platform.machine()
  return f'{names[0] if names else platform.machine()}, {widest}'


def benchmark(folder: str | pathlib.Path, size: str, repeats: int, **environment: str) -> dict[str, Any]:
  """Runs `python -m dvd_gan.benchmark` of a clone in its own process with environment variables; returns its result."""
  command = [sys.executable, '-m', 'dvd_gan.benchmark', f'--size={size}', f'--repeats={repeats}']
  env = os.environ | environment | {'PYTHONPATH': str(folder)}
  output = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout
  return json.loads(output.splitlines()[-1])


def save(path: pathlib.Path, rows: Any) -> None:
  """Writes `rows` as JSON with the command, the commit, the machine and the number of CPUs used."""
  script, *arguments = sys.argv
  command = ' '.join(['python', os.path.relpath(script, ROOT), *arguments])
  about = {'command': command, 'commit': commit(), 'machine': machine(), 'cpus': len(os.sched_getaffinity(0))}
  path.write_text(json.dumps({**about, 'rows': rows}, indent=1) + '\n')
