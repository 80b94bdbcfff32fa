"""The train step of a prediction model: which frames each network receives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import train_step
from tests.conftest import make_step, random_batch
from tests.tiny_prediction import get_config as prediction_config

GIVEN = prediction_config().data.context


@pytest.fixture(scope='module')
def step():
  return make_step(jax.devices()[:1], config=prediction_config())


@pytest.fixture(scope='module')
def d_inputs(step):
  """The discriminators' inputs in a D step, as a function of the real videos f32 [B, T, H, W, 3] in [0, 255]."""
  state, whole = step.fresh(), train_step.disc_loss
  batch = {name: jnp.asarray(value[0]) for name, value in random_batch(step.config).items()}

  def loss(spec, score_means, weights, inputs):
    value, metrics = whole(spec, score_means, weights, inputs)
    return value, metrics | inputs

  def inputs(video):
    # The patch is only needed while this function is traced.
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(train_step, 'disc_loss', loss)
      metrics = train_step.d_step(
        step.spec, state.disc, None, state.gen.params, 0, batch | {'video': video}, jax.random.key(1)
      )[1]
    return {name: metrics[name] for name in ('frames', 'video')}

  return inputs, batch['video'].astype(jnp.float32)


@pytest.fixture(scope='module')
def seen(d_inputs):
  inputs, video = d_inputs
  return jax.device_get(jax.jit(inputs)(video)), jax.device_get(train_step.to_float(video))


def test_the_temporal_discriminator_sees_context_frames_then_generated_ones(seen):
  seen, real = seen
  np.testing.assert_array_equal(seen['video'][0::2], real)
  np.testing.assert_array_equal(seen['video'][1::2, :GIVEN], real[:, :GIVEN])
  assert (seen['video'][1::2, GIVEN:] != real[:, GIVEN:]).mean() > 0.9


def test_the_spatial_discriminator_sees_no_context_frame(seen):
  # All four frames after the context, in some order.
  for frames, video in zip(seen[0]['frames'], seen[0]['video'], strict=True):
    assert sorted(frames.sum((1, 2, 3)).tolist()) == sorted(video[GIVEN:].sum((1, 2, 3)).tolist())


def test_generated_frames_depend_on_every_context_frame_but_not_on_the_truth(d_inputs):
  inputs, video = d_inputs

  def generated(video):
    fake = inputs(video)['video'][1::2, GIVEN:]
    return jnp.sum(fake * jax.random.normal(jax.random.key(2), fake.shape))

  gradient = jax.jit(jax.grad(generated))(video)
  assert (gradient[:, GIVEN:] == 0).all()
  assert (abs(gradient[:, :GIVEN]).max((2, 3, 4)) > 0).all()  # of every context frame


class Numbering:
  """Replaces G: its frames are filled with 2, 3, 4 and 5."""

  def apply(self, variables, z, label, context, train):
    return 2 + jnp.arange(4.0)[None, :, None, None, None] + jnp.zeros((len(label), 4, 16, 16, 3))


class Recording:
  """Replaces the discriminators: returns scores of 0.5 and stores its inputs."""

  def apply(self, variables, frames, video, label):
    self.frames, self.video = frames, video
    return {'spatial': jnp.full(len(label), 0.5), 'temporal': jnp.full(len(label), 0.5)}


@pytest.fixture
def g_inputs():
  return {
    'z': jnp.zeros((3, 5)),
    'label': jnp.zeros(3, jnp.int32),
    'context': jnp.full((3, GIVEN, 16, 16, 3), -1.0),
    'chosen': train_step.choose_frames(jax.random.key(0), 3, 4, 2),
    'draws': {},
  }


def test_the_generator_loss_shows_d_t_context_and_generated_frames_and_d_s_only_generated_ones(step, g_inputs):
  """D_T also receives the context frames; D_S receives only generated frames."""
  disc = Recording()
  train_step.gen_loss(step.spec._replace(gen=Numbering(), disc=disc), {}, {}, g_inputs)
  assert disc.video[:, :, 0, 0, 0].tolist() == [[-1, -1, 2, 3, 4, 5]] * 3
  np.testing.assert_array_equal(disc.frames[..., 0, 0, 0], 2 + g_inputs['chosen'])


def test_the_generator_loss_includes_the_squared_error_only_with_a_truth_weight(step, g_inputs):
  spec = step.spec._replace(gen=Numbering(), disc=Recording())
  loss, metrics = train_step.gen_loss(spec, {}, {}, g_inputs)
  assert float(loss) == -1 and not any('squared' in name for name in metrics)
  truth = jnp.full((3, 4, 16, 16, 3), 2.0)  # errors of 0, 1, 2 and 3
  loss, metrics = train_step.gen_loss(spec._replace(truth_weight=4.0), {}, {}, g_inputs | {'truth': truth})
  assert float(metrics['gen_squared_error']) == 3.5 and float(loss) == -1 + 4 * 3.5


@pytest.mark.parametrize(
  'decay, factor', [((0, 0), 1), ((100, 100), 1), ((20, 100), 0.75), ((40, 100), 1), ((1, 40), 0)]
)
def test_a_g_step_passes_the_falling_factor_of_the_truth_weight_to_the_loss(step, monkeypatch, decay, factor):
  assert seen_by_the_loss(step, step.spec._replace(truth_decay=decay), monkeypatch)['truth_factor'] == factor


def test_a_g_step_passes_context_frames_and_the_following_truth_to_the_loss(step, monkeypatch):
  seen = seen_by_the_loss(step, step.spec, monkeypatch)
  whole = jnp.concatenate([seen['context'], seen['truth']], axis=1)
  np.testing.assert_array_equal(whole, train_step.to_float(jnp.asarray(random_batch(step.config)['video'][0])))
  assert seen['context'].shape[1] == GIVEN


def seen_by_the_loss(step, spec, monkeypatch):
  """What a G step at step 40 passes to the loss."""
  batch = {name: jnp.asarray(value[0]) for name, value in random_batch(step.config).items()}
  state, seen = step.fresh(), {}

  def loss(spec, disc_weights, weights, inputs, *, truth_factor):
    seen.update(inputs, truth_factor=truth_factor)
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(weights)), {}

  monkeypatch.setattr(train_step, 'gen_loss', loss)
  weights, pullback, _ = train_step._normalised(state.gen)
  train_step.g_step(spec, state.gen, weights, pullback, state.disc, 40, batch, jax.random.key(0))
  return seen


def test_a_prediction_step_on_eight_devices_matches_one_and_communicates_only_by_all_reduce(step):
  eight = make_step(jax.devices(), config=prediction_config())
  states = [one.fresh() for one in (step, eight)]
  for i in range(2):
    batch = random_batch(step.config, i)
    batch['label'][:] = 0
    (one, expected), (all_, got) = (run(state, batch) for run, state in zip((step, eight), states, strict=True))
    states = [one, all_]
    for name in expected:
      assert float(got[name]) == pytest.approx(float(expected[name]), rel=1e-3, abs=1e-4), name
  text = eight.compiled.as_text()
  assert 'all-reduce' in text
  for name in ('all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter'):
    assert name not in text, name
