import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import models
from dvd_gan.models import conditioning
from tests.conftest import tiny_config


def call(context, frames):
  """The config of a tiny prediction generator, and its training and sampling functions of the context frames."""
  config = tiny_config()
  config.data.context, config.data.frames, config.gen.attention = context, frames, ()
  gen, _ = models.build(config)
  params = models.init(config)[0]
  z, label = jax.random.normal(jax.random.key(0), (3, config.gen.z_dim)), jnp.zeros(3, jnp.int32)

  def states(module, _):
    return isinstance(module, conditioning.Conditioning)

  @jax.jit
  def train(frames):
    return gen.apply(
      {'params': params}, z, label, frames, train=True,
      capture_intermediates=states, mutable=['intermediates', 'standing'],
    )  # fmt: skip

  sample = jax.jit(lambda frames, standing: gen.apply({'params': params} | standing, z, label, frames, train=False))
  return config, train, sample


@pytest.mark.parametrize(('context', 'frames'), [(1, 5), (3, 7)])
def test_each_context_state_has_the_resolution_and_width_of_its_recurrent_unit(context, frames):
  config, train, _ = call(context, frames)
  video, seen = train(jnp.ones((3, context, 16, 16, 3)))
  assert video.shape == (3, frames - context, 16, 16, 3)
  states = seen['intermediates']['given']['__call__'][0]
  widths = [multiplier * config.gen.ch for multiplier in config.gen.multipliers]
  assert [state.shape for state in states] == [(3, 8, 8, widths[1]), (3, 4, 4, widths[0])]
  assert all((state >= 0).all() for state in states)


def test_every_recurrent_unit_uses_its_context_state_and_frames_are_encoded_separately():
  config = tiny_config()
  config.data.context, config.data.frames, config.gen.attention = 2, 5, ()
  gen, _ = models.build(config)
  params = models.init(config)[0]
  z, label = jax.random.normal(jax.random.key(0), (2, config.gen.z_dim)), jnp.zeros(2, jnp.int32)
  context = jax.random.uniform(jax.random.key(1), (2, 2, 16, 16, 3), minval=-1)

  @jax.jit
  def call(params, context):
    video, seen = gen.apply({'params': params}, z, label, context, train=True, capture_intermediates=True)
    return video, [seen['intermediates']['given'][f'block_{i}']['__call__'][0] for i in range(2)]

  before, features = call(params, context)
  for i in range(2):
    without = params | {
      'given': params['given'] | {f'state_{i}': jax.tree.map(jnp.zeros_like, params['given'][f'state_{i}'])}
    }
    assert abs(call(without, context)[0] - before).max() > 1e-3
  _, other = call(params, context.at[:, 1].set(0.5))
  for a, b in zip(features, other, strict=True):
    np.testing.assert_array_equal(a[:, 0], b[:, 0])
    assert (a[:, 1] != b[:, 1]).any()


def test_a_video_depends_on_each_of_its_own_context_frames_and_on_no_others():
  _, train, sample = call(2, 5)
  context = jax.random.uniform(jax.random.key(1), (3, 2, 16, 16, 3), minval=-1)
  standing = {'standing': train(context)[1]['standing']}
  before = sample(context, standing)
  for frame in range(2):
    after = sample(context.at[1, frame].add(0.5), standing)
    np.testing.assert_array_equal(before[jnp.array([0, 2])], after[jnp.array([0, 2])])
    assert (abs(after - before)[1].max((1, 2, 3)) > 0).all()


@pytest.mark.parametrize('remat', [False, True])
def test_with_from_last_frame_the_initial_output_is_the_last_context_frame_and_training_changes_it(remat):
  config = tiny_config()
  config.data.context, config.data.frames, config.gen.attention = 2, 5, ()
  config.gen.from_last_frame, config.gen.remat = True, remat
  gen, _ = models.build(config)
  params = models.init(config)[0]
  z, label = jax.random.normal(jax.random.key(0), (2, config.gen.z_dim)), jnp.zeros(2, jnp.int32)
  context = jax.random.uniform(jax.random.key(1), (2, 2, 16, 16, 3), minval=-1).at[0, 1, 0, 0].set(1.0)
  video = gen.apply({'params': params}, z, label, context, train=True)
  assert video.shape == (2, 3, 16, 16, 3)
  np.testing.assert_allclose(video, jnp.broadcast_to(context[:, 1:], video.shape), atol=0.011)  # white is 0.99

  def loss(params):
    return jnp.square(gen.apply({'params': params}, z, label, context, train=True)).mean()

  assert abs(jax.grad(loss)(params)['head_gain']) > 1e-4
  grads = jax.grad(loss)(params | {'head_gain': jnp.float32(0.5)})
  assert all(abs(leaf).max() > 0 for leaf in jax.tree.leaves((grads['head'], grads['given'])))
