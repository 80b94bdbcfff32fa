"""Checks which runs of one config are equal to the bit: repeated, recompiled, resumed, with another number of CPUs.

python results/scripts/determinism.py [--steps=4]

Trains tests/tiny.py in separate processes and compares the logged metrics. Prints one JSON object: for each run,
whether all metrics equal those of the first run, and the largest relative difference by step. Needs two CPUs.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]


def train(folder: pathlib.Path, name: str, cpus: set[int], steps: int, cache: str = 'cache') -> list[dict]:
  """Trains a run, or resumes it, up to `steps`, and returns its metrics; `cache`: folder for compiled programs."""
  flags = ['--config=tests/tiny.py', f'--workdir={folder / name}', f'--config.train.steps={steps}']
  flags += ['--config.data.name=array_file', f'--config.data.source={folder / "clips.npz"}']
  flags += ['--config.train.checkpoint_every=100']
  environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_COMPILATION_CACHE_DIR=str(folder / cache))
  command = [sys.executable, '-m', 'dvd_gan.main', '--mode=train', *flags]
  # The process inherits the affinity, which sets the size of XLA's thread pools.
  subprocess.run(
    command, cwd=ROOT, env=environment, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cpus), stdout=sys.stderr
  )
  return [json.loads(line) for line in (folder / name / 'metrics.jsonl').read_text().splitlines()]


def differences(one: list[dict], other: list[dict]) -> dict[str, object]:
  largest = [
    # A run logs more metrics at its last step, where it draws samples.
    max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-12) for name in a.keys() & b.keys())
    for a, b in zip(one, other, strict=True)
  ]
  return {'equal': not any(largest), 'largest_relative_difference_by_step': largest}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--steps', type=int, default=4)
  steps = parser.parse_args().steps
  first, second = sorted(os.sched_getaffinity(0))[:2]
  with tempfile.TemporaryDirectory() as path:
    folder = pathlib.Path(path)
    rng = np.random.default_rng(0)
    np.savez(folder / 'clips.npz', video=rng.integers(0, 256, (20, 7, 16, 16, 3), np.uint8), label=np.arange(20) % 3)
    one = train(folder, 'one', {first}, steps)
    found = {'again, recompiled': differences(one, train(folder, 'again', {first}, steps, cache='cold'))}
    found['on the other CPU'] = differences(one, train(folder, 'other', {second}, steps))
    train(folder, 'resumed', {first}, steps // 2)
    found['resumed half way'] = differences(one, train(folder, 'resumed', {first}, steps))
    found['with two CPUs'] = differences(one, two := train(folder, 'two', {first, second}, steps))
    found['with two CPUs, again'] = differences(two, train(folder, 'two again', {first, second}, steps))
  print(json.dumps(found, indent=1))


if __name__ == '__main__':
  main()
