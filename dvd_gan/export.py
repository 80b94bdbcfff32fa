"""`--mode=export`: writes a folder with only what sampling needs; `dvd_gan.load` opens it."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from dvd_gan import models, sample, sampling, video
from dvd_gan.metrics import results
from dvd_gan.runtime import backend, checksums, files, run_config
from dvd_gan.runtime.errors import UsageError

WEIGHTS, CLASSES, PICTURE, CARD = 'model.safetensors', 'classes.txt', 'samples.gif', 'README.md'
HELD = 16  # samples for measuring the effect of half precision; MAX_GRID if there are more classes

# Terms of the known data sets; those of a user's own data are unknown.
TERMS = {
  'moving_shapes': 'moving_shapes, drawn by this project: no licence is needed',
  'kinetics600': 'Kinetics-600: annotations CC BY 4.0 (DeepMind); the videos are those of their uploaders on YouTube',
  'ucf101': 'UCF-101 (Soomro, Zamir, Shah 2012): videos from YouTube, for research',
  'bair': 'BAIR robot pushing (Ebert et al. 2017): CC BY 4.0 by the catalogue of TFDS',
}


def export(config: Any, workdir: epath.Path) -> None:
  """Writes `export.folder`, by default export-STEP in the workdir, and prints its name.

  model.safetensors holds the EMA weights after spectral norm and the standing statistics at `export.truncation` (for
  prediction, only at 1). The folder also holds config.json, classes.txt, a model card and, for synthesis, samples.gif.

  Raises:
    UsageError: see `sample.open_checkpoint`; also if the folder is not writable, or has files of those names that are
      not an export's.
  """
  config.sample.truncation = (1.0,)
  opened = sample.open_checkpoint(config, workdir)
  folder = epath.Path(config.export.folder).expanduser() if config.export.folder else workdir / f'export-{opened.step}'
  run_config.open_folder(folder, 'export.folder')
  if not (folder / WEIGHTS).exists():
    if there := [name for name in (run_config.FILE, CLASSES, PICTURE, CARD) if (folder / name).exists()]:
      raise UsageError(
        f'export.folder={folder} has files that an export would replace: {", ".join(there)}; choose another'
      )
  truncations = (1.0,) if config.data.context else config.export.truncation
  standing = {truncation: opened.standing(truncation) for truncation in truncations}
  trees = {'weights': opened.sampler.weights} | {f'standing/{t:g}': tree for t, tree in standing.items()}
  dtype = np.dtype(config.export.dtype)
  arrays = {
    f'{kind}/{checksums.name(path)}': np.array(jax.device_get(leaf), dtype if kind == 'weights' else np.float32)
    for kind, tree in trees.items()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }
  made, effect = None, ''
  if not config.data.context:
    labels = np.resize(np.arange(len(opened.classes)), sampling.MAX_GRID if len(opened.classes) > HELD else HELD)
    truncation = min(standing, key=lambda one: abs(one - 1))

    def draw(sampler):
      return sampler.videos(standing[truncation], labels, truncation=truncation, seed=config.sample.seed)

    made = draw(opened.sampler)
    if dtype != np.float32:
      rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(leaf.dtype), opened.sampler.weights)
      off = np.abs(draw(opened.sampler._replace(weights=rounded)).astype(int) - made)
      effect = f'Weights are {dtype}: samples differ from float32 by {off.mean():.3f} of 255 grey levels on average, '
      effect += f'{off.max()} at most ({len(made)} videos).'
  if jax.process_index():
    return
  about = {'step': str(opened.step), 'digest': opened.digest}
  files.write(folder / WEIGHTS, safetensors.numpy.save(arrays, metadata=about))
  saved = json.loads((workdir / run_config.FILE).read_text())
  files.write(
    folder / run_config.FILE, (json.dumps(saved | {'classes': list(opened.classes)}, indent=2) + '\n').encode()
  )
  files.write(folder / CLASSES, ('\n'.join(opened.classes) + '\n').encode())
  if made is not None:
    names = [opened.classes[label] for label in labels]
    files.write(folder / PICTURE, video.gif(video.grid(made, captions=names), config.sample.fps))
  files.write(folder / CARD, card(config, opened, workdir, sorted(standing), effect).encode())
  print('\n'.join(filter(None, (effect, str(folder)))))


def card(config: Any, opened: sample.Opened, workdir: epath.Path, truncations: list[float], effect: str) -> str:
  """The model card (README.md): task, training data, evaluation results, how to load the model."""
  data, train = config.data, config.train
  shown = opened.step * train.batch_size * train.d_steps
  form = f'{data.frames} frames of {data.resolution}x{data.resolution}'
  task = f'continues {data.context} frames to {form}' if data.context else f'draws videos of {form}'
  lines = [
    f'# DVD-GAN, {data.name}', '',
    f'This model {task}; {len(opened.classes)} classes ({CLASSES}). Trained for {opened.step:,} steps, {shown:,} real clips shown.',
    '', f'Data: {TERMS.get(data.name, f"{data.name} from {data.source}; this program does not know its terms")}.',
  ]  # fmt: skip
  if not data.context:
    lines += ['', f'![samples]({PICTURE})']
  scores = []
  for found in results.of_step(workdir, opened.step):
    floor = found.get('frechet', {}).get('floor')
    floor = 'none' if floor is None else f'{floor:.2f}'
    scores.append(f'| {results.name(found)} | {found["value"]:.2f} | {floor} | {found["samples"]:,} |')
  if scores:
    lines += [
      '',
      '| protocol | value | floor: real against real | samples |',
      '|---|---|---|---|',
      *scores,
    ]
  else:
    lines += ['', 'Not evaluated.']
  lines += ['', effect] if effect else []
  call = 'model.predict(context)' if data.context else f'model.sample(num=4, truncation={truncations[0]:g})'
  there = ', '.join(f'{one:g}' for one in truncations)
  other = (
    'No other is available.' if data.context else 'For others they are computed on first use, in seconds to minutes.'
  )
  lines += [
    '', '    import dvd_gan', '    model = dvd_gan.load(FOLDER)', f'    videos = {call}    # uint8 [N, T, H, W, 3]',
    '', f'Standing statistics at truncation {there} are in the file. {other}', '',
  ]  # fmt: skip
  return '\n'.join(lines)


def load(config: Any, folder: epath.Path) -> sample.Opened:
  """Opens a folder that `export` wrote, for sampling.

  Raises:
    UsageError: if the weights do not match the config or cannot be read.
  """
  try:
    content = (folder / WEIGHTS).read_bytes()
    arrays = safetensors.numpy.load(content)
    about = json.loads(content[8 : 8 + int.from_bytes(content[:8], 'little')])['__metadata__']
  except Exception as error:  # safetensors raises its own types
    raise UsageError(f'{folder / WEIGHTS} cannot be read: {error}') from None
  gen, _ = models.build(config, backend.resamples_in_kernel(config.mesh.resampling, jax.default_backend()))
  truncations = sorted({name.split('/')[1] for name in arrays if name.startswith('standing/')}, key=float)

  def tree(kind, shapes):
    def leaf(path, shape):
      found = arrays.get(f'{kind}/{checksums.name(path)}')
      if found is None or found.shape != shape.shape:
        raise UsageError(f'{folder}: {kind}/{checksums.name(path)} is not that of {run_config.FILE}')
      return jnp.asarray(found, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)

  weights = tree('weights', models.shapes(config)[0])
  standing_shapes = models.standing_shapes(config)
  standing = {float(one): tree(f'standing/{one}', standing_shapes) for one in truncations}
  sampler = sampling.Sampler(config, weights, *sampling.compiled(gen), None)
  return sample.Opened(int(about['step']), sampler, standing, about['digest'], run_config.class_names(config, folder))
