"""Samples videos from a generator: latents, truncation, standing statistics."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dvd_gan import models, sharding
from dvd_gan.datasets import sources
from dvd_gan.datasets.evaluation_windows import Clips
from dvd_gan.models import spectral
from dvd_gan.runtime import backend, progress
from dvd_gan.train_step import to_float

Tree = Any
MAX_GRID = 64  # videos in a grid; players may reject larger frames
STATISTICS_SEED = 0x57A7  # seed of the latents and labels for standing statistics, the same for every model


def statistics_size(config: Any) -> tuple[int, int]:
  """(number of batches, videos per batch) for standing statistics."""
  return config.sample.statistics_batches, config.sample.statistics_batch_size


class Sampler(NamedTuple):
  """A generator ready to sample: compiled calls and a model's weights after spectral norm."""

  config: Any
  weights: Tree
  generate: Any  # (weights, standing, z, label, context) -> uint8 [B, T - C, H, W, 3]
  statistics: Any  # (weights, z, label, context) -> BN statistics of the batch
  context: Clips | None  # training context frames for a prediction model's standing statistics; None for synthesis
  place: Callable[[np.ndarray], Any] = lambda array: array  # puts a batch's inputs onto devices

  def standing(self, truncation: float = 1.0, batches: int = 0) -> Tree:
    """Standing statistics: BN statistics per frame over `batches` batches, by default `sample.statistics_batches`.

    Latents and labels come from a fixed seed. Labels are uniform over all classes, whichever classes are sampled later.
    A prediction model takes context frames and labels from its training clips instead. The variance is that of all
    batches combined (the mean of the variances plus the variance of the means), f32.
    """
    config = self.config
    configured, size = statistics_size(config)
    batches, total = batches or configured, None
    for first in progress.over(range(0, batches * size, size), f'statistics at truncation {truncation:g}'):
      rng = np.random.default_rng((STATISTICS_SEED, first // size))
      z = truncation * rng.standard_normal((size, config.gen.z_dim), np.float32)
      label = rng.integers(models.num_labels(config), size=size, dtype=np.int32)
      frames = _no_frames(config, size)
      if self.context is not None:
        frames, label = self._clips(first, size)
        label = sources.network_labels(config, label)
      moments = _moments(self.statistics(self.weights, z, label, frames))
      total = moments if total is None else jax.tree.map(jnp.add, total, moments)
    return _from_moments(total, batches)

  def conditions(self) -> Clips:
    """Conditioning inputs of `sample.num` samples: classes in turn, or training clips for a prediction model."""
    if self.context is not None:
      return self._clips(0, self.config.sample.num)
    return Clips(_no_frames(self.config, self.config.sample.num), labels_for(self.config))

  def _clips(self, first: int, count: int) -> Clips:
    """`count` training clips from index `first` on, wrapping around at the end."""
    rows = np.arange(first, first + count) % len(self.context.label)
    return Clips(*(part[rows] for part in self.context))

  def warm_up(self) -> None:
    """Compiles what `standing` and `videos` need."""
    context, labels = self.conditions()
    self.videos(self.standing(batches=1), labels[:1], truncation=1.0, seed=0, context=context[:1])

  def deviation(self, standing: Tree) -> float:
    """Diversity of samples within a class: their standard deviation over z, in grey levels.

    Averaged over pixels and over four classes with four samples each. Only for synthesis.
    """
    classes = np.linspace(0, models.num_labels(self.config) - 1, 4).astype(np.int32)
    videos = self.videos(standing, np.repeat(classes, 4), truncation=1.0, seed=self.config.sample.seed)
    return float(videos.reshape(4, 4, *videos.shape[1:]).std(axis=1, ddof=1).mean())

  def videos(
    self,
    standing: Tree,
    labels: np.ndarray,
    *,
    truncation: float,
    seed: int,
    context: np.ndarray | None = None,
    part: int = 0,
  ) -> np.ndarray:
    """Generates one video per label; video i depends only on (seed, i, part, labels[i], context[i]).

    Args:
      standing: standing statistics at this truncation.
      labels: int [N].
      truncation: standard deviation of the latents; truncation in the paper is a smaller standard deviation.
      seed: seed of the latents.
      context: uint8 [N, C, H, W, 3], the context frames; None for synthesis.
      part: index, from 0, of this part of a video that is generated in several parts; each part has its own latents.

    Returns:
      uint8 [N, T - C, H, W, 3].
    """
    size = self.config.sample.batch_size
    done = []
    for first in progress.over(range(0, len(labels), size), 'videos'):
      rows = slice(first, first + size)
      some = None if context is None else context[rows]
      batch = self.batch(standing, first, labels[rows], some, truncation=truncation, seed=seed, part=part)
      done.append(jax.device_get(batch)[: len(labels[rows])])
    return np.concatenate(done)

  def batch(
    self,
    standing: Tree,
    first: int,
    labels: np.ndarray,
    context: np.ndarray | None,
    *,
    truncation: float,
    seed: int,
    part: int = 0,
  ) -> jax.Array:
    """One batch of `videos`, from video `first` on, on the devices: uint8 [sample.batch_size, T - C, H, W, 3].

    Rows after the last label are padding.
    """
    z = [self.latent(seed, first + i, part) for i in range(len(labels))]
    labels = sources.network_labels(self.config, np.asarray(labels, np.int32))
    return self.draw(standing, truncation * np.stack(z), labels, context)

  def latent(self, seed: int, number: int, part: int = 0) -> np.ndarray:
    """z of video `number` at truncation 1, f64 [z_dim]; see `videos`."""
    return np.random.default_rng((seed, number, part)).standard_normal(self.config.gen.z_dim)

  def draw(self, standing: Tree, z: np.ndarray, label: np.ndarray, context: np.ndarray | None = None) -> jax.Array:
    """Applies G to z [n, z_dim], label (int32 [n] or f32 [n, num_classes]) and context, on the devices.

    Returns:
      uint8 [sample.batch_size, T - C, H, W, 3]; rows from n on are padding.
    """
    context = _no_frames(self.config, len(z)) if context is None else context
    inputs = (filled(one, self.config.sample.batch_size) for one in (z.astype(np.float32), label, context))
    return self.generate(self.weights, standing, *map(self.place, inputs))


@functools.lru_cache(maxsize=4)
def compiled(gen: Any) -> tuple[Any, Any]:
  """The jitted functions `generate` and `statistics` of a Sampler for the generator `gen`."""

  def generate(weights, standing, z, label, context):
    out = gen.apply({'params': weights, 'standing': standing}, z, label, to_float(context), train=False)
    return jnp.round((out + 1) * 127.5).astype(jnp.uint8)

  def statistics(weights, z, label, context):
    _, collected = gen.apply({'params': weights}, z, label, to_float(context), train=True, mutable=['standing'])
    return collected['standing']

  options = backend.compiler_options(jax.default_backend())
  return jax.jit(generate, compiler_options=options), jax.jit(statistics, compiler_options=options)


def make_sampler(config: Any, params: Tree, u: Tree, context: Clips | None = None) -> Sampler:
  """Makes a sampler from the EMA parameters of a generator.

  Spectral norms are re-estimated by power iteration from the vectors `u` until they converge. `context` holds training
  context frames for the standing statistics of a prediction model; None for synthesis.
  """
  gen, _ = models.build(config, backend.resamples_in_kernel(config.mesh.resampling, jax.default_backend()))
  params = sharding.gathered(params)
  weights, _, _ = jax.jit(spectral.normalise)(params, spectral.converge(params, u))
  return Sampler(config, weights, *compiled(gen), context)


def filled(array: np.ndarray, size: int) -> np.ndarray:
  """Pads a batch with zero rows to `size` rows, so that all batches share one compilation."""
  return np.pad(array, ((0, size - len(array)), *[(0, 0)] * (array.ndim - 1)))


def _no_frames(config: Any, count: int) -> np.ndarray:
  return np.zeros((count, 0, config.data.resolution, config.data.resolution, 3), np.uint8)


def labels_for(config: Any) -> np.ndarray:
  """Labels of `sample.num` videos, int32: `sample.classes` in turn, or all classes if it is empty."""
  classes = np.array(config.sample.classes or range(models.num_labels(config)), np.int32)
  return np.resize(classes, config.sample.num)


def _moments(statistics: Tree) -> Tree:
  """Converts {'mean', 'var'} to {'mean': E[x], 'var': E[x^2]}, which can be averaged over batches."""
  return _over_norms(lambda norm: {'mean': norm['mean'], 'var': norm['var'] + norm['mean'] ** 2}, statistics)


def _from_moments(total: Tree, count: int) -> Tree:
  def finish(norm):
    mean = norm['mean'] / count
    return {'mean': mean, 'var': jnp.maximum(norm['var'] / count - mean**2, 0.0)}

  return _over_norms(finish, total)


def _over_norms(fn: Any, tree: Tree) -> Tree:
  return jax.tree.map(fn, tree, is_leaf=lambda node: isinstance(node, dict) and 'mean' in node)
