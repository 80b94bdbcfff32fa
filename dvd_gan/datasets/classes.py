"""How many classes a data set has, and the config's number of them."""

import functools
import sys
from typing import Any

from dvd_gan.runtime.errors import UsageError


def count_classes(config: Any, classes: tuple[str, ...], *, all_there: bool = True) -> None:
  """Sets `data.num_classes` where it is left open (0) to the number of a data set's classes; warns where it is larger.

  Args:
    config: reads and sets data.
    classes: names.
    all_there: whether each has clips. Where some may have none, too few labels are found out when these are read.

  Raises:
    UsageError: if it is smaller.
  """
  data, count = config.data, len(classes)
  if not (data.use_labels and count):
    return
  data.num_classes = data.num_classes or count
  if data.num_classes < count and all_there:
    raise UsageError(
      f'the data have {count} classes, the model {data.num_classes} (data.num_classes, of the command or of the run in the '
      f'workdir): a new run would take --config.data.num_classes={count}'
    )
  if data.num_classes > count:
    _warn(f'data.num_classes={data.num_classes}, but the data have only {count} classes')


@functools.cache  # once: evaluation opens a data set several times
def _warn(message: str) -> None:
  print(f'warning: {message}', file=sys.stderr)
