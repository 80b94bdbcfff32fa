"""Samples: latents, truncation, standing statistics, grids; and `--mode=sample`."""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dvd_gan import checksums, hosts, models, record, sharding, video
from dvd_gan.checkpoint import Checkpoints
from dvd_gan.datasets import evaluation_windows, sources
from dvd_gan.datasets.evaluation_windows import Clips
from dvd_gan.errors import UsageError
from dvd_gan.models import spectral
from dvd_gan.train_step import to_float

Tree = Any
MAX_GRID = 64  # videos in a grid, so that it stays a size that players take
STATISTICS_SEED = 0x57A7  # of the latents behind the standing statistics: the same for every model


class Sampler(NamedTuple):
  """A generator ready to sample: compiled calls and a model's weights after spectral norm."""

  config: Any
  weights: Tree
  generate: Any  # (weights, standing, z, label, given) -> uint8 [B, T - C, H, W, 3]
  statistics: Any  # (weights, z, label, given) -> the batch's statistics
  given: Clips | None  # of training clips, for the statistics of a prediction model; None for synthesis
  place: Callable[[np.ndarray], Any] = lambda array: array  # puts a batch's inputs onto devices

  def standing(self, truncation: float = 1.0, batches: int = 0) -> Tree:
    """Standing statistics: `sample.statistics_batches` (or `batches`) batches' BN statistics, averaged, per frame.

    Batches are fixed. Classes are drawn uniformly from all, never only from those asked for; prediction goes through
    its training clips instead. The variance is that of all batches together (the mean of the variances plus the variance
    of the means), f32.
    """
    config = self.config
    size, batches = config.sample.statistics_batch_size, batches or config.sample.statistics_batches
    total = None
    for i in range(batches):
      rng = np.random.default_rng((STATISTICS_SEED, i))
      z = truncation * rng.standard_normal((size, config.gen.z_dim), np.float32)
      label = rng.integers(models.num_labels(config), size=size, dtype=np.int32)
      frames = _no_frames(config, size)
      if self.given is not None:
        frames, label = self._clips(i * size, size)
        label = sources.network_labels(config, label)
      moments = _moments(self.statistics(self.weights, z, label, frames))
      total = moments if total is None else jax.tree.map(jnp.add, total, moments)
    return _from_moments(total, batches)

  def conditions(self) -> Clips:
    """What `sample.num` samples start from: classes in turn, or for a prediction model its training clips."""
    if self.given is not None:
      return self._clips(0, self.config.sample.num)
    return Clips(_no_frames(self.config, self.config.sample.num), labels_for(self.config))

  def _clips(self, first: int, count: int) -> Clips:
    """Training clips from number `first` on; after the last comes the first again."""
    rows = np.arange(first, first + count) % len(self.given.label)
    return Clips(*(part[rows] for part in self.given))

  def warm_up(self) -> None:
    """Compiles what `standing` and `videos` need."""
    given, labels = self.conditions()
    self.videos(self.standing(batches=1), labels[:1], truncation=1.0, seed=0, given=given[:1])

  def deviation(self, standing: Tree) -> float:
    """How far samples of one class lie apart: the standard deviation over z, in grey levels.

    The mean over pixels and over four classes, of four samples each. Of a model for synthesis.
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
    given: np.ndarray | None = None,
    part: int = 0,
  ) -> np.ndarray:
    """One video for each label; video i depends on (seed, i, part, labels[i], given[i]) alone.

    Args:
      standing: statistics at this truncation.
      labels: int [N].
      truncation: standard deviation of the latents: the paper's truncation is a smaller sigma.
      seed: of the latents.
      given: uint8 [N, C, H, W, 3], the frames before; None for synthesis.
      part: of a video that is made in several, from 0; each has its own latents.

    Returns:
      uint8 [N, T - C, H, W, 3].
    """
    size = self.config.sample.batch_size
    done = []
    for first in range(0, len(labels), size):
      rows = slice(first, first + size)
      some = None if given is None else given[rows]
      batch = self.batch(standing, first, labels[rows], some, truncation=truncation, seed=seed, part=part)
      done.append(jax.device_get(batch)[: len(labels[rows])])
    return np.concatenate(done)

  def batch(
    self,
    standing: Tree,
    first: int,
    labels: np.ndarray,
    given: np.ndarray | None,
    *,
    truncation: float,
    seed: int,
    part: int = 0,
  ) -> jax.Array:
    """Videos number `first` and on, of `videos`, on the devices: uint8 [sample.batch_size, T - C, H, W, 3].

    Where fewer labels are given the rest is filled up.
    """
    count, size = len(labels), self.config.sample.batch_size
    numbers = range(first, first + count)
    z = np.stack([np.random.default_rng((seed, i, part)).standard_normal(self.config.gen.z_dim) for i in numbers])
    given = _no_frames(self.config, count) if given is None else given
    labels = sources.network_labels(self.config, np.asarray(labels, np.int32))
    inputs = (truncation * z).astype(np.float32), labels, given
    return self.generate(self.weights, standing, *(self.place(filled(one, size)) for one in inputs))


@functools.lru_cache(maxsize=4)
def _compiled(gen: Any) -> tuple[Any, Any]:
  def generate(weights, standing, z, label, given):
    out = gen.apply({'params': weights, 'standing': standing}, z, label, to_float(given), train=False)
    return jnp.round((out + 1) * 127.5).astype(jnp.uint8)

  def statistics(weights, z, label, given):
    _, collected = gen.apply({'params': weights}, z, label, to_float(given), train=True, mutable=['standing'])
    return collected['standing']

  options = sharding.compiler_options(jax.default_backend())
  return jax.jit(generate, compiler_options=options), jax.jit(statistics, compiler_options=options)


def make_sampler(config: Any, params: Tree, u: Tree, given: Clips | None = None) -> Sampler:
  """A sampler of generator parameters (the EMA's), spectral norm re-estimated to convergence from vectors `u`.

  `given` is what the standing statistics of a prediction model go through; None for synthesis.
  """
  gen, _ = models.build(config, sharding.resamples_in_kernel(config.mesh.resampling))
  params = sharding.gathered(params)
  weights, _, _ = jax.jit(spectral.normalise)(params, spectral.converge(params, u))
  return Sampler(config, weights, *_compiled(gen), given)


def filled(array: np.ndarray, size: int) -> np.ndarray:
  """A batch with zeros after its last row up to `size` rows: one shape, one compilation."""
  return np.pad(array, ((0, size - len(array)), *[(0, 0)] * (array.ndim - 1)))


def _no_frames(config: Any, count: int) -> np.ndarray:
  return np.zeros((count, 0, config.data.resolution, config.data.resolution, 3), np.uint8)


def labels_for(config: Any) -> np.ndarray:
  """The class of each video asked for: `sample.classes` in turn (all where it is empty), `sample.num` in all."""
  classes = np.array(config.sample.classes or range(models.num_labels(config)), np.int32)
  return np.resize(classes, config.sample.num)


class Opened(NamedTuple):
  """A checkpoint to sample from."""

  step: int
  sampler: Sampler
  known: dict[float, Tree]  # standing statistics by truncation: those stored with it, at 1, and what `standing` adds
  digest: str  # of the EMA weights: another training has another

  def standing(self, truncation: float) -> Tree:
    """Standing statistics at a truncation, made when they are first asked for."""
    if truncation not in self.known:
      self.known[truncation] = self.sampler.standing(truncation)
    return self.known[truncation]


def open_checkpoint(config: Any, workdir: epath.Path, mesh: jax.sharding.Mesh | None = None) -> Opened:
  """The checkpoint `sample.step`, or the newest, with all that `sample.truncation` needs.

  Args:
    config: of the model.
    workdir: of its run.
    mesh: where its weights go; by default one device, or all where there are many hosts.

  Raises:
    UsageError: if there is none, or if standing statistics of a prediction model have to be made and its training clips
      are not there.
  """
  folder = workdir / 'checkpoints'
  checkpoints = Checkpoints(folder) if folder.exists() else None
  if checkpoints is None or checkpoints.newest() is None:
    raise UsageError(f'{workdir} has no checkpoint to sample from; train first (--mode=train)')
  if not config.train.allow_config_change:
    record.check(config, workdir)
  # Many hosts are one program, which has to run on all of them; alone one device will do.
  mesh = mesh or sharding.make_mesh(devices=jax.devices() if hosts.several() else jax.devices()[:1])
  step = config.sample.step
  if step:
    state, stored = checkpoints.restore(step, config, mesh)
  else:
    step, state, stored = checkpoints.restore_newest(config, mesh, set_aside=False)
  checkpoints.close()
  given = None
  if config.data.given and (stored is None or set(config.sample.truncation) != {1.0}):
    print('standing statistics are not stored for this: they are made from training clips', file=sys.stderr)
    given = evaluation_windows.given_frames(config)
  sampler = make_sampler(config, state.ema_params, state.gen.spectral, given)
  # A run stopped by a signal stored none.
  known = {} if stored is None else {1.0: stored}
  return Opened(step, sampler, known, checksums.digest(state.ema_params))


def sample(config: Any, workdir: epath.Path) -> None:
  """Writes `samples/` of a checkpoint: for each truncation a grid as MP4 and GIF, and with `sample.each` every video.

  Raises:
    UsageError: see `open_checkpoint`.
  """
  opened = open_checkpoint(config, workdir)
  labels = labels_for(config)
  for truncation in config.sample.truncation:
    standing = opened.standing(truncation)
    videos = opened.sampler.videos(standing, labels, truncation=truncation, seed=config.sample.seed)
    name = f'step_{opened.step:08d}_truncation_{truncation:g}_seed_{config.sample.seed}'
    write(config, workdir, name, video.grid(videos[:MAX_GRID], config.sample.columns))
    if config.sample.each:
      for i, (one, label) in enumerate(zip(videos, labels, strict=True)):
        write(config, workdir, f'{name}_{i:05d}_class_{label:03d}', one)


def write(config: Any, workdir: epath.Path, name: str, one: np.ndarray) -> None:
  """Writes a video, uint8 [T, H, W, 3], to samples/NAME.{mp4,gif} and prints their names; from the first process."""
  if jax.process_index() == 0:
    folder = workdir / 'samples'
    folder.mkdir(parents=True, exist_ok=True)
    print('\n'.join(video.write(folder / name, one, config.sample.fps)))


def _moments(statistics: Tree) -> Tree:
  """{'mean', 'var'} leaves to {'mean': E[x], 'var': E[x^2]}, which average over batches."""
  return _over_norms(lambda norm: {'mean': norm['mean'], 'var': norm['var'] + norm['mean'] ** 2}, statistics)


def _from_moments(total: Tree, count: int) -> Tree:
  def finish(norm):
    mean = norm['mean'] / count
    return {'mean': mean, 'var': jnp.maximum(norm['var'] / count - mean**2, 0.0)}

  return _over_norms(finish, total)


def _over_norms(fn: Any, tree: Tree) -> Tree:
  return jax.tree.map(fn, tree, is_leaf=lambda node: isinstance(node, dict) and 'mean' in node)
