from dvd_gan.metrics.protocols import PROTOCOLS
from tests.conftest import ROOT

HEADER = '| protocol | network | feature | resize | frames | N x runs | real clips, split | windows, crop | classes | ddof | splits |'


def row(name):
  """A protocol's row in the table of dvd_gan/metrics/README.md."""
  of = PROTOCOLS[name]
  compares = of.compares
  feature = of.feature + (' and scores by class' if of.number == 'toy' else '')
  resize = ', '.join(f'{size} {method}' for size, method in of.resize) or 'its own'
  runs = f'{of.samples:,}' + (f' x {of.loops}' if of.loops > 1 else '')
  runs += f', {of.futures} of each clip' if of.futures > 1 else ''
  real = {0: 'as many', -1: 'all'}.get(of.real, f'{of.real:,}') if compares else 'none'
  cells = [f'`{name}`', of.network, feature, resize, of.frames or "the model's", runs]
  cells += [f'{real}, {of.split or "data.split"}' if compares else real, f'{of.windows}, {of.crop}' if compares else '']
  cells += [of.classes, of.ddof if compares else '', of.splits if of.number != 'frechet' else '']
  return '| ' + ' | '.join(map(str, cells)) + ' |'


def test_the_table_of_protocols_in_the_readme_matches_the_code():
  text = (ROOT / 'dvd_gan' / 'metrics' / 'README.md').read_text()
  assert HEADER in text
  for name, protocol in PROTOCOLS.items():
    assert row(name) in text, row(name)
    assert f'`{name}`: {protocol.source}' in text, protocol.source
