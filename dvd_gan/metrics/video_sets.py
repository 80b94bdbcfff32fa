"""Sets of videos to evaluate: real clips, samples of a model, or files in a folder. Reading can start at any batch."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from dvd_gan import models, sample, sampling
from dvd_gan.datasets import evaluation_windows
from dvd_gan.datasets.prepare import decoding
from dvd_gan.datasets.prepare.archives import SUFFIXES
from dvd_gan.metrics.protocols import Protocol
from dvd_gan.runtime import files, run_config
from dvd_gan.runtime.errors import UsageError

NO_LABEL = -1


class VideoSet(NamedTuple):
  """A set of videos.

  Attributes:
    key: everything that determines the videos, for the cache key.
    count: number of videos.
    batches: (first, size) -> pairs of videos, uint8 [n, T, H, W, 3] in numpy or [size, T, H, W, 3] on devices, and
      labels, int32 [n], from video number `first` on. `first` is a multiple of `size`; n < size only in the last pair.
  """

  key: dict[str, Any]
  count: int
  batches: Callable[[int, int], Iterator[tuple[Any, np.ndarray]]]


def real(config: Any, protocol: Protocol, samples: int, loops: int) -> tuple[VideoSet, int]:
  """Real clips of a protocol: the windows to compare with, if it compares, then up to `samples` more.

  The additional windows take the place of samples in the floor and in the metrics of real clips. Clips need no labels.

  Returns:
    (windows, drawn as `protocol.windows` defines; number of clips in the split).

  Raises:
    UsageError: see `sources.open_source`.
  """
  split, frames, seed = protocol.split or config.data.split, protocol.frames or config.data.frames, config.eval.seed
  found = evaluation_windows.Windows(config, split, labelled=False, crop=protocol.crop)
  compared = loops * (protocol.real or samples) if protocol.compares else 0
  if protocol.windows == 'again':
    count = max(compared, min(compared + samples, found.clips))
  elif protocol.windows in ('any', 'replacement'):
    count = compared + samples
  else:
    count = found.clips if protocol.real < 0 else min(compared + samples, found.clips)

  def batches(first, size):
    one_by_one = found.each(first, frames=frames)
    if protocol.windows == 'replacement':
      numbers = np.random.default_rng((seed, 2)).integers(found.clips, size=count)[first:]
      one_by_one = (found.one(int(number), frames=frames) for number in numbers)
    for start in range(first, count, size):
      video, label = zip(*itertools.islice(one_by_one, min(size, count - start)), strict=True)
      yield np.stack(video), np.array(label)

  key = _clips_key(config, found) | {'split': split, 'first_frames': frames, 'found': found.clips}
  key['replacement'] = seed if protocol.windows == 'replacement' else None
  if protocol.crop != 'random':
    key['crop'] = protocol.crop
  return VideoSet({'real': key}, count, batches), found.clips


def _clips_key(config: Any, found: evaluation_windows.Windows) -> dict[str, Any]:
  """Everything except the split that determines the windows of a config's clips."""
  names = ('name', 'dir', 'source', 'resolution', 'frames', 'stride', 'fps', 'clips', 'jpeg_quality', 'short_clips')
  key = {name: config.data[name] for name in names} | {'seed': config.seed}
  if config.data.name == 'array_file':
    key['file'] = files.size_and_time(epath.Path(config.data.source).expanduser())
  if found.decoder > 1:
    key['decoder'] = found.decoder
  return key


def samples(config: Any, opened: sample.Opened, truncation: float, protocol: Protocol) -> VideoSet:
  """Samples of a model, of classes drawn as `protocol.classes` defines.

  In prediction: `protocol.futures` videos per clip of the split, clip by clip. Each begins with its context frames.
  """
  seed, context, futures = config.eval.seed, config.data.context, protocol.futures
  split, frames = protocol.split or config.data.split, protocol.frames or config.data.frames
  count = protocol.samples * protocol.loops
  of_data = bool(context or (config.data.use_labels and protocol.classes != 'uniform'))
  found = evaluation_windows.Windows(config, split, crop=protocol.crop) if of_data else None
  rng = np.random.default_rng((seed, 1))
  if found and not context and protocol.classes == 'data':
    labels = found.clip_labels[rng.integers(found.clips, size=count)]
  elif found and not context:
    labels = found.labels(count)
  else:
    labels = rng.integers(models.num_labels(config), size=count, dtype=np.int32)

  def continued(first):
    clips = found.each(first // futures, frames=context)
    return itertools.islice((clip for clip in clips for _ in range(futures)), first % futures, None)

  def batches(first, size):
    clips = continued(first) if context else None
    for start in range(first, count, size):
      begun, label = None, labels[start : start + size]
      if clips:
        begun, label = map(np.stack, zip(*itertools.islice(clips, len(label)), strict=True))
      video = opened.sampler.batch(opened.standing(truncation), start, label, begun, truncation=truncation, seed=seed)
      if context:
        video = jnp.concatenate([opened.sampler.place(sampling.filled(begun, size)), video], axis=1)
      yield video[:, :frames], label if context or config.data.use_labels else np.full(len(label), NO_LABEL)

  key = {'step': opened.step, 'weights': opened.digest, 'truncation': truncation, 'seed': seed, 'frames': frames}
  key |= {'statistics': [config.sample.statistics_batches, config.sample.statistics_batch_size]}
  key |= {'statistics_remade': True} if opened.recomputed else {}
  gen = config.gen.to_dict() | {'remat': False}  # remat changes no result
  if tuple(gen['context_multipliers']) == run_config.HALF_WIDTHS.get(config.data.resolution):
    gen['context_multipliers'] = ()  # the earlier notation of these widths, so that old cached features stay valid
  key |= {'dtype': config.dtype, 'gen': gen, 'labels': models.num_labels(config)}
  key |= {name: config.data[name] for name in ('resolution', 'frames', 'context')}
  if found:
    key |= {'clips': _clips_key(config, found), 'split': split, 'futures': futures}
    key |= {} if context else {'classes': protocol.classes}
    key |= {'crop': protocol.crop} if protocol.crop != 'random' else {}
  return VideoSet({'samples': key}, count, batches)


def folder(config: Any, frames: int) -> VideoSet:
  """The first frames, at the stored frame rate, of each video file in `eval.videos`.

  `eval.seed` shuffles the files: names are often sorted by class, and a protocol may use only the first files.

  Raises:
    UsageError: if the folder does not exist or has no videos; during iteration, if a file is unreadable or too short.
  """
  root = epath.Path(config.eval.videos).expanduser()
  if not files.is_folder(root):
    raise UsageError(f'eval.videos={config.eval.videos} is not a folder')
  names = sorted(path for path in files.walk(root) if path.lower().endswith(SUFFIXES))
  if not names:
    raise UsageError(f'eval.videos={config.eval.videos} holds no videos ({", ".join(SUFFIXES[:6])}, ...)')
  names = [names[i] for i in np.random.default_rng((config.eval.seed, 3)).permutation(len(names))]
  side = config.data.resolution

  def read(name):
    path = str(root / name)
    try:
      video = decoding.decode(path, short_side=side, fps=None, min_frames=frames, count=frames)
    except (decoding.RejectedError, *files.errors()) as error:
      raise UsageError(f'{files.printable(path)}: {error}') from None
    return decoding.middle(video, side)

  def batches(first, size):
    for start in range(first, len(names), size):
      some = names[start : start + size]
      yield np.stack([read(name) for name in some]), np.full(len(some), NO_LABEL, np.int32)

  listing = [(name, *files.size_and_time(root / name)) for name in names]
  return VideoSet({'folder': listing, 'side': side, 'frames': frames, 'decoder': decoding.VERSION}, len(names), batches)
