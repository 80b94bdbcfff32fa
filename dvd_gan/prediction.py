"""`--mode=sample` for a prediction model: several futures of each clip, with PSNR and SSIM against the real frames."""

import json
from typing import Any

import jax
import numpy as np
from etils import epath

from dvd_gan import sample, sampling, video
from dvd_gan.datasets import evaluation_windows, window
from dvd_gan.datasets.evaluation_windows import Clips
from dvd_gan.datasets.prepare import decoding
from dvd_gan.metrics import similarity
from dvd_gan.runtime import files, run_config
from dvd_gan.runtime.errors import UsageError

DRAWN = 14  # futures of a clip shown in a grid; H.264 limits the width


def predict(config: Any, workdir: epath.Path) -> None:
  """Writes to `samples/`: context frames | real clip | futures as MP4 and GIF, and their PSNR and SSIM as JSON.

  Raises:
    UsageError: see `own_clip`, `sample.open_checkpoint`, `held_out`.
  """
  run_config.settle(config, workdir)
  run_config.number_classes(config, run_config.class_names(config, workdir))
  clips = own_clip(config) if config.sample.video else None
  opened = sample.open_checkpoint(config, workdir)
  run_config.open_folder(workdir / 'samples', 'the folder of samples')
  if clips is None:  # only once a checkpoint is found: preparing a data set may take hours
    clips = held_out(config)
  for truncation in config.sample.truncation:
    made = futures(opened.sampler, opened.standing(truncation), clips, truncation)
    name = f'step_{opened.step:08d}_{_source(config)}_truncation_{truncation:g}_seed_{config.sample.seed}'
    if made.shape[2] > config.data.frames - config.data.context:
      name += f'_rolled_to_{made.shape[2]}_frames'
    rows = max(sampling.MAX_GRID // (2 + min(made.shape[1], DRAWN)), 1)
    sample.write(config, workdir, name, comparison(config, clips.video[:rows], made[:rows]))
    if config.sample.each:
      for i in range(len(made)):
        sample.write(config, workdir, f'{name}_{i:05d}', comparison(config, clips.video[i : i + 1], made[i : i + 1]))
    if found := compare_with_truth(config, clips.video, made):
      about = {'step': opened.step, 'from': _source(config), 'truncation': truncation, 'seed': config.sample.seed}
      if jax.process_index() == 0:
        content = json.dumps(about | found, allow_nan=False) + '\n'
        files.write(workdir / 'samples' / f'{name}.json', content.encode())
        print(summary(found))


def held_out(config: Any) -> Clips:
  """The first `sample.num` windows of `sample.split`; other fields of `sample` do not change them.

  Raises:
    UsageError: if the split does not exist; see also `sources.open_source`.
  """
  try:
    return evaluation_windows.Windows(config, config.sample.split).first(config.sample.num, frames=config.data.frames)
  except UsageError as error:
    raise UsageError(f'sample.split={config.sample.split}: {error}') from None


def own_clip(config: Any) -> Clips:
  """Reads `sample.video` from `sample.start` on, centre-cropped, at the frame rate, stride and size of training.

  Raises:
    UsageError: if the file is missing, cannot be decoded, or has fewer than C frames from there on.
  """
  data, start = config.data, config.sample.start
  path = epath.Path(config.sample.video).expanduser()
  context = window.span(data.context, data.stride)
  if start >= 0:
    part = {'first': round(start * data.fps), 'count': window.span(data.context + _generated(config), data.stride)}
  else:
    part = {'first': -context}
  rate = {'fps': data.fps, 'seconds': data.file_seconds}
  try:
    frames = decoding.decode(str(path), short_side=data.resolution, **part, **rate)
  except (decoding.RejectedError, *files.errors()) as error:
    more = ' (data.file_seconds)' if isinstance(error, decoding.RejectedError) and not error.lasting else ''
    raise UsageError(f'sample.video={config.sample.video}: {error}{more}') from None
  frames = frames[:: data.stride]
  if len(frames) < data.context:
    where = f'from frame {part["first"]} on' if start >= 0 else 'as a whole'
    raise UsageError(
      f'sample.video={config.sample.video} is too short: {where} it has {len(frames)} at {data.fps:g} fps and stride '
      f'{data.stride}; the model needs {data.context} context frames'
    )
  return Clips(decoding.middle(frames, data.resolution)[None], sampling.labels_for(config)[:1])


def futures(sampler: sampling.Sampler, standing: Any, clips: Clips, truncation: float) -> np.ndarray:
  """Generates n = `sample.futures` futures of each clip, uint8 [N, n, F, H, W, 3]; F = `sample.frames`, or T - C if 0.

  If F > T - C, the model is applied repeatedly: the last C frames of the video so far are the next context frames.
  """
  config = sampler.config
  count, context = config.sample.futures, config.data.context
  labels = np.repeat(clips.label, count)
  shown = np.repeat(clips.video[:, :context], count, axis=0)
  part = 0
  while shown.shape[1] < context + _generated(config):
    made = sampler.videos(
      standing, labels, truncation=truncation, seed=config.sample.seed, context=shown[:, -context:], part=part
    )
    shown = np.concatenate([shown, made], axis=1)
    part += 1
  made = shown[:, context : context + _generated(config)]
  return made.reshape(-1, count, *made.shape[1:])


def comparison(config: Any, clips: np.ndarray, made: np.ndarray) -> np.ndarray:
  """A grid with one clip per row: the context frames (the last one is held), the real clip, the futures.

  Args:
    config: the model's config.
    clips: real clips, uint8 [N, L, H, W, 3], which begin with the context frames. Frames after the L-th are grey.
    made: futures, uint8 [N, n, F, H, W, 3].

  Returns:
    uint8 [C + F, grid height, grid width, 3].
  """
  context, made = config.data.context, made[:, :DRAWN]
  length = context + made.shape[2]
  clips = clips[:, None, :length]
  held = clips[:, :, np.minimum(np.arange(length), context - 1)]
  unknown = length - clips.shape[2]
  truth = np.pad(clips, ((0, 0), (0, 0), (0, unknown), *[(0, 0)] * 3), constant_values=128)
  shown = np.repeat(clips[:, :, :context], made.shape[1], axis=1)
  tiles = np.concatenate([held, truth, np.concatenate([shown, made], axis=2)], axis=1)  # [N, 2 + n, C + F, H, W, 3]
  real, rolled = (video.borders(context, trained, length) for trained in (length, config.data.frames))
  borders = np.tile([real, real, *[rolled] * made.shape[1]], (len(made), 1, 1))
  return video.grid(tiles.reshape(-1, *tiles.shape[2:]), tiles.shape[1], borders)


def compare_with_truth(config: Any, clips: np.ndarray, made: np.ndarray) -> dict[str, Any] | None:
  """PSNR and SSIM per frame against the real clips, of the futures and of copying the last context frame.

  Frames after the T-th are not scored, because the model was not trained to generate them. Returns None if the clips
  hold only context frames.
  """
  context = config.data.context
  length = min(clips.shape[1], config.data.frames, context + made.shape[2]) - context
  if not length:
    return None
  truth, made = clips[:, context : context + length], made[:, :, :length]
  numbers = {'clips': len(clips), 'futures': made.shape[1], 'context': context, 'frames': length}
  return numbers | similarity.summary(made, truth, clips[:, context - 1]) | {'spread': similarity.spread(made)}


def summary(found: dict[str, Any]) -> str:
  """The scores in two lines."""
  lines = []
  for name, unit in (('psnr', ' dB'), ('ssim', '')):
    mean, best, copy = (f'{np.mean(found[name][row]):.2f}' for row in ('mean', 'best', 'copy_last'))
    lines.append(f'{name.upper()} {mean}{unit} (best of {found["futures"]}: {best}), copying the last frame: {copy}')
  return '\n'.join(lines)


def _generated(config: Any) -> int:
  """F, the number of frames to generate per clip."""
  return config.sample.frames or config.data.frames - config.data.context


def _source(config: Any) -> str:
  """The origin of the clips, for file names."""
  if config.sample.video:
    start = config.sample.start
    return f'own_{epath.Path(config.sample.video).stem}_{f"from_{start:g}s" if start >= 0 else "end"}'
  return epath.Path(config.data.source).stem if config.data.name == 'array_file' else config.sample.split
