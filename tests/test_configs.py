import importlib
import json
import math

import jax
import jax.numpy as jnp
import pytest

from dvd_gan import models, train_step
from dvd_gan.configs import default
from dvd_gan.metrics.protocols import PROTOCOLS
from dvd_gan.runtime import validation
from tests.conftest import ROOT

NAMES = sorted(path.stem for path in (ROOT / 'configs').glob('*.py') if path.stem != 'fields')

# Millions of parameters of G, D_S and D_T in an independent prototype without attention; compared to one per cent.
PAPER = {64: (303, 154, 163), 128: (187, 87, 89), 256: (190, 99, 100)}


def load(name):
  return importlib.import_module(f'dvd_gan.configs.{name}').get_config()


def millions(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) / 1e6


@pytest.mark.parametrize('name', NAMES)
def test_every_config_is_valid_and_its_train_step_keeps_the_shapes_of_the_state(name):
  config = load(name)
  validation.validate(config)
  config.data.num_classes = config.data.num_classes or models.num_labels(config) if 'video_folder' not in name else 3
  assert config.keys() == default.get_config().keys()
  spec = train_step.make_spec(config, unroll=False)
  key = jax.random.key(0)
  state = jax.eval_shape(lambda p: train_step.init_state(spec, p, key), models.shapes(config))
  data, shape = config.data, (config.train.d_steps, config.train.batch_size)
  batch = {
    'video': jax.ShapeDtypeStruct((*shape, data.frames, data.resolution, data.resolution, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct(shape, jnp.int32),
  }
  new, metrics = jax.eval_shape(lambda s, b: train_step.train_step(spec, s, b, key), state, batch)
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new) == jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype), state
  )
  assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith(('kinetics600', 'bair'))])
def test_parameter_counts_of_full_width_configs_match_an_independent_prototype(name):
  config = load(name)
  assert config.gen.attention == (config.data.resolution // 2,)
  config.gen.attention = ()  # the prototype has no attention
  config.data.num_classes, config.data.use_labels = 600, True  # and does not predict
  gen, disc = models.shapes(config)
  context = gen.pop('given', {})
  assert bool(context) == bool(config.data.context)
  counts = millions(gen), millions(disc['spatial']), millions(disc['temporal'])
  for got, expected in zip(counts, PAPER[config.data.resolution], strict=True):
    assert got == pytest.approx(expected, rel=0.01)


def test_default_hyperparameters_match_the_paper():
  config = default.get_config()
  assert (config.gen.z_dim, config.gen.embed_dim, config.disc.frames_k, config.disc.pool) == (120, 120, 8, 2)
  train = config.train
  assert (train.gen_lr, train.disc_lr, train.b1, train.b2) == (1e-4, 5e-4, 0.0, 0.999)
  assert (train.batch_size, train.d_steps, train.ema_decay, train.ema_start) == (512, 2, 0.9999, 20_000)
  assert config.gen.activation == 'relu' and not config.gen.bn_over_time
  strides = {name: load(name).data.stride for name in NAMES if name.startswith('kinetics600')}
  assert strides.pop('kinetics600_64x16') == strides.pop('kinetics600_fp_64x16') == 1 and set(strides.values()) == {2}
  frames = {
    name: (load(name).data.context, load(name).data.frames) for name in ('kinetics600_fp_64x16', 'bair_fp_64x16')
  }
  assert frames == {'kinetics600_fp_64x16': (5, 16), 'bair_fp_64x16': (1, 16)}


def test_every_config_states_its_command_hardware_and_expected_and_measured_results():
  for name in NAMES:
    text = (ROOT / 'configs' / f'{name}.py').read_text()
    if name != 'default':
      assert all(word in text for word in ('Command:', 'Hardware:', 'Expected:', 'Measured:')), name


def test_readme_rows_for_the_papers_numbers_match_configs_protocols_and_dry_runs():
  """Every row of README's table names existing configs and protocols, and hours that match results/dry_run."""
  text = (ROOT / 'README.md').read_text()
  table = text[text.index("| setting | the paper's |") :].split('\n\n')[0].splitlines()[2:]
  assert len(table) == 11
  for line in table:
    _, number, name, protocol_names, slice_type, hours, _ = (cell.strip() for cell in line.strip('|').split('|'))
    config = load(name.strip('`'))
    validation.validate(config)
    row = json.loads((ROOT / 'results' / 'dry_run' / f'{name.strip("`")}-{slice_type}.json').read_text())
    assert row['fits'] and row['batch'] == config.train.batch_size
    assert int(hours) == round(config.train.steps * row['roofline_s'] / 0.4 / 3600)
    protocols = [PROTOCOLS[protocol.strip(' `')] for protocol in protocol_names.split(',')]
    kinds = {'FID': 'frechet', 'FVD': 'frechet', 'IS': 'inception_score'}
    assert {protocol.number for protocol in protocols} == {kind for word, kind in kinds.items() if word in number}
    assert all(protocol.frames in (0, config.data.frames) for protocol in protocols)
    assert all((protocol.network == 'c3d_101') == ('UCF' in line) for protocol in protocols)
