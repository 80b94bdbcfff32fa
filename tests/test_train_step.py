import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import losses, models, sharding, train_step
from dvd_gan.models import spectral
from dvd_gan.runtime import backend
from tests.conftest import make_step, random_batch, tiny_config

GOLDEN = pathlib.Path(__file__).parent / 'golden_step.json'


def pick_frames(key, video, k):
  return train_step.take_frames(video, train_step.choose_frames(key, *video.shape[:2], k))


def host(tree):
  return jax.tree.map(np.asarray, tree)


@pytest.fixture(scope='module')
def run(step_one):
  """Four steps on one device: the initial state and the state after each step, and the metrics of each step."""
  states, metrics = [step_one.fresh()], []
  kept = [host(states[0])]
  for i in range(4):
    state, m = step_one(states[-1], random_batch(step_one.config, i))
    states.append(state)
    kept.append(host(state))
    metrics.append({name: float(value) for name, value in m.items()})
  return kept, metrics


def assert_golden(metrics):
  golden = json.loads(GOLDEN.read_text())
  for expected, got in zip(golden, metrics, strict=True):
    assert got.keys() == expected.keys()
    for name in expected:
      assert float(got[name]) == pytest.approx(expected[name], rel=2e-3, abs=2e-4), name


def test_metrics_of_the_first_two_steps_match_golden_step_json(run):
  """They change with the mathematics, the random keys or the initialisation.

  After an intended change, write new ones with `python -m tests.test_train_step`.
  """
  assert_golden(run[1][:2])


@pytest.mark.parametrize(
  'variant', ['unrolled and computed again', "other platforms' forms, jaxlib's kernels, resampling apart"]
)
def test_backend_and_memory_options_do_not_change_the_golden_metrics(variant, config, monkeypatch):
  if variant.startswith('unrolled'):
    config.mesh.loops = 'unroll'
    config.gen.remat = config.disc.remat = True
  else:
    used = []

    def other_form(*args, default, **_):
      used.append(default)
      return default(*args)

    monkeypatch.setattr(jax.lax, 'platform_dependent', other_form)
    monkeypatch.setattr(backend, 'compiler_options', lambda platform: {})
    config.mesh.resampling = 'apart'
  step = make_step(jax.devices()[:1], config=config)
  assert variant.startswith('unrolled') or used
  state, metrics = step.fresh(), []
  for i in range(2):
    state, m = step(state, random_batch(config, i))
    metrics.append(m)
  assert_golden(metrics)


def test_a_step_returns_exactly_the_expected_metrics_and_they_are_finite(run):
  names = {f'{a}_{b}' for a in ('disc_loss', 'gen_loss', 'score_real', 'score_fake') for b in ('spatial', 'temporal')}
  names |= {f'{net}_{what}' for net in ('gen', 'disc') for what in ('grad_norm', 'sigma_max', 'sigma_min')} | {'finite'}
  assert set(run[1][0]) == names
  assert all(np.isfinite(list(m.values())).all() and m['finite'] for m in run[1])
  assert run[1][0]['gen_sigma_min'] <= run[1][0]['gen_sigma_max']


@pytest.fixture(scope='module')
def step_sharded():
  """The compiled step on eight devices, four of which share one optimizer state and EMA."""
  return make_step(jax.devices(), shard=4)


@pytest.mark.parametrize('name', ['step_eight', 'step_sharded'])
def test_a_step_on_eight_devices_matches_one_device(run, request, name):
  step = request.getfixturevalue(name)
  state, metrics = step.fresh(), []
  for i in range(2):
    state, m = step(state, random_batch(step.config, i))
    metrics.append(m)
  for expected, got in zip(run[1][:2], metrics, strict=True):
    for name in expected:
      assert float(got[name]) == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name
  # Compare second moments: Adam's first updates are signs of gradients, which rounding errors may change.
  expected, got = run[0][2], host(state)
  for net in ('gen', 'disc'):
    for a, b in zip(
      jax.tree.leaves(getattr(expected, net).opt_state), jax.tree.leaves(getattr(got, net).opt_state), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-5 * max(abs(a).max(), 1e-3))


def test_each_device_holds_its_shard_of_ema_and_optimizer_state_and_all_parameters(step_sharded):
  state, _ = step_sharded(step_sharded.fresh(), random_batch(step_sharded.config, 0))

  def held(tree):
    return sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(tree))

  for part, share in (
    (state.ema_params, 0.35),
    (state.gen.opt_state, 0.35),
    (state.disc.opt_state, 0.35),
    (state.gen.params, 1),
  ):
    whole = sum(leaf.size for leaf in jax.tree.leaves(part))
    assert held(part) <= share * whole and (share < 1 or held(part) == whole)


def test_the_compiled_step_has_no_collectives_except_all_reduce(step_eight):
  text = step_eight.compiled.as_text()
  assert 'all-reduce' in text
  for name in ('all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter'):
    assert name not in text, name


def test_parameters_outside_attention_move_by_the_learning_rate_of_their_network(run):
  before, after = run[0][:2]
  for net, rate, updates in (('gen', 1e-4, 1), ('disc', 5e-4, 2)):
    moved = jax.tree.map(lambda a, b: abs(a - b).max(), getattr(before, net).params, getattr(after, net).params)
    sizes = jax.tree.leaves(moved)
    # Adam's first update is the learning rate times a sign; the second is at most about sqrt(2) times as large.
    assert max(sizes) == pytest.approx(rate, rel=0.01) if updates == 1 else rate < max(sizes) < 2.5 * rate
    # Attention's projections have no gradient while their gain is zero.
    still = [jax.tree_util.keystr(path) for path, size in jax.tree_util.tree_flatten_with_path(moved)[0] if size == 0]
    assert all('attention' in name for name in still), still


def test_spectral_vectors_of_g_advance_once_per_step_and_those_of_d_twice(run, step_one):
  """Uses perturbed weights: the vectors of the initial, orthogonal ones converge in one power iteration."""
  rng, before = np.random.default_rng(0), jax.tree.map(np.array, run[0][0])
  for net in (before.gen, before.disc):
    for leaf in jax.tree.leaves(net.params):
      leaf += 0.2 * rng.standard_normal(leaf.shape, np.float32)
  state = jax.device_put(jax.tree.map(np.array, before), sharding.state(step_one.mesh, before))
  after, _ = step_one(state, random_batch(step_one.config, 0))
  for name, updates in (('gen', 1), ('disc', 2)):
    net, found = getattr(before, name), host(getattr(after, name).spectral)
    for iterations in range(4):
      u = spectral.converge(net.params, net.spectral, max_iterations=iterations)
      distance = max(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), host(u), found)))
      # D's first update changes the weights of the second iteration, which moves the vectors by about 0.001.
      assert distance < 0.01 if iterations == updates else distance > 0.1, (name, iterations, distance)


def test_ema_equals_the_parameters_until_ema_start_and_then_averages(run):
  states = run[0]
  config = tiny_config()
  for state in states[: config.train.ema_start + 1]:
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, state.gen.params)
  for before, after in zip(states[2:], states[3:], strict=False):
    expected = jax.tree.map(lambda a, b: 0.9 * a + np.float32(0.1) * b, before.ema_params, after.gen.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), expected, after.ema_params)
  with pytest.raises(AssertionError):
    jax.tree.map(np.testing.assert_array_equal, states[4].ema_params, states[4].gen.params)


@pytest.mark.parametrize('which', [0, 1])
def test_each_of_the_two_d_steps_uses_its_own_real_batch(run, step_one, which):
  batch = random_batch(step_one.config, 0)
  batch['video'][which] = 255 - batch['video'][which]
  state, _ = step_one(step_one.fresh(), batch)
  moved = jax.tree.map(lambda a, b: abs(a - b).max(), run[0][1].disc.opt_state, host(state).disc.opt_state)
  assert max(jax.tree.leaves(moved)) > 0


def test_different_steps_draw_different_noise(run, step_one):
  state = step_one.fresh()
  later = step_one.fresh()._replace(step=jax.device_put(jnp.int32(7), state.step.sharding))
  batch = random_batch(step_one.config, 0)
  a, b = step_one(state, batch)[1], step_one(later, batch)[1]
  assert float(a['gen_loss_spatial']) != float(b['gen_loss_spatial'])
  assert float(a['score_fake_spatial']) != float(b['score_fake_spatial'])


def test_the_g_step_uses_new_samples_and_the_updated_discriminators(run, step_one):
  """Recomputes G's loss with D after its updates, G before its update and the labels of the last D batch."""
  before, after = run[0][:2]
  spec, config = step_one.spec, step_one.config
  key = jax.random.fold_in(jax.random.key(config.seed), 0)
  z_key, frames_key = jax.random.split(jax.random.split(key, 3)[2])
  label = random_batch(config, 0)['label'][-1]
  gen_weights, _, _ = spectral.normalise(before.gen.params, before.gen.spectral)
  disc_weights, _, _ = spectral.normalise(after.disc.params, after.disc.spectral)
  z = jax.random.normal(z_key, (len(label), config.gen.z_dim))
  video = spec.gen.apply({'params': gen_weights}, z, label, train=True)
  frames = pick_frames(frames_key, video, config.disc.frames_k)
  scores = spec.disc.apply({'params': disc_weights}, frames, video, label)
  for name, loss in losses.hinge_gen(scores).items():
    assert run[1][0][f'gen_loss_{name}'] == pytest.approx(float(loss), rel=1e-3, abs=1e-4)


def test_ds_loss_and_gradient_norm_in_one_pass_match_separate_real_and_fake_passes(run, step_one):
  """Both passes must use the same weights: a power iteration between D(real) and D(fake) would change D."""
  spec, config = step_one.spec, step_one.config
  state = run[0][2]
  batch = {name: value[0] for name, value in random_batch(config, 5).items()}
  key = jax.random.key(9)
  gen_weights, _, _ = spectral.normalise(state.gen.params, state.gen.spectral)
  d_step = jax.jit(functools.partial(train_step.d_step, spec))
  _, metrics = d_step(state.disc, None, gen_weights, state.step, batch, key)
  z_key, frames_key = jax.random.split(key)
  z = jax.random.normal(z_key, (len(batch['label']), config.gen.z_dim))
  fake = spec.gen.apply({'params': gen_weights}, z, batch['label'], train=True)
  real = train_step.to_float(batch['video'])
  frames = pick_frames(frames_key, train_step.interleave(real, fake), config.disc.frames_k)

  def loss_fn(params):
    weights, _, _ = spectral.normalise(params, state.disc.spectral)
    on_real = spec.disc.apply({'params': weights}, frames[0::2], real, batch['label'])
    on_fake = spec.disc.apply({'params': weights}, frames[1::2], fake, batch['label'])
    return sum(losses.hinge_disc(on_real, on_fake).values())

  loss, grads = jax.jit(jax.value_and_grad(loss_fn))(state.disc.params)
  norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grads)))
  assert float(metrics['disc_loss_spatial'] + metrics['disc_loss_temporal']) == pytest.approx(float(loss), rel=1e-4)
  assert float(metrics['disc_grad_norm']) == pytest.approx(norm, rel=1e-3)


def test_one_discriminator_trains_as_it_does_with_both_and_their_gradients_to_g_add_up(run, step_one):
  state, config = run[0][2], step_one.config.copy_and_resolve_references()
  batch = {name: value[0] for name, value in random_batch(config, 5).items()}
  gen_weights, _, _ = spectral.normalise(state.gen.params, state.gen.spectral)

  def look(*parts):
    config.disc.parts = parts
    spec = train_step.make_spec(config, unroll=False)
    params, vectors = ({part: tree[part] for part in parts} for tree in (state.disc.params, state.disc.spectral))
    disc = train_step.NetState(params, vectors, spec.disc_opt.init(params))
    assert jax.tree.structure(models.shapes(config)[1]) == jax.tree.structure(params)

    @jax.jit
    def both_steps(disc):
      (new, _), metrics = train_step.d_step(spec, disc, None, gen_weights, 0, batch, jax.random.key(9))
      inputs = {
        'z': jax.random.normal(jax.random.key(1), (len(batch['label']), config.gen.z_dim)),
        'label': batch['label'],
        'context': train_step.to_float(batch['video'][:, :0]),
        'chosen': jnp.tile(jnp.arange(config.disc.frames_k), (len(batch['label']), 1)),
        'draws': {},
      }
      weights, _, _ = spectral.normalise(disc.params, disc.spectral)
      grads, losses_of_gen = jax.grad(functools.partial(train_step.gen_loss, spec, weights), has_aux=True)(
        gen_weights, inputs
      )
      return new.params, metrics | losses_of_gen, grads

    return host(both_steps(disc))

  params, metrics, grads = look('spatial', 'temporal')
  alone = {part: look(part) for part in ('spatial', 'temporal')}
  for part, (its_params, its_metrics, _) in alone.items():
    assert {name for name in its_metrics if name.endswith(('spatial', 'temporal'))} == {
      name for name in metrics if name.endswith(part)
    }
    for name in its_metrics.keys() - {'disc_grad_norm', 'disc_sigma_max', 'disc_sigma_min'}:
      assert its_metrics[name] == pytest.approx(metrics[name], rel=1e-4), name
    for a, b in zip(jax.tree.leaves(its_params[part]), jax.tree.leaves(params[part]), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)
  summed = jax.tree.map(jnp.add, alone['spatial'][2], alone['temporal'][2])
  for a, b in zip(jax.tree.leaves(summed), jax.tree.leaves(grads), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 3e-6)


@pytest.mark.parametrize('d_steps', [1, 2])
def test_unrolling_leaves_no_loop_over_d_steps(config, d_steps):
  """A convolution's gradient inside a loop is 50 times slower on a CPU."""
  config.train.d_steps = d_steps
  state = train_step.state_shapes(config)
  batch, key = random_batch(config), jax.random.key(0)

  def loops(unroll):
    spec = train_step.make_spec(config, unroll=unroll)
    lowered = jax.jit(functools.partial(train_step.train_step, spec)).lower(state, batch, key)
    return lowered.as_text().count('stablehlo.while')

  assert loops(True) == loops(False) - 1  # the loops of the recurrences remain


def test_frames_for_the_spatial_discriminator_are_distinct_uniform_and_independent():
  count, frames, k = 4000, 6, 3
  video = jnp.broadcast_to(jnp.arange(frames, dtype=jnp.float32)[None, :, None, None, None], (count, frames, 1, 1, 1))
  picked = np.asarray(pick_frames(jax.random.key(0), video, k))[..., 0, 0, 0].astype(int)
  assert picked.shape == (count, k)
  assert all(len(set(row)) == k for row in picked)
  # Each frame is in a video's pick with probability k / T; 4 standard deviations.
  share = np.array([(picked == t).any(1).mean() for t in range(frames)])
  assert abs(share - k / frames).max() < 4 * np.sqrt(0.25 / count)
  # Adjacent videos pick the same frames as often as independent draws do.
  sets = np.sort(picked, 1)
  assert abs((sets[:-1] == sets[1:]).all(1).mean() - 1 / 20) < 4 * np.sqrt(0.05 / count)


def test_interleave_alternates_real_and_fake_rows():
  real, fake = jnp.arange(3), 10 + jnp.arange(3)
  assert train_step.interleave(real, fake).tolist() == [0, 10, 1, 11, 2, 12]


def test_to_float_maps_pixels_0_and_255_to_minus_1_and_1():
  assert train_step.to_float(jnp.array([0, 255], jnp.uint8)).tolist() == [-1, 1]


def test_phi_crop_takes_a_random_square_of_half_the_side_from_each_video(config):
  """The paper's fourth phi: the same square in all frames of a video, at a different position in each video."""
  key, video = jax.random.key(3), np.asarray(random_batch(config)['video'][0], np.float32)
  size = video.shape[2]
  corners = np.asarray(train_step.choose_corners(key, 4000, size, 2))
  assert set(np.unique(corners)) == set(range(size // 2 + 1)) and np.bincount(corners[:, 0]).min() > 300
  corners = corners[: len(video)]
  assert len(set(map(tuple, corners))) > 1
  expected = np.stack([
    clip[:, top : top + size // 2, left : left + size // 2] for clip, (top, left) in zip(video, corners, strict=True)
  ])  # fmt: skip
  np.testing.assert_array_equal(train_step.take_squares(video, corners, 2), expected)

  pooled = models.shapes(config)
  config.disc.phi = 'crop'
  assert jax.tree.map(jnp.shape, models.shapes(config)) == jax.tree.map(jnp.shape, pooled)
  spec, seen = train_step.make_spec(config, unroll=False), []

  def look(call, args, kwargs, context):
    if context.module.name == 'temporal':
      seen.append(args[0].shape)
    return call(*args, **kwargs)

  state = train_step.state_shapes(config)
  with nn.intercept_methods(look):
    jax.eval_shape(functools.partial(train_step.train_step, spec), state, random_batch(config), jax.random.key(0))
  assert {shape[2:4] for shape in seen} == {(size // 2, size // 2)}


if __name__ == '__main__':
  step = make_step(jax.devices()[:1])
  state, lines = step.fresh(), []
  for i in range(2):
    state, metrics = step(state, random_batch(step.config, i))
    lines.append({name: float(value) for name, value in sorted(metrics.items())})
  GOLDEN.write_text(json.dumps(lines, indent=1) + '\n')
