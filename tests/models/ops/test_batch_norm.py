import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan.models.ops import batch_norm


def _video(seed=0, shape=(3, 4, 5, 5, 6)):
  frame = jnp.arange(shape[1])[None, :, None, None, None]
  return jax.random.normal(jax.random.key(seed), shape) * (1 + frame) + 10 * frame


def test_frame_batch_norm_gives_each_frame_mean_zero_and_variance_one():
  out = batch_norm.FrameBatchNorm().apply({}, _video(), train=True)
  np.testing.assert_allclose(out.mean((0, 2, 3)), 0, atol=1e-4)
  np.testing.assert_allclose(out.var((0, 2, 3)), 1, atol=1e-3)


def test_frame_batch_norm_of_a_frame_does_not_depend_on_other_frames():
  video = _video()
  changed = video.at[:, 2].mul(-7)
  norm = batch_norm.FrameBatchNorm()
  before, after = norm.apply({}, video, train=True), norm.apply({}, changed, train=True)
  others = np.array([0, 1, 3])
  np.testing.assert_array_equal(before[:, others], after[:, others])
  assert not np.allclose(before[:, 2], after[:, 2])


def test_batch_norm_over_time_normalises_all_frames_together():
  out = batch_norm.FrameBatchNorm(over_time=True).apply({}, _video(), train=True)
  np.testing.assert_allclose(out.mean((0, 1, 2, 3)), 0, atol=1e-4)
  assert abs(out.mean((0, 2, 3))).max() > 0.5


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('over_time', [False, True])
def test_batch_norm_gradients_match_those_of_the_formula_in_two_passes(over_time, dtype):
  """One channel is constant, so its variance is at the lower bound."""
  video = _video().at[..., 2].set(3.0).astype(dtype)
  norm = batch_norm.FrameBatchNorm(over_time)
  scale, offset = (jax.random.normal(jax.random.key(i), (3, 6)) for i in (1, 2))
  weight = jax.random.normal(jax.random.key(3), video.shape)

  def formula(x, scale, offset):
    axes = (0, 1, 2, 3) if over_time else (0, 2, 3)
    x = x.astype(jnp.float32)
    normalised = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + batch_norm.EPS)
    return normalised * scale[:, None, None, None] + offset[:, None, None, None]

  def ours(x, scale, offset):
    return norm.apply({}, x, scale, offset, train=True)

  got, expected = (
    jax.value_and_grad(lambda *args, form=form: (form(*args) * weight).sum(), (0, 1, 2))(video, scale, offset)
    for form in (ours, formula)
  )
  exact = dtype == jnp.float32
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    a, b = (np.asarray(leaf, np.float32) for leaf in (a, b))
    np.testing.assert_allclose(a, b, rtol=1e-3 if exact else 2e-2, atol=2e-3 if exact else 2e-2 * abs(b).max())


def test_standing_statistics_reproduce_the_training_output_also_for_a_single_video():
  norm = batch_norm.FrameBatchNorm()
  video = _video()
  trained, collected = norm.apply({}, video, train=True, mutable=['standing'])
  np.testing.assert_allclose(norm.apply(collected, video, train=False), trained, atol=1e-6)
  alone = norm.apply(collected, video[:1], train=False)
  np.testing.assert_allclose(alone, trained[:1], atol=1e-6)


def _conditional(seed=0):
  norm = batch_norm.ConditionalBatchNorm()
  video = _video()
  shapes = norm.init(jax.random.key(0), video, jnp.zeros((3, 7)), train=True)['params']
  rng = np.random.default_rng(seed)
  return norm, video, jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


def test_conditional_gain_is_centred_on_one_and_bias_on_zero():
  # Under spectral norm the linear maps are never zero, so CBN differs from plain BN for each condition. The outputs for
  # a condition and its negative average to plain BN.
  norm, video, params = _conditional()
  plain = batch_norm.FrameBatchNorm().apply({}, video, train=True)
  cond = jax.random.normal(jax.random.key(3), (3, 7))
  there, back = (norm.apply({'params': params}, video, sign * cond, train=True) for sign in (1, -1))
  np.testing.assert_allclose((there + back) / 2, plain, atol=1e-4)
  assert not np.allclose(there, plain, atol=0.1)
  zero = norm.apply({'params': params}, video, 0 * cond, train=True)
  np.testing.assert_allclose(zero, plain, atol=1e-6)


def test_all_frames_of_a_video_share_the_gain_and_bias_of_its_condition():
  norm, video, params = _conditional()
  plain = batch_norm.FrameBatchNorm().apply({}, video, train=True)
  cond = jax.random.normal(jax.random.key(3), (3, 7))
  out = norm.apply({'params': params}, video, cond, train=True)
  gain, bias = 1 + cond @ params['gain']['kernel'], cond @ params['bias']['kernel']
  expected = plain * gain[:, None, None, None, :] + bias[:, None, None, None, :]
  np.testing.assert_allclose(out, expected, atol=1e-4)
