import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import models
from tests.conftest import tiny_config

B = 3


@pytest.fixture(scope='module')
def setup():
  """A generator without attention, with perturbed parameters, latents, labels and a function that samples."""
  config = tiny_config()
  config.gen.attention = ()
  gen, _ = models.build(config)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32), models.init(config)[0])
  z = jax.random.normal(jax.random.key(0), (B, config.gen.z_dim))
  label = jnp.arange(B)
  _, collected = gen.apply({'params': params}, z, label, train=True, mutable=['standing'])
  sample = jax.jit(functools.partial(gen.apply, {'params': params} | collected, train=False))
  return config, gen, params, z, label, sample


def test_generated_video_has_the_configured_shape_and_values_in_minus_1_to_1(setup):
  _, _, _, z, label, sample = setup
  video = sample(z, label)
  assert video.shape == (B, 5, 16, 16, 3) and video.dtype == jnp.float32
  assert abs(video).max() <= 1 and video.std() > 0.05


@pytest.mark.parametrize('what', ['label', 'z'])
def test_changing_the_label_or_z_of_a_video_changes_every_frame_of_that_video_only(setup, what):
  _, _, _, z, label, sample = setup
  before = sample(z, label)
  after = sample(z, label.at[2].set(0)) if what == 'label' else sample(z.at[2].add(1.0), label)
  np.testing.assert_array_equal(before[:2], after[:2])
  # Every frame of video 2, not only some.
  assert (abs(before[2] - after[2]).max((1, 2, 3)) > 1e-3).all()


def test_a_sample_does_not_depend_on_the_rest_of_the_batch(setup):
  _, _, _, z, label, sample = setup
  np.testing.assert_allclose(sample(z, label)[:1], sample(z[:1], label[:1]), atol=1e-5)


@pytest.mark.parametrize('train', [True, False])
def test_a_generated_frame_does_not_depend_on_later_frames(setup, train):
  _, gen, params, z, label, _ = setup
  variables = {'params': params}
  if not train:
    variables |= gen.apply(variables, z, label, train=True, mutable=['standing'])[1]
  long = gen.apply(variables, z, label, train=train)
  if not train:
    variables['standing'] = jax.tree.map(lambda leaf: leaf[:3], variables['standing'])
  short = gen.clone(frames=3).apply(variables, z, label, train=train)
  np.testing.assert_allclose(long[:, :3], short, atol=1e-5)


def test_consecutive_generated_frames_differ(setup):
  _, _, _, z, label, sample = setup
  video = sample(z, label)
  assert (abs(video[:, 1:] - video[:, :-1]).max((2, 3, 4)) > 1e-4).all()


def test_generator_applies_attention_at_the_configured_resolution(setup):
  config, _, params, z, label, _ = setup
  gen, _ = models.build(tiny_config())
  with_attention = models.init(tiny_config())[0]
  assert 'attention_8' in with_attention and 'attention_8' not in params
  moved = dict(with_attention)
  moved['attention_8'] = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.ones(()) if path[-1].key == 'gain' else leaf, with_attention['attention_8']
  )
  before, after = (gen.apply({'params': p}, z, label, train=True) for p in (with_attention, moved))
  assert not np.allclose(before, after, atol=1e-3)


def test_bfloat16_generator_convolves_in_bfloat16_and_keeps_float32_parameters_and_output(setup):
  config, _, params, z, label, sample = setup
  config = config.copy_and_resolve_references()
  config.dtype = 'bfloat16'
  gen, _ = models.build(config)
  text = str(jax.make_jaxpr(lambda p: gen.apply({'params': p}, z, label, train=True))(params))
  convolutions = [line for line in text.splitlines() if 'conv_general_dilated' in line]
  assert convolutions and all(':bf16[' in line for line in convolutions)
  shapes, _ = models.shapes(config)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}
  video = gen.apply({'params': params}, z, label, train=True)
  assert video.dtype == jnp.float32


def test_rematerialisation_reduces_residuals_and_keeps_values_and_gradients():
  """With remat in both networks: the same loss, statistics and gradients, and a smaller pullback."""
  config = tiny_config()
  config.data.resolution, config.data.frames = 8, 4
  config.gen.multipliers, config.disc.multipliers, config.gen.attention = (4, 2), (1, 1, 1), ()
  params = models.init(config)[0]
  z, label = jax.random.normal(jax.random.key(0), (B, config.gen.z_dim)), jnp.arange(B)
  kept, results = {}, {}
  for remat in (False, True):
    config.gen.remat = config.disc.remat = remat
    gen, disc = models.build(config)
    disc_params = models.init(config)[1]

    def loss(params, gen=gen, disc=disc, disc_params=disc_params):
      video, collected = gen.apply({'params': params}, z, label, train=True, mutable=['standing'])
      scores = disc.apply({'params': disc_params}, video[:, :3], video, label)
      return sum(score.sum() for score in scores.values()), collected

    pullback = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p, has_aux=True)[1], params)
    kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(pullback))  # residuals of the backward pass
    results[remat] = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  assert kept[True] < 0.6 * kept[False]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *results.values())
