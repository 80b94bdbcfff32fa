"""The trained networks; `build` constructs them. Only this folder and dvd_gan/metrics/networks import flax."""

from typing import Any

import jax
import jax.numpy as jnp

from dvd_gan.configs import fields
from dvd_gan.models import initialisation
from dvd_gan.models.discriminators import DualDiscriminator
from dvd_gan.models.generator import Generator
from dvd_gan.runtime.errors import UsageError

# Widths by resolution (README.md here), in units of gen.ch (stem, then each unit) and of disc.ch (each block). The
# paper's widths start at resolution 64; those below are ours.
GEN_MULTIPLIERS = {
  8: (4, 2),
  16: (8, 4, 2),
  32: (8, 8, 4, 2),
  64: (8, 8, 8, 4, 2),
  128: (8, 8, 8, 4, 4, 2),
  256: (8, 8, 8, 4, 4, 2, 1),
}
DISC_MULTIPLIERS = {
  8: (2, 4, 8),
  16: (2, 4, 8),
  32: (2, 4, 8, 8),
  64: (2, 4, 8, 16, 16),
  128: (1, 2, 4, 8, 16, 16),
  256: (1, 2, 4, 8, 8, 16, 16),
}


def num_labels(config: Any) -> int:
  """Size of the networks' label vocabulary; 1 without `data.use_labels`.

  Raises:
    UsageError: if `data.num_classes` is 0 and the classes must first be counted in the data set.
  """
  data = config.data
  count = (data.num_classes or fields.KNOWN_CLASSES.get(data.name, 0)) if data.use_labels else 1
  if not count:
    raise UsageError(f'classes of {data.name} are counted in the data; without them give --config.data.num_classes=N')
  return count


def context_multipliers(config: Any) -> tuple[int, ...]:
  """Width of each block over context frames in units of gen.ch, finest first; by default D's, as in the paper."""
  units = config.data.resolution.bit_length() - 3
  disc = tuple(config.disc.multipliers) or DISC_MULTIPLIERS[config.data.resolution]
  return tuple(config.gen.context_multipliers) or (*disc, *[disc[-1]] * units)[:units]


def build(config: Any, resample_in_kernel: bool = False) -> tuple[Generator, DualDiscriminator]:
  """The generator and the two discriminators of a config (`configs/default.py`).

  Args:
    config: the ConfigDict, already validated.
    resample_in_kernel: see backend.resamples_in_kernel; does not change parameters or results.
  """
  resolution = config.data.resolution
  context = context_multipliers(config) if config.data.context else ()
  gen = Generator(
    frames=config.data.frames - config.data.context,
    ch=config.gen.ch,
    multipliers=tuple(config.gen.multipliers) or GEN_MULTIPLIERS[resolution],
    num_classes=num_labels(config),
    embed_dim=config.gen.embed_dim,
    attention=tuple(config.gen.attention),
    activation=config.gen.activation,
    upsampling=config.gen.upsampling,
    over_time=config.gen.bn_over_time,
    context_widths=tuple(multiplier * config.gen.ch for multiplier in context),
    from_last_frame=config.gen.from_last_frame,
    remat=config.gen.remat,
    resample_in_kernel=resample_in_kernel,
    dtype=jnp.dtype(config.dtype),
  )
  disc = DualDiscriminator(
    ch=config.disc.ch,
    multipliers=tuple(config.disc.multipliers) or DISC_MULTIPLIERS[resolution],
    num_classes=num_labels(config),
    pool=config.disc.pool if config.disc.phi == 'pool' else 1,  # with 'crop' the train step crops instead
    parts=tuple(config.disc.parts),
    attention=tuple(config.disc.attention),
    remat=config.disc.remat,
    resample_in_kernel=resample_in_kernel,
    dtype=jnp.dtype(config.dtype),
  )
  return gen, disc


def shapes(config: Any) -> tuple[Any, Any]:
  """ShapeDtypeStructs of the parameters (generator, discriminators) of a config."""
  gen, disc = build(config)
  # Parameters depend neither on the batch nor on T, so the smallest inputs suffice.
  gen = gen.clone(frames=1)
  size = config.data.resolution

  def init_both():
    key, z, label = jax.random.key(0), jnp.zeros((1, config.gen.z_dim)), jnp.zeros((1,), jnp.int32)
    video = jnp.zeros((1, 4, size, size, 3))
    context = jnp.zeros((1, config.data.context, size, size, 3))
    return gen.init(key, z, label, context, train=True)['params'], disc.init(key, video, video, label)['params']

  return jax.eval_shape(init_both)


def standing_shapes(config: Any) -> Any:
  """ShapeDtypeStructs of the generator's standing statistics of a config."""
  gen, _ = build(config)

  def collect(params):
    z, label = jnp.zeros((2, config.gen.z_dim)), jnp.zeros((2,), jnp.int32)
    context = jnp.zeros((2, config.data.context, config.data.resolution, config.data.resolution, 3))
    return gen.apply({'params': params}, z, label, context, train=True, mutable=['standing'])[1]['standing']

  return jax.eval_shape(collect, shapes(config)[0])


def init(config: Any) -> tuple[Any, Any]:
  """Initial parameters (generator, discriminators) of a config, f32 numpy, a pure function of `config.seed`."""
  return tuple(initialisation.orthogonal((config.seed, net), tree) for net, tree in enumerate(shapes(config)))
