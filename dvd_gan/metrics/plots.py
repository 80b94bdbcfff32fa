"""PNG plots: training curves, evaluation results over steps, and Frechet distance against Inception Score."""

import io
from typing import Any

# Training curves: title, names in metrics.jsonl, and whether the y axis is logarithmic. A pair of names is plotted as
# their difference.
CURVES = (
  ('loss of D', ('disc_loss_spatial', 'disc_loss_temporal'), False),
  ('loss of G', ('gen_loss_spatial', 'gen_loss_temporal'), False),
  ('squared error of G against the truth', ('gen_squared_error',), True),
  (
    'score of real less score of fake',
    (('score_real_spatial', 'score_fake_spatial'), ('score_real_temporal', 'score_fake_temporal')),
    False,
  ),
  ('gradient norm', ('gen_grad_norm', 'disc_grad_norm'), True),
  ('spectral norm of raw weights', ('gen_sigma_max', 'gen_sigma_min', 'disc_sigma_max', 'disc_sigma_min'), True),
  ('steps per second', ('steps_per_s',), False),
)

Line = tuple[str, list[float], list[float]]  # label, x, y


def training(log: list[dict[str, float]]) -> dict[str, bytes]:
  """Plots CURVES over the steps of metrics.jsonl, by title; curves without data are omitted."""
  found = {}
  for title, names, logarithmic in CURVES:
    lines = []
    for name in names:
      first, second = name if isinstance(name, tuple) else (name, None)
      points = [(line['step'], line[first] - (line[second] if second else 0)) for line in log if first in line]
      if points:
        lines.append((first.replace('_real', ''), *map(list, zip(*points, strict=True))))
    if lines:
      found[title] = plot(lines, 'step', title, logarithmic=logarithmic)
  return found


def scores(results: list[dict[str, Any]]) -> dict[str, bytes]:
  """Plots each protocol's value at truncation 1 over the steps, by title; at least two steps are required."""
  found = {}
  alike: dict[tuple, dict[int, dict[str, Any]]] = {}
  for one in results:
    if one['truncation'] == 1:
      key = one['protocol'], one['definition']['version'], one['samples'], one['seed']
      alike.setdefault(key, {})[one['step']] = one
  for (protocol, version, samples, seed), by_step in alike.items():
    steps = sorted(by_step)
    if len(steps) < 2:
      continue
    lines = [(protocol, steps, [by_step[step]['value'] for step in steps])]
    if all('frechet' in by_step[step] for step in steps):
      lines.append(('real against real', steps, [by_step[step]['frechet']['floor'] for step in steps]))
    title = f'{protocol}, {samples} samples' + (f', version {version}' if version > 1 else '')
    title += f', seed {seed}' if seed else ''
    found[title] = plot(lines, 'step', title, logarithmic='frechet' in by_step[steps[0]])
  return found


def truncation(points: list[dict[str, Any]]) -> bytes:
  """Plots Frechet distance against Inception Score, one point per truncation, as in the paper."""
  x, y = ([point[name] for point in points] for name in ('inception_score', 'frechet'))
  labels = (
    f'Inception Score ({points[0]["inception_score_protocol"]})',
    f'Frechet distance ({points[0]["frechet_protocol"]})',
  )
  names = [f'{point["truncation"]:g}' for point in points]
  return plot([('', x, y)], *labels, names=names)


def plot(lines: list[Line], x: str, y: str, *, logarithmic: bool = False, names: list[str] | None = None) -> bytes:
  """Plots lines as a PNG; `names` label the points of the first line."""
  import matplotlib.figure

  figure = matplotlib.figure.Figure(figsize=(5, 3.2), layout='constrained')
  axes = figure.subplots()
  for label, xs, ys in lines:
    axes.plot(xs, ys, '.-' if len(xs) < 30 else '-', linewidth=0.9, label=label)
  for text, *point in zip(names, *lines[0][1:], strict=True) if names else ():
    axes.annotate(text, point, xytext=(4, 4), textcoords='offset points')
  axes.set(xlabel=x, ylabel=y if names else '', title='' if names else y)
  if logarithmic:
    axes.set_yscale('log')
  if any(label for label, _, _ in lines) and (len(lines) > 1 or lines[0][0] != y):
    axes.legend(fontsize='small')
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=144)
  return buffer.getvalue()
