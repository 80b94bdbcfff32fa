"""`--mode=evaluate`: runs evaluation protocols and writes their results as JSON, a curve and a report."""

import copy
import dataclasses
import json
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from dvd_gan import sample, sharding, video, writer
from dvd_gan.datasets import evaluation_windows
from dvd_gan.metrics import follow, plots, report, results, scores, video_sets
from dvd_gan.metrics.features import Extractor
from dvd_gan.metrics.protocols import PROTOCOLS, Protocol
from dvd_gan.metrics.video_sets import VideoSet
from dvd_gan.runtime import files, run_config, validation
from dvd_gan.runtime.errors import RunError, UsageError

GALLERY, BESIDE = 8, 3  # classes in a report; samples per class
# Parts of a result that go to TensorBoard besides its value, with their names there.
CURVED = (
  ('frechet', 'floor'), ('inception_score', 'score'), ('accuracy', 'shape'), ('accuracy', 'motion'),
  ('accuracy', 'both'), ('memorised', 'nearer'),
)  # fmt: skip


def evaluate(config: Any, workdir: epath.Path) -> None:
  """Runs `eval.protocols` on a checkpoint, on the newest ones of a training run (`eval.follow`), or on a folder.

  Writes eval/PROTOCOL-STEP.json (PROTOCOL-FOLDER.json for a folder). For a checkpoint, also writes
  eval/report-STEP.html and, if there are several truncations, eval/curve-STEP.{json,png}.

  Raises:
    UsageError: for an unknown protocol, a protocol that does not suit the config, missing weights or missing data; see
      also `sample.open_checkpoint`.
  """
  fields, config = validation.listing(config), copy.deepcopy(config)
  protocols = {name: chosen(config, name) for name in config.eval.protocols}
  if not protocols:
    raise UsageError(f'eval.protocols is empty; choose from {", ".join(PROTOCOLS)}')
  run_config.open_folder(workdir, 'workdir')
  mesh = sharding.make_mesh()
  cache = epath.Path(config.eval.cache).expanduser() if config.eval.cache else workdir / 'eval' / 'cache'
  extractor = Extractor(config, cache, mesh)
  for protocol in protocols.values():
    extractor.network(protocol.network)  # missing weights are reported before hours of work
  if config.eval.videos:
    title = epath.Path(config.eval.videos).expanduser().absolute().name
    for name, protocol in protocols.items():
      made = video_sets.folder(config, protocol.frames or config.data.frames)
      named = title + suffix(config, min(protocol.samples, made.count))
      run_protocol(config, workdir, extractor, name, protocol, made, named)
    return
  config.sample.truncation, config.sample.batch_size = config.eval.truncation, config.eval.batch_size
  for step in follow.steps(config, workdir) if config.eval.follow else [config.eval.step]:
    config.sample.step = step
    opened = sample.open_checkpoint(config, workdir, mesh)
    opened = opened._replace(sampler=opened.sampler._replace(place=extractor.place))
    found = []
    for truncation in config.eval.truncation:
      for name, protocol in protocols.items():
        made = video_sets.samples(config, opened, truncation, protocol)
        title = str(opened.step) + ('' if truncation == 1 else f'-truncation_{truncation:g}')
        title += suffix(config, min(protocol.samples, made.count))
        about = {'step': opened.step, 'truncation': truncation}
        result, real = run_protocol(config, workdir, extractor, name, protocol, made, title, **about)
        found.append(result)
        write_nearest(config, workdir / 'eval' / f'nearest-{name}-{title}.gif', result, made, real)
    if config.eval.follow:
      follow.compare(workdir, step, found[0])
    if len(config.eval.truncation) > 1:
      curve(found, workdir / 'eval', f'curve-{opened.step}')
    split = next(iter(protocols.values())).split or config.data.split
    write_report(config, workdir, opened, split, fields)


def chosen(config: Any, name: str) -> Protocol:
  """The protocol of this name; `eval.samples` replaces its number of samples.

  Raises:
    UsageError: if the name is unknown, or the protocol does not suit the config's videos.
  """
  if name not in PROTOCOLS:
    raise UsageError(f'eval.protocols: there is no protocol {name}; choose from {", ".join(PROTOCOLS)}')
  protocol = PROTOCOLS[name]
  length = config.data.frames
  if protocol.frames > length:
    raise UsageError(
      f'protocol {name} needs {protocol.frames} frames, but data.frames is {length}: choose another, such as fvd_short'
    )
  if protocol.lengths and not protocol.lengths[0] <= length <= protocol.lengths[1]:
    first, last = protocol.lengths
    raise UsageError(f'protocol {name} needs {first} to {last} frames, but data.frames is {length}: choose another one')
  if protocol.futures > 1 and not config.data.context and not config.eval.videos:
    raise UsageError(f'protocol {name} is for prediction, but data.context is 0: choose another one')
  return dataclasses.replace(protocol, samples=config.eval.samples or protocol.samples)


def suffix(config: Any, count: int) -> str:
  """Suffix of a result's name: the number of samples and the seed, if `eval` sets them."""
  return (f'-of_{count}' if config.eval.samples else '') + (f'-seed_{config.eval.seed}' if config.eval.seed else '')


def run_protocol(
  config: Any,
  workdir: epath.Path,
  extractor: Extractor,
  name: str,
  protocol: Protocol,
  made: VideoSet,
  title: str,
  **about,
) -> tuple[dict[str, Any], VideoSet]:
  """Evaluates a set of videos and the floor (real against real) by a protocol; writes eval/NAME-TITLE.json.

  Returns:
    (the numbers with everything that they depend on, the real clips).

  Raises:
    RunError: if features are not finite, or there are too few for the number.
  """
  started, split = time.monotonic(), protocol.split or config.data.split
  loops = max(min(protocol.loops, made.count // protocol.samples), 1)
  count = min(protocol.samples, made.count)
  real, clips = video_sets.real(config, protocol, count, loops)
  wanted = (protocol.real or count) if protocol.compares else 0
  reference = min(wanted, real.count) if wanted >= 0 else real.count
  references = [(i * reference, (i + 1) * reference) for i in range(loops) if (i + 1) * reference <= real.count]
  others = min(real.count, clips) if protocol.windows == 'again' else real.count  # only windows of different clips
  second = min(count, others // 2 if protocol.compares else others)  # half, if there are too few clips for two sets
  floor = (0, min(reference, others - second)), (others - second, others)
  try:
    known = scores.gather(protocol, extractor.parts(protocol, real, f'{name}: real'), [*floor, *references])
    parts = extractor.parts(protocol, made, f'{name}: {title}')
    fake = scores.gather(protocol, parts, [(i * count, (i + 1) * count) for i in range(loops)])
    found = scores.numbers(dataclasses.replace(protocol, split=split), known[2:], known[:2], fake)
  except ValueError as error:
    raise RunError(f'cannot compute protocol {name} for {title}: {error}') from None
  result = {'protocol': name, **found, **about, 'samples': count, 'loops': loops, 'seed': config.eval.seed}
  result |= {
    'videos': config.eval.videos or None,
    'real': {'split': split, 'clips': clips, 'reference': reference},
    'fewer': fewer(protocol, count, reference, second),
    'definition': dataclasses.asdict(protocol) | {'frames': protocol.frames or config.data.frames},
    'network_sha256': extractor.network(protocol.network).sha256,
    'sets': {'real': real.key, 'made': made.key},
    'versions': run_config.versions(),
    'seconds': round(time.monotonic() - started, 1),
  }
  if jax.process_index() == 0:
    target = workdir / 'eval' / f'{name}-{title}.json'
    files.write(target, (json.dumps(result, indent=1, allow_nan=False) + '\n').encode())
    print(f'{results.summary(result)}\n{target}', flush=True)
    if 'step' in about and about['truncation'] == 1:
      tag = f'eval/{name}' + (f'_v{protocol.version}' if protocol.version > 1 else '')
      values = {tag: result['value']} | {
        f'{tag}_{what}': result[part][what] for part, what in CURVED if what in (result.get(part) or {})
      }
      writer.to_tensorboard(workdir, about['step'], values)
  return result, real


def write_nearest(config: Any, path: epath.Path, result: dict[str, Any], made: VideoSet, real: VideoSet) -> None:
  """Writes a GIF of samples beside the real clips nearest to them, if the result lists such pairs."""
  pairs = [
    _videos(of, number, config.eval.batch_size)
    for both in result.get('memorised', {}).get('closest', [])
    for of, number in zip((made, real), both, strict=True)
  ]
  if pairs and not jax.process_index():
    captions = ['sample', 'real'] * (len(pairs) // 2)
    files.write(path, video.gif(video.grid(np.stack(pairs), columns=4, captions=captions), config.sample.fps))


def _videos(of: VideoSet, number: int, size: int) -> np.ndarray:
  """Video `number` of a set, uint8 [T, H, W, 3]."""
  batch, _ = next(of.batches(number - number % size, size))
  return np.asarray(sharding.gathered(batch))[number % size]


def write_report(config: Any, workdir: epath.Path, opened: sample.Opened, split: str, fields: str) -> None:
  """Writes eval/report-STEP.html.

  Args:
    config: the evaluation's config.
    workdir: the run's workdir.
    opened: the checkpoint.
    split: split of the real clips in the report.
    fields: the config as text.
  """
  truncation = min(config.eval.truncation, key=lambda one: abs(one - 1))
  rows = gallery(config, opened, split, truncation)
  if jax.process_index() == 0:
    target, about = workdir / 'eval' / f'report-{opened.step}.html', f'truncation {truncation:g}, split {split}'
    files.write(target, report.page(config, workdir, opened.step, rows, about, fields).encode())
    print(target, flush=True)


def gallery(config: Any, opened: sample.Opened, split: str, truncation: float) -> list[report.Row]:
  """Rows of a real clip and samples: one per class for some classes; without classes or in prediction, one per clip."""
  windows = evaluation_windows.Windows(config, split, labelled=False)
  order = windows.labels(min(windows.clips, 10_000))  # these windows are all of different clips
  context, by_class = config.data.context, config.data.use_labels and not config.data.context
  labels = np.arange(len(opened.classes)) if by_class else np.maximum(order[:GALLERY], 0)
  labels = labels[np.unique(np.linspace(0, len(labels) - 1, GALLERY).astype(int))]
  numbers = [int(np.argmax(order == label)) for label in labels] if by_class else range(len(labels))
  clips = [windows.one(number, frames=config.data.frames)[0] for number in numbers]
  begun = np.repeat(np.stack(clips)[:, :context], BESIDE, axis=0) if context else None
  size, made, each = opened.sampler.config.sample.batch_size, [], np.repeat(labels, BESIDE)
  for first in range(0, len(each), size):
    some, part = each[first : first + size], None if begun is None else begun[first : first + size]
    standing = opened.standing(truncation)
    batch = opened.sampler.batch(standing, first, some, part, truncation=truncation, seed=config.sample.seed)
    made.append(np.asarray(sharding.gathered(batch))[: len(some)])
  videos = np.concatenate(made) if begun is None else np.concatenate([begun, np.concatenate(made)], axis=1)
  rows, titles = [], ('future' if context else 'sample',) * BESIDE
  for label, clip, some in zip(labels, clips, videos.reshape(len(labels), BESIDE, *videos.shape[1:]), strict=True):
    there = not by_class or label in order  # False if the class has no real clip
    row = np.stack([*[clip] * there, *some])
    rows.append(report.Row(opened.classes[label] if by_class else '', (*('real',) * there, *titles), row))
  return rows


def fewer(protocol: Protocol, made: int, reference: int, second: int) -> str | None:
  """Describes the sets that are smaller than the protocol requires; None if there are none."""
  sets = [('videos', made, protocol.samples), ('real clips in their place', second, made)]
  if protocol.compares:
    sets.append(('reference clips', reference, protocol.real or protocol.samples))
  return ', '.join(f'{there} {what}, not {wanted}' for what, there, wanted in sets if there < wanted) or None


def curve(found: list[dict[str, Any]], folder: epath.Path, name: str) -> None:
  """Writes Frechet distance against IS over truncations, as in the paper's figure, to NAME.json and NAME.png.

  The distance and the score each come from the first protocol that computes them.
  """
  points: dict[float, dict[str, Any]] = {}
  for result in found:
    point = points.setdefault(result['truncation'], {'truncation': result['truncation']})
    for kind, value in (('frechet', 'distance'), ('inception_score', 'score')):
      if kind in result and kind not in point:
        point |= {kind: result[kind][value], f'{kind}_protocol': result['protocol']}
  complete = [point for point in points.values() if 'frechet' in point and 'inception_score' in point]
  if not complete or jax.process_index():
    return
  files.write(folder / f'{name}.json', (json.dumps(complete, indent=1) + '\n').encode())
  files.write(folder / f'{name}.png', plots.truncation(complete))
