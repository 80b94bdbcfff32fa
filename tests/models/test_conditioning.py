import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import models, train_step
from dvd_gan.models import conditioning
from tests.conftest import random_batch, tiny_config


def prediction_config(given=2, frames=6):
  config = tiny_config()
  config.data.given, config.data.frames = given, frames
  config.gen.attention = ()
  return config


@pytest.mark.parametrize(('given', 'frames'), [(1, 5), (3, 7)])
def test_each_state_has_the_resolution_and_width_of_its_unit(given, frames):
  config = prediction_config(given, frames)
  gen, _ = models.build(config)
  params = models.init(config)[0]
  assert gen.frames == frames - given
  video, seen = gen.apply(
    {'params': params}, jnp.zeros((2, config.gen.z_dim)), jnp.zeros(2, jnp.int32), jnp.ones((2, given, 16, 16, 3)),
    train=True, capture_intermediates=lambda module, _: isinstance(module, conditioning.Conditioning),
    mutable=['intermediates', 'standing'],
  )  # fmt: skip
  assert video.shape == (2, frames - given, 16, 16, 3)
  states = seen['intermediates']['given']['__call__'][0]
  widths = [multiplier * config.gen.ch for multiplier in config.gen.multipliers]
  assert [state.shape for state in states] == [(2, 8, 8, widths[1]), (2, 4, 4, widths[0])]
  assert all((state >= 0).all() for state in states)


def test_a_video_depends_on_its_own_given_frames_and_on_each_of_them():
  config = prediction_config()
  gen, _ = models.build(config)
  params = models.init(config)[0]
  z, label = jax.random.normal(jax.random.key(0), (3, config.gen.z_dim)), jnp.zeros(3, jnp.int32)
  given = jax.random.uniform(jax.random.key(1), (3, 2, 16, 16, 3), minval=-1)
  _, standing = gen.apply({'params': params}, z, label, given, train=True, mutable=['standing'])
  sample = jax.jit(lambda given: gen.apply({'params': params} | standing, z, label, given, train=False))
  before = sample(given)
  for frame in range(2):
    after = sample(given.at[1, frame].add(0.5))
    np.testing.assert_array_equal(before[jnp.array([0, 2])], after[jnp.array([0, 2])])
    assert (abs(after - before)[1].max((1, 2, 3)) > 0).all()


@pytest.fixture(scope='module')
def d_inputs():
  """What the discriminators are given in a D step, as a function of the batch; every generated frame goes to D_S."""
  config = prediction_config()
  config.disc.frames_k = 4
  recipe = train_step.make_recipe(config, unroll=True)
  state = jax.jit(lambda p: train_step.init_state(recipe, p, jax.random.key(0)))(models.init(config))
  whole = train_step.disc_loss

  def inputs(batch):
    seen = {}

    def loss(recipe, weights, inputs):
      seen.update(inputs)
      return whole(recipe, weights, inputs)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(train_step, 'disc_loss', loss)
      train_step.d_step(recipe, state.disc, state.gen.params, batch, jax.random.key(1))
    return jax.device_get(seen)

  batch = {name: jnp.asarray(value[0]) for name, value in random_batch(config).items()}
  return inputs, batch


def test_the_temporal_discriminator_sees_given_frames_then_generated_ones(d_inputs):
  inputs, batch = d_inputs
  seen = inputs(batch)
  real = jax.device_get(train_step.to_float(batch['video']))
  np.testing.assert_array_equal(seen['video'][0::2], real)
  np.testing.assert_array_equal(seen['video'][1::2, :2], real[:, :2])
  assert seen['video'].shape[1] == 6 and (seen['video'][1::2, 2:] != real[:, 2:]).mean() > 0.9


def test_the_spatial_discriminator_sees_no_given_frame(d_inputs):
  inputs, batch = d_inputs
  seen = inputs(batch)
  # All four frames after the given ones, in some order.
  for frames, video in zip(seen['frames'], seen['video'], strict=True):
    assert sorted(frames.sum((1, 2, 3)).tolist()) == sorted(video[2:].sum((1, 2, 3)).tolist())


def test_generated_frames_depend_on_given_ones_and_never_on_the_truth(d_inputs):
  inputs, batch = d_inputs
  before = inputs(batch)['video'][1::2, 2:]
  truth = batch | {'video': batch['video'].at[:, 2:].set(255 - batch['video'][:, 2:])}
  np.testing.assert_array_equal(inputs(truth)['video'][1::2, 2:], before)
  given = batch | {'video': batch['video'].at[:, 1].set(255 - batch['video'][:, 1])}
  assert (inputs(given)['video'][1::2, 2:] != before).any()
