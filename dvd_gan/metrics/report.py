"""eval/report-STEP.html: the results of a training run on one self-contained page."""

import base64
import datetime
import pathlib
from typing import Any, NamedTuple

import jinja2
import numpy as np
from etils import epath

from dvd_gan import video, writer
from dvd_gan.metrics import plots, results
from dvd_gan.runtime import run_config


class Row(NamedTuple):
  """Videos side by side."""

  caption: str
  titles: tuple[str, ...]  # [N], one per video
  videos: np.ndarray  # uint8 [N, T, H, W, 3]


class Picture(NamedTuple):
  """A picture of the page."""

  kind: str  # gif or png
  content: bytes
  alt: str
  caption: str = ''

  @property
  def data(self) -> str:
    return base64.b64encode(self.content).decode()


def page(config: Any, workdir: epath.Path, step: int, rows: list[Row], about: str, fields: str) -> str:
  """Renders the page as HTML, with the results of this and of earlier evaluations of a step.

  Args:
    config: of the run.
    workdir: of the run; its eval/, metrics.jsonl and config.json are read.
    step: of the checkpoint.
    rows: real clips beside samples.
    about: truncation and split of `rows`, as text.
    fields: the config as text.
  """
  found, folder = results.of_step(workdir, step), workdir / 'eval'
  side_by_side = [
    Picture(
      'gif', video.gif(video.grid(row.videos, len(row.videos), captions=row.titles), config.sample.fps),
      f'{row.caption or "videos"}: {", ".join(row.titles)}', row.caption,
    )
    for row in rows
  ]  # fmt: skip
  nearest = [
    Picture('gif', path.read_bytes(), 'pairs of a sample and the real clip nearest to it', ', '.join(of))
    for path in sorted(folder.glob(f'nearest-*-{step}*.gif'))
    for _, protocol, its_step, *others in [path.name.removesuffix('.gif').split('-')]
    for of in [(protocol, *(other.replace('_', ' ') for other in others))]
    if its_step == str(step)
  ]
  curve, curves = folder / f'curve-{step}.png', []
  if curve.exists():
    alt = 'Frechet distance against Inception Score, a point for each truncation'
    curves = [Picture('png', curve.read_bytes(), alt, 'The numbers are truncations, the deviation of z.')]
  scores = plots.scores([one for one in results.every(workdir) if one['step'] <= step])
  logged = scores | plots.training(writer.logged(workdir, step))
  training = [Picture('png', content, f'curve of training: {title}') for title, content in logged.items()]
  text = f'Nothing is picked: the first real clip of each class, and samples of fixed seeds; {about}.'
  close = 'Beside each sample is the real clip whose features are nearest. Look for copies.'
  sections = [
    {'title': title, 'text': text, 'pictures': pictures}
    for title, text, pictures in (
      ('Real clips and samples', text, side_by_side),
      ('Samples nearest to a real clip', close, nearest),
      ('Truncation', '', curves),
      ('Training', '', training),
    )
    if pictures
  ]
  env = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
  template = env.from_string((pathlib.Path(__file__).parent / 'report.html').read_text(encoding='utf-8'))
  return template.render(
    title=f'{workdir.name}, step {step:,}',
    facts=facts(config, workdir, step),
    results=found,
    words=results,
    definitions={(one['protocol'], one['definition']['version']): one for one in found}.values(),
    sections=sections,
    config=fields,
  )


def facts(config: Any, workdir: epath.Path, step: int) -> list[str]:
  """Data, number of clips shown, code versions, and today's date, as lines of text."""
  data, train = config.data, config.train
  trained, now = run_config.saved_versions(workdir).get('dvd-gan'), run_config.code_version()
  facts = [
    f'{data.frames} frames of {data.resolution}x{data.resolution}',
    f'{data.name}, split {data.split}',
    f'{step * train.batch_size * train.d_steps:,} real clips shown',
    trained and f'trained by dvd-gan {trained}',
    f'evaluated by dvd-gan {now}',
    datetime.date.today().isoformat(),
  ]
  return list(filter(None, facts))
