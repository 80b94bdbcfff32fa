import functools

import jax
import jax.numpy as jnp
import pytest

from dvd_gan import flops, models, sharding, train_step
from dvd_gan.configs import kinetics600_64x12
from dvd_gan.dry_run import compile
from dvd_gan.models import spectral
from tests.conftest import random_batch, tiny_config


def xla(fn, *args):
  return jax.jit(fn).lower(*args).compile().cost_analysis()['flops']


def test_flops_of_a_matrix_product_match_the_formula():
  a, b = jnp.ones((8, 3, 5)), jnp.ones((8, 5, 7))
  assert flops.count(jnp.matmul, a, b) == 2 * 8 * 3 * 5 * 7


@pytest.mark.parametrize(('stride', 'dilation', 'groups'), [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_flops_of_a_convolution_and_its_gradients_match_xlas_count(stride, dilation, groups):
  def conv(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (stride,) * 2, 'SAME', rhs_dilation=(dilation,) * 2, feature_group_count=groups,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip

  x, kernel = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16 // groups, 32))
  both = jax.grad(lambda x, k: (conv(x, k) ** 2).sum(), (0, 1))
  assert flops.count(conv, x, kernel) == pytest.approx(xla(conv, x, kernel), rel=0.02)
  if groups == 1:
    assert flops.count(both, x, kernel) == pytest.approx(xla(both, x, kernel), rel=0.05)


def test_flops_in_a_scan_are_multiplied_by_its_length():
  a = jnp.ones((4, 4))
  loop = lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=6)[0]  # noqa: E731
  assert flops.count(jax.jit(loop), a) == 6 * 2 * 4**3


def test_flops_of_a_train_step_equal_the_sum_over_its_forward_and_backward_passes():
  """Each D step has G's forward pass and D's gradient on twice the batch; the G step has G's gradient through D.

  The spectral norm of G is computed once, that of D in every D step and in the G step.
  """
  config = tiny_config()
  config.gen.attention = ()
  config.disc.ch = config.gen.ch = 8  # wide enough for the convolutions to dominate
  spec = train_step.make_spec(config, unroll=True)
  key = jax.random.key(0)
  state = jax.eval_shape(lambda p: train_step.init_state(spec, p, key), models.shapes(config))
  batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, random_batch(config)))
  step = flops.count(functools.partial(train_step.train_step, spec), state, batch, key)

  b, data = config.train.batch_size, config.data
  z, label = jnp.zeros((b, config.gen.z_dim)), jnp.zeros((b,), jnp.int32)
  video = jnp.zeros((b, data.frames, data.resolution, data.resolution, 3))
  gen = lambda p, z, y: spec.gen.apply({'params': p}, z, y, train=True)  # noqa: E731
  disc = lambda p, v, y: sum(spec.disc.apply({'params': p}, v[:, :3], v, y).values()).sum()  # noqa: E731
  g = flops.count(gen, state.gen.params, z, label)
  g_all = flops.count(jax.grad(lambda p: gen(p, z, label).sum()), state.gen.params)
  d_params = flops.count(jax.grad(disc), state.disc.params, video, label)
  d_video = flops.count(jax.grad(disc, 1), state.disc.params, video, label)
  parts = config.train.d_steps * (g + 2 * d_params) + g_all + d_video
  gen_norm, disc_norm = (flops.count(spectral.normalise, net.params, net.spectral) for net in (state.gen, state.disc))
  assert step == parts + gen_norm + (config.train.d_steps + 1) * disc_norm


def test_flops_of_a_64x64x12_train_step_match_xlas_count_with_unrolled_loops(monkeypatch):
  """A narrow model; XLA counts the operations of its unoptimised program."""
  config = kinetics600_64x12.get_config()
  config.dtype, config.gen.ch, config.disc.ch = 'float32', 16, 16
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  arguments = compile.abstract_arguments(config, mesh, 2)
  spec = train_step.make_spec(config, unroll=True)
  ours = flops.count(functools.partial(train_step.train_step, spec), *arguments)
  scan = jax.lax.scan
  monkeypatch.setattr(jax.lax, 'scan', lambda *args, **options: scan(*args, **{**options, 'unroll': True}))
  theirs = train_step.jitted(spec, mesh, arguments[0]).lower(*arguments).cost_analysis()['flops']
  assert ours == pytest.approx(theirs, rel=0.05)


def test_flops_of_platform_dependent_code_are_those_of_its_cheapest_branch():
  a = jnp.ones((4, 4))
  fn = lambda a: jax.lax.platform_dependent(a, cpu=lambda a: a @ a @ a, default=lambda a: a @ a)  # noqa: E731
  assert flops.count(fn, a) == 2 * 4**3
