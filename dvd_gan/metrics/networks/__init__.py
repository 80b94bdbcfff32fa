"""The networks of the metrics, and jitted feature extractors for uint8 videos."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dvd_gan.metrics.networks import c3d, i3d, i3d_weights, resize, shapes_classifier
from dvd_gan.runtime import backend
from dvd_gan.runtime.errors import UsageError

Features = dict[str, jax.Array]


class Network(NamedTuple):
  """A network with its weights.

  Attributes:
    apply: (params, f32 [N, T, H, W, 3] in [-1, 1]) -> features by name, [N, ...].
    params: its weights.
    sha256: digests of the weight files by file name, and any other setting that changes the features.
  """

  apply: Callable[[Any, jax.Array], Features]
  params: Any
  sha256: dict[str, str]


def load(name: str, files: Any) -> Network:
  """Loads a network.

  Args:
    name: 'i3d_400', 'i3d_600', 'c3d_101' (TGANv2's scale of pixels), 'c3d_101_255' (MAGVIT's) or 'shapes'.
    files: the config's `eval`, whose i3d_400, i3d_600, c3d and c3d_mean are paths.

  Raises:
    UsageError: if the name is unknown, or if the weights are missing or do not fit the network.
  """
  if name in ('i3d_400', 'i3d_600'):
    classes, path = int(name[4:]), files[name]
    if name == 'i3d_600' and not path:
      raise UsageError(
        'i3d_600 is in no package: give the checkpoint rgb_scratch_kin600 of google-deepmind/kinetics-i3d as '
        '--config.eval.i3d_600=PATH'
      )
    weights = i3d_weights.load(path, num_classes=classes)
    return Network(functools.partial(_i3d, i3d.I3D(classes)), weights.params, weights.sha256)
  if name in ('c3d_101', 'c3d_101_255'):
    if not (files.c3d and files.c3d_mean):
      raise UsageError(
        'c3d_101 is in no package: give conv3d_deepnetA_ucf.npz and mean2.npz of pfnet-research/tgan2 as '
        '--config.eval.c3d=PATH --config.eval.c3d_mean=PATH'
      )
    weights = c3d.load(files.c3d, files.c3d_mean)
    if name == 'c3d_101':
      return Network(functools.partial(_c3d, c3d.C3D()), weights.params, weights.sha256)
    net = functools.partial(_c3d, c3d.C3D(full_scale=127.5))
    return Network(net, weights.params, weights.sha256 | {'full_scale': '127.5'})
  if name == 'shapes':
    weights = shapes_classifier.load()
    return Network(_apply(shapes_classifier.ShapesClassifier()), weights.params, weights.sha256)
  raise UsageError(f'no network {name}')


def _apply(module: Any) -> Callable[[Any, jax.Array], Features]:
  return lambda params, video: module.apply({'params': params}, video)


def _i3d(module: i3d.I3D, params: Any, video: jax.Array) -> Features:
  out = module.apply({'params': params}, video)
  return {
    'logits': out['logits'],
    'average_pool': out['average_pool'],
    'probabilities': jax.nn.softmax(out['logits'], axis=-1),
  }


def _c3d(module: c3d.C3D, params: Any, video: jax.Array) -> Features:
  return {'probabilities': module.apply({'params': params}, video)['probabilities']}


def prepared(video: jax.Array, chain: tuple[tuple[int, str], ...]) -> jax.Array:
  """uint8 [N, T, H, W, 3] -> f32 in [-1, 1], resized to each size in `chain` in order, without rounding."""
  for size, method in chain:
    video = resize.resize(video, size, method)
  return video.astype(jnp.float32) / 127.5 - 1


@functools.lru_cache
def extractor(
  apply: Callable[[Any, jax.Array], Features], chain: tuple[tuple[int, str], ...], twice_below: int, everywhere: Any
) -> Any:
  """The jitted function (params, uint8 video) -> replicated features; for `twice_below` see `Protocol`."""

  def extract(params, video):
    video = jnp.repeat(video, 2, axis=1) if video.shape[1] < twice_below else video
    return apply(params, prepared(video, chain))

  return jax.jit(extract, out_shardings=everywhere, compiler_options=backend.compiler_options(jax.default_backend()))
