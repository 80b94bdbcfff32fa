"""A trained generator for other Python programs: `dvd_gan.load`."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from dvd_gan import export, interpolation, sample, sampling
from dvd_gan.runtime import config_file, run_config
from dvd_gan.runtime.errors import UsageError


class Model:
  """Samples videos from the EMA weights of a run, with the same results as `--mode=sample`.

  Attributes:
    config: the run's config.
    classes: class names, indexed by label; ('',) for a model without classes.
    step: step of the checkpoint.
  """

  def __init__(self, config: Any, opened: sample.Opened):
    self.config, self.classes, self.step = config, opened.classes, opened.step
    self._opened = opened

  def sample(
    self, classes: Sequence[str | int] = (), num: int | None = None, *, seed: int = 0, truncation: float = 1.0
  ) -> np.ndarray:
    """Samples videos.

    Args:
      classes: class names or numbers, used in turn; all classes if empty.
      num: number of videos; by default one per class.
      seed: video i depends only on `seed`, on i and on its class.
      truncation: standard deviation of the latents.

    Returns:
      uint8 [num, T, H, W, 3].

    Raises:
      UsageError: for an unknown class; for a prediction model.
    """
    if self.config.data.context:
      raise UsageError('this model continues videos: predict(context)')
    labels = self._labels(classes, num)
    standing = self._opened.standing(truncation)
    return self._opened.sampler.videos(standing, labels, truncation=truncation, seed=seed)

  def interpolate(
    self,
    kind: str = 'latent',
    classes: Sequence[str | int] = (),
    num: int | None = None,
    *,
    seed: int = 0,
    truncation: float = 1.0,
  ) -> np.ndarray:
    """Interpolates between latents or between classes; see `interpolation.walks`.

    Args:
      kind: 'latent' or 'class'.
      classes: class names or numbers. For 'latent', the class of each walk in turn, all classes if empty. For 'class',
        the classes that each walk visits, up to four by default.
      num: number of walks; by default one per class for 'latent', one for 'class'.
      seed: walk i depends only on `seed`, on i and on its classes.
      truncation: standard deviation of the latents.

    Returns:
      uint8 [num, P, H, W, 3], videos that loop; P is 8 T for 'latent' and 2 T per class for 'class'.

    Raises:
      UsageError: for an unknown kind or class; for a 'class' walk of fewer than two classes; for a prediction model.
    """
    if kind not in ('latent', 'class'):
      raise UsageError(f'kind={kind} is not latent or class')
    config = self._asked(classes, num or (1 if kind == 'class' else None))
    config.sample.interpolate, config.sample.seed = kind, seed
    return interpolation.walks(config, self._opened, truncation)[0]

  def predict(
    self, context: np.ndarray, classes: Sequence[str | int] = (), *, seed: int = 0, truncation: float = 1.0
  ) -> np.ndarray:
    """Continues videos.

    Args:
      context: uint8 [N, C, H, W, 3], the context frames.
      classes: class names or numbers, used in turn, if the model has classes.
      seed: future i depends only on `seed`, on i, on its class and on its context frames.
      truncation: must be 1. Standing statistics for another truncation would have to be computed from training clips.

    Returns:
      uint8 [N, T - C, H, W, 3], the generated frames.

    Raises:
      UsageError: if `context` has another shape or dtype; for another truncation; for an unknown class; for
        a synthesis model.
    """
    data, context = self.config.data, np.asarray(context)
    wanted = (data.context, data.resolution, data.resolution, 3)
    if not data.context or context.dtype != np.uint8 or context.shape[1:] != wanted:
      takes = f'uint8 [N, {", ".join(map(str, wanted))}]' if data.context else 'no context: sample()'
      raise UsageError(f'this model takes {takes}, not {context.dtype} {list(context.shape)}')
    if truncation != 1:
      raise UsageError(
        f'truncation={truncation:g}: predictions need training clips for it: --mode=sample in the workdir'
      )
    labels, standing = self._labels(classes, len(context)), self._opened.standing(1.0)
    return self._opened.sampler.videos(standing, labels, truncation=1.0, seed=seed, context=context)

  def _labels(self, classes: Sequence[str | int], num: int | None) -> np.ndarray:
    return sampling.labels_for(self._asked(classes, num))

  def _asked(self, classes: Sequence[str | int], num: int | None) -> Any:
    """A copy of the config with `classes` as numbers and `num` videos, by default one per class."""
    config = self.config.copy_and_resolve_references()
    config.sample.classes = tuple(classes)
    run_config.number_classes(config, self.classes)
    config.sample.num = num or len(config.sample.classes) or len(self.classes)
    return config


def load(path: str | os.PathLike, step: int | None = None) -> Model:
  """Loads the generator of a run, without optimizers and discriminators; local paths do not need TensorFlow.

  Args:
    path: a run's workdir or a folder written by `--mode=export`, local or gs://.
    step: step of the checkpoint in a workdir; the newest if None.

  Raises:
    UsageError: if there is no run or no such checkpoint.
  """
  workdir = epath.Path(path).expanduser()
  config = config_file.get_config(str(workdir / run_config.FILE))
  config.sample.step, config.sample.truncation, config.sample.classes = step or 0, (1.0,), ()
  if (workdir / export.WEIGHTS).exists():
    return Model(config, export.load(config, workdir))
  return Model(config, sample.open_checkpoint(config, workdir))
