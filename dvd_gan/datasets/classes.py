"""Compares the config's number of classes with the data set's."""

import functools
import sys
from typing import Any

from dvd_gan.runtime.errors import UsageError


def count_classes(config: Any, classes: tuple[str, ...], *, all_there: bool = True) -> None:
  """Sets `data.num_classes`, if it is 0, to the number of classes of a data set; warns if it is larger.

  Args:
    config: reads and sets data.
    classes: class names.
    all_there: whether every class has clips. If False, too small a number is only detected when labels are read.

  Raises:
    UsageError: if it is smaller and `all_there`.
  """
  data, count = config.data, len(classes)
  if not (data.use_labels and count):
    return
  data.num_classes = data.num_classes or count
  if data.num_classes < count and all_there:
    raise UsageError(
      f'the data set has {count} classes, but the command, or the run in the workdir, has data.num_classes='
      f'{data.num_classes}: start a new run with --config.data.num_classes={count}'
    )
  if data.num_classes > count:
    _warn(f'data.num_classes={data.num_classes}, but the data set has only {count} classes')


@functools.cache  # warns once, although evaluation opens a data set several times
def _warn(message: str) -> None:
  print(f'warning: {message}', file=sys.stderr)
