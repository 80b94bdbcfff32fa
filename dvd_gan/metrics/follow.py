"""`eval.follow`: selects checkpoints to evaluate while a run trains, and keeps the best one."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from dvd_gan import checkpoint, writer
from dvd_gan.runtime import multihost

POLL = 30  # seconds between looks for a new checkpoint
WORSE = 1.5  # a run that is this many times worse than its best in two evaluations in a row has collapsed


def steps(config: Any, workdir: epath.Path) -> Iterator[int]:
  """Yields the newest checkpoint's step until the run's last; a mark keeps the checkpoint during its evaluation."""
  done, folder = 0, workdir / 'checkpoints'
  while done < config.train.steps:
    # List the folder: a second checkpoint manager beside the trainer's does not support several processes.
    found = folder.iterdir() if folder.exists() else ()
    saved = [int(path.name) for path in found if path.name.isdigit() and checkpoint.is_complete(path)]
    newest = int(multihost.gather(str(max(saved, default=0)))[0])
    if newest > done:
      checkpoint.mark(workdir, 'evaluating', newest)
      yield newest
      done = newest
    else:
      time.sleep(POLL)


def compare(workdir: epath.Path, step: int, result: dict[str, Any]) -> None:
  """Marks the checkpoint of `step` if it is the best so far; warns if the run has become much worse than its best.

  Args:
    workdir: of the run; `checkpoint.marks` stores the best step and its value.
    step: of the checkpoint.
    result: of its evaluation. The Frechet distance is compared if there is one (smaller is better), otherwise the
      Inception Score (larger is better).
  """
  if jax.process_index():
    return
  # Results are comparable only if protocol, version, sample count, truncation and seed agree. Each combination has its
  # own best.
  name = 'best-' + '-'.join(str(result[part]) for part in ('protocol', 'samples', 'truncation', 'seed'))
  if (version := result['definition'].get('version', 1)) > 1:
    name += f'-version_{version}'
  value, best = result['value'], checkpoint.marks(workdir).get(name)
  times = 0.0
  if best:
    times = value / best['value'] if 'frechet' in result else best['value'] / value
  if times < 1:
    checkpoint.mark(workdir, name, step, value=value, worse=0)
    return
  worse = best['worse'] + 1 if times >= WORSE else 0
  checkpoint.mark(workdir, name, best['step'], value=best['value'], worse=worse)
  if worse >= 2:
    print(
      f'warning: step {step}: {result["protocol"]} is {value:.3f}, {times:.1f} times worse than at step {best["step"]}, '
      f'whose checkpoint {workdir / "checkpoints" / str(best["step"])} is kept '
      '(to return to it: dvd_gan/runtime/README.md, Going back)',
      file=sys.stderr,
      flush=True,
    )
    writer.to_tensorboard(workdir, step, {writer.tag('alarm'): 1.0})
