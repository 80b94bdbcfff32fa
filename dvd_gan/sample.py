"""`--mode=sample`: videos of chosen classes at chosen truncations, from the EMA weights of a checkpoint."""

import json
import re
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from dvd_gan import interpolation, sharding, video
from dvd_gan.checkpoint import Checkpoints
from dvd_gan.datasets import evaluation_windows
from dvd_gan.runtime import checksums, multihost, run_config
from dvd_gan.runtime.errors import UsageError
from dvd_gan.sampling import MAX_GRID, Sampler, labels_for, make_sampler, statistics_size

Tree = Any


class Opened(NamedTuple):
  """A checkpoint to sample from."""

  step: int
  sampler: Sampler
  standing_cache: dict[float, Tree]  # standing statistics by truncation; at 1 usually read from the checkpoint
  digest: str  # digest of the EMA weights, to identify them in caches
  classes: tuple[str, ...] = ()  # class names, indexed by label
  recomputed: bool = False  # whether the stored statistics had another size than the config's and were discarded

  def standing(self, truncation: float) -> Tree:
    """Standing statistics at a truncation, computed on first use."""
    if truncation not in self.standing_cache:
      self.standing_cache[truncation] = self.sampler.standing(truncation)
    return self.standing_cache[truncation]


def open_checkpoint(config: Any, workdir: epath.Path, mesh: jax.sharding.Mesh | None = None) -> Opened:
  """Opens the checkpoint of step `sample.step`, the newest if 0, for sampling at `sample.truncation`.

  Args:
    config: the model's config; fields that are left open are filled in.
    workdir: the run's workdir.
    mesh: devices for the weights; by default one device, or all devices if there are several processes.

  Raises:
    UsageError: if there is no such checkpoint, if the model's fields differ from the run's, or if standing statistics
      of a prediction model have to be computed and its training clips are missing.
  """
  folder = workdir / 'checkpoints'
  checkpoints = Checkpoints(folder) if folder.exists() else None
  if checkpoints is None or checkpoints.newest() is None:
    raise UsageError(f'there is no checkpoint in {folder}: train first (--mode=train), or correct --workdir')
  run_config.settle(config, workdir)
  names = run_config.class_names(config, workdir)
  run_config.number_classes(config, names)
  if not config.train.allow_config_change:
    run_config.check(config, workdir)
  # Several processes must run the same program on all devices; a single process needs only one device.
  mesh = mesh or sharding.make_mesh(devices=jax.devices() if multihost.several() else jax.devices()[:1])
  step = config.sample.step
  if step:
    state, stored = checkpoints.restore(step, config, mesh, full_state=False)
  else:
    step, state, stored = checkpoints.restore_newest(config, mesh, set_aside=False, full_state=False)
  size = checkpoints.statistics(step) or run_config.statistics_size(workdir)
  checkpoints.close()
  size = json.loads(multihost.gather(json.dumps(size))[0])  # all hosts use the size that host 0 has read
  recomputed = size is not None and tuple(size) != statistics_size(config)
  stored = None if recomputed else stored
  context = None
  if config.data.context and (stored is None or set(config.sample.truncation) != {1.0}):
    print('computing standing statistics from training clips', file=sys.stderr)
    context = evaluation_windows.context_frames(config)
  sampler = make_sampler(config, state.ema_params, state.gen.spectral, context)
  # A checkpoint that was saved on a signal has no standing statistics.
  standing_cache = {} if stored is None else {1.0: stored}
  return Opened(step, sampler, standing_cache, checksums.digest(state.ema_params), names, recomputed)


def sample(config: Any, workdir: epath.Path) -> None:
  """Writes samples of a checkpoint to `samples/`: one grid per truncation as MP4 and GIF.

  With `sample.each`, also writes each video to its own file. With `sample.interpolate`, the videos are walks.

  Raises:
    UsageError: see `open_checkpoint`, `interpolation.walks`.
  """
  opened = open_checkpoint(config, workdir)
  run_config.open_folder(workdir / 'samples', 'the folder of samples')
  labels, kind, seed = labels_for(config), config.sample.interpolate, config.sample.seed
  for truncation in config.sample.truncation:
    if kind == 'none':
      standing = opened.standing(truncation)
      videos = opened.sampler.videos(standing, labels, truncation=truncation, seed=seed)
      names = [[opened.classes[label]] * videos.shape[1] for label in labels]
    else:
      videos, names = interpolation.walks(config, opened, truncation)
    what = '' if kind == 'none' else f'walk_{kind}_'
    stem = f'step_{opened.step:08d}_{what}truncation_{truncation:g}_seed_{seed}'
    captions = [[', '.join(filter(None, (name, f'{truncation:g}'))) for name in one] for one in names[:MAX_GRID]]
    write(config, workdir, stem, video.grid(videos[:MAX_GRID], config.sample.columns, captions=captions))
    if config.sample.each:
      for i, (one, name) in enumerate(zip(videos, names, strict=True)):
        named = '_'.join(dict.fromkeys(name))
        suffix = f'class_{labels[i]:03d}' if not named or named.isdigit() else re.sub(r'\W+', '_', named)[:60]
        write(config, workdir, f'{stem}_{i:05d}_{suffix}', video.grid(one[None], least=video.MIN_SINGLE))


def write(config: Any, workdir: epath.Path, name: str, one: np.ndarray) -> None:
  """Writes a video, uint8 [T, H, W, 3], to samples/NAME.{mp4,gif} and prints the file names, on process 0 only."""
  if jax.process_index() == 0:
    folder = workdir / 'samples'
    folder.mkdir(parents=True, exist_ok=True)
    print('\n'.join(video.write(folder / name, one, config.sample.fps)))
