"""Train-step options for small data sets and long runs: DiffAugment, LeCam and learning-rate decay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import augment, train_step
from tests.conftest import make_step, random_batch, tiny_config


class Frames:
  """Replaces G: each of its clips repeats one random frame."""

  def apply(self, variables, z, label, context, train):
    picture = jax.random.uniform(jax.random.key(5), (len(label), 1, 16, 16, 3))
    return jnp.broadcast_to(picture, (len(label), 5, 16, 16, 3))

  frames = 5


class Recording:
  """Replaces the discriminators: returns scores of 0 and stores its inputs."""

  def apply(self, variables, frames, video, label):
    self.frames, self.video = frames, video
    return {'spatial': jnp.zeros(len(label)), 'temporal': jnp.zeros(len(label))}


@pytest.fixture
def spec(config):
  config.train.augment = augment.KINDS
  return train_step.make_spec(config, unroll=False)._replace(gen=Frames(), disc=Recording())


def check_shown(disc, plain):
  """Checks that both discriminators received the same clips, and that most clips were augmented differently."""
  assert disc.video.shape == plain.shape
  for row, (frames, video) in enumerate(zip(disc.frames, disc.video, strict=True)):
    assert all(any(jnp.array_equal(frame, one) for one in video) for frame in frames)
    assert abs(video - plain[row]).mean() > 0.05
  changes = [np.asarray(clip == 0).tobytes() for clip in disc.video[:, 0]]  # pixels that cutout or translation set to 0
  assert len(set(changes)) > len(changes) / 2


def test_a_d_step_augments_real_and_generated_clips_equally_over_their_frames(spec, config):
  batch = {name: jnp.asarray(value[0]) for name, value in random_batch(config).items()}
  batch['video'] = jnp.broadcast_to(batch['video'][:, :1], batch['video'].shape)
  net = train_step.NetState({'w': jnp.ones((2, 2))}, {'w': jnp.ones(2)}, spec.disc_opt.init({'w': jnp.ones((2, 2))}))
  train_step.d_step(spec, net, None, {}, 0, batch, jax.random.key(1))
  fake = spec.gen.apply({}, None, batch['label'], None, True)
  check_shown(spec.disc, train_step.interleave(train_step.to_float(batch['video']), fake))
  held = spec.disc.video[:, 1:] - spec.disc.video[:, :1]
  np.testing.assert_allclose(held, 0, atol=1e-6)


def test_the_generator_loss_uses_augmented_clips(spec, config):
  label = jnp.zeros(8, jnp.int32)
  inputs = {
    'z': None,
    'label': label,
    'context': jnp.zeros((8, 0, 16, 16, 3)),
    'chosen': train_step.choose_frames(jax.random.key(0), 8, 5, 3),
    'draws': augment.draw(jax.random.key(1), 8, 16, augment.KINDS),
  }
  train_step.gen_loss(spec, {}, {}, inputs)
  check_shown(spec.disc, spec.gen.apply({}, None, label, None, True))


@pytest.fixture(scope='module')
def step():
  config = tiny_config()
  config.train.augment, config.train.lecam, config.train.decay_start = augment.KINDS, 0.3, 1
  return make_step(jax.devices(), config=config)


def test_a_step_with_augmentation_lecam_and_decay_updates_as_specified_and_only_all_reduces(step):
  before = jax.device_get(step.fresh())
  state, metrics = step(step.fresh()._replace(step=jnp.int32(3)), random_batch(step.config))
  assert bool(metrics['finite']) and float(metrics['disc_lecam']) > 0
  for side, parts in jax.device_get(state.score_means).items():
    for part, mean in parts.items():  # two D steps, each a hundredth of the way
      assert mean == pytest.approx(0.02 * float(metrics[f'score_{side}_{part}']), rel=0.02)
  # Adam's first update is the learning rate times a sign; at the last of four steps a third of the rate is left.
  moved = jax.tree.map(lambda a, b: abs(a - b).max(), before.gen.params, jax.device_get(state.gen.params))
  assert max(jax.tree.leaves(moved)) == pytest.approx(1e-4 / 3, rel=0.02)
  text = step.compiled.as_text()
  assert 'all-reduce' in text
  for name in ('all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter'):
    assert name not in text, name
