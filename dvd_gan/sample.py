"""Samples: latents, truncation, standing statistics, grids; and `--mode=sample`."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dvd_gan import hosts, models, record, sharding, video
from dvd_gan.checkpoint import Checkpoints
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
  given: (
    np.ndarray
  )  # uint8 [N, C, H, W, 3]: training clips' first frames for the statistics, in turn; C = 0 in synthesis

  def standing(self, truncation: float = 1.0, batches: int = 0) -> Tree:
    """Standing statistics: `sample.statistics_batches` (or `batches`) batches' BN statistics, averaged, per frame.

    Batches are fixed. Classes are drawn uniformly from all, never only from those asked for. The variance is that of all batches
    together (the mean of the variances plus the variance of the means), f32.
    """
    config = self.config
    size, batches = config.sample.statistics_batch_size, batches or config.sample.statistics_batches
    total = None
    for i in range(batches):
      rng = np.random.default_rng((STATISTICS_SEED, i))
      z = truncation * rng.standard_normal((size, config.gen.z_dim), np.float32)
      label = rng.integers(config.data.num_classes if config.data.use_labels else 1, size=size, dtype=np.int32)
      given = np.take(self.given, np.arange(i * size, (i + 1) * size), axis=0, mode='wrap')
      moments = _moments(self.statistics(self.weights, z, label, given))
      total = moments if total is None else jax.tree.map(jnp.add, total, moments)
    return _from_moments(total, batches)

  def clips(self, count: int) -> np.ndarray:
    """Given frames from the pool, in turn, uint8 [count, C, H, W, 3]."""
    return np.take(self.given, np.arange(count), axis=0, mode='wrap')

  def warm_up(self) -> None:
    """Compiles what `standing` and `videos` need."""
    self.videos(self.standing(batches=1), labels_for(self.config)[:1], truncation=1.0, seed=0, given=self.given[:1])

  def videos(
    self, standing: Tree, labels: np.ndarray, *, truncation: float, seed: int, given: np.ndarray | None = None
  ) -> np.ndarray:
    """One video for each label, uint8 [N, T - C, H, W, 3]; video i depends on (seed, i, labels[i], given[i]) alone.

    Latents are N(0, truncation^2): the paper's truncation is a smaller sigma. `given` is uint8 [N, C, H, W, 3], None for
    synthesis.
    """
    config = self.config
    z = np.stack([np.random.default_rng((seed, i)).standard_normal(config.gen.z_dim) for i in range(len(labels))])
    z = (truncation * z).astype(np.float32)
    size = config.sample.batch_size
    given = self.clips(len(labels))[:, :0] if given is None else given
    done = []
    for start in range(0, len(labels), size):
      part = slice(start, start + size)
      # The last batch is filled up: one shape, one compilation.
      fill = size - len(labels[part])
      padded_z = np.pad(z[part], ((0, fill), (0, 0)))
      padded_label = np.pad(np.asarray(labels[part], np.int32), (0, fill))
      padded_given = np.pad(given[part], ((0, fill), *[(0, 0)] * 4))
      batch = self.generate(self.weights, standing, padded_z, padded_label, padded_given)
      done.append(jax.device_get(batch)[: size - fill])
    return np.concatenate(done)


@functools.lru_cache(maxsize=4)
def _compiled(gen: Any) -> tuple[Any, Any]:
  def generate(weights, standing, z, label, given):
    out = gen.apply({'params': weights, 'standing': standing}, z, label, to_float(given), train=False)
    return jnp.round((out + 1) * 127.5).astype(jnp.uint8)

  def statistics(weights, z, label, given):
    _, collected = gen.apply({'params': weights}, z, label, to_float(given), train=True, mutable=['standing'])
    return collected['standing']

  return jax.jit(generate), jax.jit(statistics)


def make_sampler(config: Any, params: Tree, u: Tree, given: np.ndarray | None = None) -> Sampler:
  """A sampler of generator parameters (the EMA's), spectral norm re-estimated to convergence from vectors `u`.

  `given` is the pool of given frames of a prediction model, uint8 [N, C, H, W, 3]; None for synthesis.
  """
  gen, _ = models.build(config)
  params = sharding.gathered(params)
  weights, _, _ = jax.jit(spectral.normalise)(params, spectral.converge(params, u))
  if given is None:
    given = np.zeros((1, 0, config.data.resolution, config.data.resolution, 3), np.uint8)
  return Sampler(config, weights, *_compiled(gen), given)


def labels_for(config: Any) -> np.ndarray:
  """The class of each video asked for: `sample.classes` in turn (all where it is empty), `sample.num` in all."""
  classes = np.array(config.sample.classes or range(config.data.num_classes), np.int32)
  return np.resize(classes, config.sample.num)


def sample(config: Any, workdir: epath.Path) -> None:
  """Writes `samples/` of a checkpoint: for each truncation a grid as MP4 and GIF, and with `sample.each` every video.

  Raises:
    UsageError: if there is no checkpoint.
  """
  folder = workdir / 'checkpoints'
  checkpoints = Checkpoints(folder) if folder.exists() else None
  if checkpoints is None or checkpoints.newest() is None:
    raise UsageError(f'{workdir} has no checkpoint to sample from; train first (--mode=train)')
  if not config.train.allow_config_change:
    record.check(config, workdir)
  if config.data.given:
    raise UsageError('--mode=sample of a prediction model is not here yet')
  # Many hosts are one program, which has to run on all of them; alone one device will do.
  mesh = sharding.make_mesh(devices=jax.devices() if hosts.several() else jax.devices()[:1])
  step = config.sample.step
  if step:
    state, stored = checkpoints.restore(step, config, mesh)
  else:
    step, state, stored = checkpoints.restore_newest(config, mesh, set_aside=False)
  checkpoints.close()
  sampler = make_sampler(config, state.ema_params, state.gen.spectral)
  del state
  labels = labels_for(config)
  folder = workdir / 'samples'
  folder.mkdir(parents=True, exist_ok=True)
  for truncation in config.sample.truncation:
    # The stored statistics are those at truncation 1; a run stopped by a signal left none.
    standing = stored if truncation == 1.0 and stored is not None else sampler.standing(truncation)
    videos = sampler.videos(standing, labels, truncation=truncation, seed=config.sample.seed)
    if jax.process_index():
      continue
    name = f'step_{step:08d}_truncation_{truncation:g}_seed_{config.sample.seed}'
    files = video.write(folder / name, video.grid(videos[:MAX_GRID], config.sample.columns), config.sample.fps)
    if config.sample.each:
      for i, (one, label) in enumerate(zip(videos, labels, strict=True)):
        files += video.write(folder / f'{name}_{i:05d}_class_{label:03d}', one, config.sample.fps)
    print('\n'.join(files))


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
