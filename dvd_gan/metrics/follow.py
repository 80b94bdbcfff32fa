"""`eval.follow`: the checkpoints of a run that is training, as they come; the best of them is kept."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from dvd_gan import checkpoint, writer
from dvd_gan.runtime import multihost

POLL = 30  # seconds between looks for a new checkpoint
WORSE = 1.5  # times its best, at two evaluations running: the run has collapsed


def steps(config: Any, workdir: epath.Path) -> Iterator[int]:
  """The newest checkpoint again and again, each marked so that training keeps it while it is evaluated, to the last."""
  done, folder = 0, workdir / 'checkpoints'
  while done < config.train.steps:
    # By the folder's listing: a second manager beside the trainer's own is not for many processes.
    saved = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []
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
    workdir: of the run; `checkpoint.marks` holds what is known of the best.
    step: of the checkpoint.
    result: of its evaluation. Smaller is better where it has a Frechet distance, larger where it is a score alone.
  """
  if jax.process_index():
    return
  # Only numbers of one protocol in one version, of one count, truncation and seed can be compared: each has a best of its own.
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
      f'whose checkpoint is kept: go back to it (dvd_gan/runtime/README.md, Going back)',
      file=sys.stderr,
      flush=True,
    )
    writer.to_tensorboard(workdir, step, {writer.tag('alarm'): 1.0})
