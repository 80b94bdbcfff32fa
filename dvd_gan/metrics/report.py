"""eval/report-STEP.html: what a training run has come to, on one page that needs no other file."""

import base64
import html
import io

import numpy as np

from dvd_gan import video

# Title, names in metrics.jsonl, and whether the axis is logarithmic; a pair of names is their difference.
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
)


def page(
  title: str,
  summaries: list[str],
  samples: np.ndarray,
  pairs: np.ndarray | None,
  log: list[dict[str, float]],
  *,
  fps: float,
) -> str:
  """The page as HTML.

  Args:
    title: its headline.
    summaries: results in words, one for each protocol.
    samples: uint8 [N, T, H, W, 3].
    pairs: uint8 [2 P, T, H, W, 3], samples and the real clips nearest to them in turn; None where that is not known.
    log: the lines of metrics.jsonl; may be empty.
    fps: of the moving pictures.
  """
  parts = [f'<h1>{html.escape(title)}</h1>', *(f'<pre>{html.escape(text)}</pre>' for text in summaries)]
  parts += ['<h2>Samples</h2>', _image(video.gif(video.grid(samples), fps), 'gif')]
  if pairs is not None:
    parts += ['<h2>Samples nearest to a real clip (left), and that clip</h2>']
    parts += [_image(video.gif(video.grid(pairs, columns=2), fps), 'gif')]
  if log:
    parts += ['<h2>Training</h2>', _image(curves(log), 'png')]
  style = 'body { font-family: sans-serif; margin: 2em } img { image-rendering: pixelated }'
  return (
    f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    f'<style>{style}</style>\n' + '\n'.join(parts) + '\n</html>\n'
  )


def curves(log: list[dict[str, float]]) -> bytes:
  """The curves of CURVES over the steps, as a PNG; what a run does not have is left out."""
  import matplotlib.figure

  figure = matplotlib.figure.Figure(figsize=(11, 6), layout='constrained')
  for axes, (title, names, logarithmic) in zip(figure.subplots(2, 3).flat, CURVES, strict=False):
    for name in names:
      first, second = name if isinstance(name, tuple) else (name, None)
      rows = [line for line in log if first in line]
      if rows:
        values = [line[first] - (line[second] if second else 0) for line in rows]
        axes.plot([line['step'] for line in rows], values, linewidth=0.8, label=first.replace('_real', ''))
    axes.set(title=title, xlabel='step')
    if logarithmic:
      axes.set_yscale('log')
    axes.set_visible(bool(axes.lines))
    if axes.lines:
      axes.legend(fontsize='small')
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=110)
  return buffer.getvalue()


def _image(content: bytes, kind: str) -> str:
  return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
