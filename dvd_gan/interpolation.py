"""Walks through the latent space and between classes, as videos that loop.

A walk has P places, each with a latent and a class embedding. Frame p of the walk is frame p mod T of the video
generated at place p, so the motion continues while the content changes. P is a multiple of T and the first place
follows the last one, so the walk can be played in a loop.
"""

from typing import Any

import numpy as np

from dvd_gan import models
from dvd_gan.runtime import progress
from dvd_gan.runtime.errors import UsageError
from dvd_gan.sampling import Sampler, labels_for

LATENT_CLIPS = 8  # length of a latent walk, in multiples of T
CLASS_CLIPS = 2  # length per class, in multiples of T: T frames of the class, then T frames of transition
ROUTE = 4  # classes visited by default


def walks(config: Any, opened: Any, truncation: float) -> tuple[np.ndarray, list[list[str]]]:
  """Generates `sample.num` walks of kind `sample.interpolate`; walk i begins with the z of sample i.

  latent: each walk keeps its class (`sample.classes` in turn). Its latents are a cos(t) + b sin(t) for independent
  latents a and b, so each has the distribution of a sample's latent.
  class: each walk keeps its z and visits `sample.classes` (by default up to four), then returns to the first. Class
  embeddings are interpolated linearly between one class and the next.

  Args:
    config: the model's config, with the request in `sample`.
    opened: the checkpoint, a `sample.Opened`.
    truncation: standard deviation of the latents.

  Returns:
    (videos uint8 [N, P, H, W, 3], with P = 8 T for latents and 2 T per class; the class name of each frame [N][P], in a
    transition that of the class with the larger weight).

  Raises:
    UsageError: for a prediction model; for a class walk through fewer than two classes.
  """
  if config.data.context:
    raise UsageError('sample.interpolate is for synthesis; this model continues clips')
  count, length, seed = config.sample.num, config.data.frames, config.sample.seed
  sampler, names = opened.sampler, opened.classes
  table = np.eye(models.num_labels(config), dtype=np.float32)
  if config.sample.interpolate == 'class':
    classes = list(config.sample.classes) or np.unique(np.linspace(0, len(names) - 1, ROUTE).astype(int)).tolist()
    if len(set(classes)) < 2:
      raise UsageError('a walk from class to class needs two classes or more (sample.classes)')
    leg, way = np.divmod(np.arange(len(classes) * CLASS_CLIPS * length) / length, CLASS_CLIPS)
    here, after = (np.array(classes)[(leg.astype(int) + i) % len(classes)] for i in (0, 1))
    share = np.maximum(way - (CLASS_CLIPS - 1), 0)[:, None].astype(np.float32)  # weight of the next class
    weights = np.tile((1 - share) * table[here] + share * table[after], (count, 1, 1))
    z = np.stack([np.tile(sampler.latent(seed, i), (len(leg), 1)) for i in range(count)])
  else:
    turn = 2 * np.pi * np.arange(LATENT_CLIPS * length)[:, None] / (LATENT_CLIPS * length)
    ends = [(sampler.latent(seed, i), sampler.latent(seed, i, part=1)) for i in range(count)]
    z = np.stack([a * np.cos(turn) + b * np.sin(turn) for a, b in ends])  # [N, P, z_dim]
    weights = np.repeat(table[labels_for(config)][:, None], len(turn), axis=1)  # [N, P, num_classes]
  captions = [[names[label] for label in one] for one in weights.argmax(-1)]
  return _generate(sampler, opened.standing(truncation), truncation * z, weights), captions


def _generate(sampler: Sampler, standing: Any, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """z [N, P, z_dim], class weights [N, P, num_classes] -> uint8 [N, P, H, W, 3]."""
  count, places = z.shape[:2]
  size, length = sampler.config.sample.batch_size, sampler.config.data.frames
  z, weights = z.reshape(count * places, -1), weights.reshape(count * places, -1)
  found = []
  for first in progress.over(range(0, count * places, size), 'places of the walks'):
    rows = np.arange(first, min(first + size, count * places))
    videos = np.asarray(sampler.draw(standing, z[rows], weights[rows]))
    found.append(videos[rows - first, rows % length])  # P is a multiple of T
  return np.concatenate(found).reshape(count, places, *found[0].shape[1:])
