"""`--mode=sample` of a prediction model: clips, each with several futures, and how close these come to the truth."""

import json
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from dvd_gan import files, sample, video
from dvd_gan.datasets import decoding, pipeline, window
from dvd_gan.errors import UsageError
from dvd_gan.metrics import similarity

# Colours of a frame's border.
GIVEN = (0, 200, 0)
GENERATED = (0, 0, 0)
ROLLED = (255, 140, 0)  # generated from generated frames, beyond what the model was trained for


class Clips(NamedTuple):
  """Clips to continue: uint8 [N, L, H, W, 3], the C given frames and as many after them as are known; labels [N]."""

  video: np.ndarray
  label: np.ndarray


def predict(config: Any, workdir: epath.Path) -> None:
  """Writes `samples/` of a checkpoint: given frames | truth | futures as MP4 and GIF, and their scores as JSON.

  Raises:
    UsageError: see `sample.open_checkpoint`, `held_out`, `own_clip`.
  """
  clips = own_clip(config) if config.sample.video else held_out(config)
  opened = sample.open_checkpoint(config, workdir)
  for truncation in config.sample.truncation:
    made = futures(opened.sampler, opened.standing(truncation), clips, truncation)
    name = f'step_{opened.step:08d}_{_source(config)}_truncation_{truncation:g}_seed_{config.sample.seed}'
    if made.shape[2] > config.data.frames - config.data.given:
      name += f'_rolled_to_{made.shape[2]}_frames'
    sample.write(config, workdir, pictures(config, name, clips.video, made))
    if found := scores(config, clips.video, made):
      about = {'step': opened.step, 'from': _source(config), 'truncation': truncation, 'seed': config.sample.seed}
      if jax.process_index() == 0:
        files.write(workdir / 'samples' / f'{name}.json', (json.dumps(about | found) + '\n').encode())
        print(told(found))


def held_out(config: Any) -> Clips:
  """`sample.num` windows of clips of `sample.split`; UsageError where there are none."""
  clips, label = pipeline.held_out(config, config.sample.num)
  return Clips(clips, pipeline.labels_told(config, label))


def own_clip(config: Any) -> Clips:
  """The user's file `sample.video` from `sample.start` on, at the training's rate, stride and size, its middle square.

  Raises:
    UsageError: if the file is missing, is no video that can be read to its end, or has fewer than C frames there.
  """
  data, sample_ = config.data, config.sample
  path = epath.Path(sample_.video).expanduser()
  try:
    source = path.read_bytes() if files.is_remote(path) else str(path)
    frames = decoding.decode(source, short_side=data.resolution, fps=data.fps, seconds=data.file_seconds)
  except (decoding.RejectedError, *files.errors()) as error:
    raise UsageError(f'sample.video={sample_.video}: {error}') from None
  first = round(sample_.start * data.fps)
  if first < 0:
    first = max(len(frames) - window.span(data.given, data.stride), 0)  # the last C frames
  frames = frames[first :: data.stride]
  if len(frames) < data.given:
    raise UsageError(
      f'sample.video={sample_.video} is too short: from frame {first} on it has {len(frames)} at {data.fps:g} fps and '
      f'stride {data.stride}; the model is given {data.given}'
    )
  top, left = ((side - data.resolution) // 2 for side in frames.shape[1:3])
  frames = frames[None, : data.given + _generated(config), top : top + data.resolution, left : left + data.resolution]
  return Clips(frames, sample.labels_for(config)[:1])


def futures(sampler: sample.Sampler, standing: Any, clips: Clips, truncation: float) -> np.ndarray:
  """`sample.futures` of each clip, uint8 [N, n, F, H, W, 3], F = `sample.frames` or as many as trained.

  More than trained are made by rolling forward: the last C frames, generated ones by then, are given again.
  """
  config = sampler.config
  count, given = config.sample.futures, config.data.given
  labels = np.repeat(clips.label, count)
  shown = np.repeat(clips.video[:, :given], count, axis=0)
  part = 0
  while shown.shape[1] < given + _generated(config):
    made = sampler.videos(
      standing, labels, truncation=truncation, seed=config.sample.seed, given=shown[:, -given:], part=part
    )
    shown = np.concatenate([shown, made], axis=1)
    part += 1
  made = shown[:, given : given + _generated(config)]
  return made.reshape(-1, count, *made.shape[1:])


def pictures(config: Any, name: str, clips: np.ndarray, made: np.ndarray) -> dict[str, np.ndarray]:
  """Files to write: clips in rows, in columns the given frames (the last of them held), the truth, the futures.

  With `sample.each` a file for each clip too. Where the truth is not known its column is grey.
  """
  given, length = config.data.given, made.shape[2]
  after = np.minimum(np.arange(given + length), given - 1)
  held = clips[:, None, after]
  truth = np.pad(
    clips[:, None], ((0, 0), (0, 0), (0, given + length - clips.shape[1]), *[(0, 0)] * 3), constant_values=128
  )
  shown = np.repeat(clips[:, None, :given], made.shape[1], axis=1)
  tiles = np.concatenate([held, truth, np.concatenate([shown, made], axis=2)], axis=1)  # [N, 2 + n, C + F, H, W, 3]
  columns = tiles.shape[1]
  colours = borders(config, given + length)

  def grid(rows):
    return video.grid(rows.reshape(-1, *rows.shape[2:]), columns, colours)

  written = {name: grid(tiles[: max(sample.MAX_GRID // columns, 1)])}
  if config.sample.each:
    written |= {f'{name}_{i:05d}': grid(row[None]) for i, row in enumerate(tiles)}
  return written


def borders(config: Any, length: int) -> np.ndarray | None:
  """Colour of each frame's border, uint8 [length, 3]: given, generated, rolled; None for synthesis."""
  data = config.data
  if not data.given:
    return None
  counts = (data.given, data.frames - data.given, max(length - data.frames, 0))
  return np.repeat(np.array([GIVEN, GENERATED, ROLLED], np.uint8), counts, axis=0)[:length]


def scores(config: Any, clips: np.ndarray, made: np.ndarray) -> dict[str, Any] | None:
  """PSNR and SSIM by frame against the truth, beside copying the last given frame; None where there is no truth.

  Rolled frames do not count: the model was not trained to make them.
  """
  data = config.data
  length = min(clips.shape[1], data.frames, data.given + made.shape[2]) - data.given
  if not length:
    return None
  truth, made = clips[:, data.given : data.given + length], made[:, :, :length]
  found = similarity.summary(made, truth, clips[:, data.given - 1])
  numbers = {'clips': len(clips), 'futures': made.shape[1], 'given': data.given, 'frames': length}
  return numbers | found | {'spread': similarity.spread(made)}


def told(found: dict[str, Any]) -> str:
  """The scores in two lines."""
  lines = []
  for name, unit in (('psnr', ' dB'), ('ssim', '')):
    mean, best, copy = (f'{np.mean(found[name][row]):.2f}' for row in ('mean', 'best', 'copy_last'))
    lines.append(f'{name.upper()} {mean}{unit} (best of {found["futures"]}: {best}), copying the last frame: {copy}')
  return '\n'.join(lines)


def _generated(config: Any) -> int:
  """F, frames to generate of each clip."""
  return config.sample.frames or config.data.frames - config.data.given


def _source(config: Any) -> str:
  """Where the clips come from, in a file's name."""
  return epath.Path(config.sample.video).stem if config.sample.video else config.sample.split
