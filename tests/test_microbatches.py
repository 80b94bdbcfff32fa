import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import microbatches, models, sharding, train_step
from tests.conftest import random_batch, tiny_config


class WithoutBatchStatistics:
  """A generator whose batch norm uses fixed statistics, so that a video does not depend on the rest of its batch."""

  def __init__(self, gen, standing):
    self._gen, self._standing, self.frames = gen, standing, gen.frames

  def apply(self, variables, z, label, context, train):
    return self._gen.apply(variables | {'standing': self._standing}, z, label, context, train=False)


@pytest.fixture(scope='module', params=[0, 1], ids=['synthesis', 'prediction'])
def setup(request):
  """(spec, state on two devices, one D step's batch on them)."""
  config = tiny_config()
  config.data.resolution, config.data.context, config.data.frames = 8, request.param, 4 + request.param
  config.gen.multipliers, config.gen.attention, config.disc.multipliers = (2, 2), (), (1, 2, 2)
  spec = train_step.make_spec(config, unroll=False)
  mesh = sharding.make_mesh(devices=jax.devices()[:2])
  state = jax.jit(functools.partial(train_step.init_state, spec))(models.init(config), jax.random.key(0))
  state = jax.device_put(state, sharding.replicated(mesh))
  batch = {name: value[0] for name, value in random_batch(config).items()}
  standing = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), models.standing_shapes(config))
  spec = spec._replace(gen=WithoutBatchStatistics(spec.gen, standing))
  return spec, state, jax.device_put(batch, sharding.batch(mesh))


def close(one, other):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(a).max() + 1e-12), one, other
  )


def test_gradients_of_four_microbatches_equal_those_of_the_full_batch(setup):
  spec, state, batch = setup
  found = []
  for count in (1, 4):
    parted = spec._replace(microbatches=count)

    def both(state, batch, parted=parted):
      weights, pullback, _ = train_step._normalised(state.gen)
      d = train_step.d_step(parted, state.disc, None, weights, 0, batch, jax.random.key(1))
      g = train_step.g_step(parted, state.gen, weights, pullback, state.disc, 0, batch, jax.random.key(2))
      # Compare second moments: Adam's first update is a sign, which rounding errors may change.
      return d[0][0].opt_state, d[1], g[0].opt_state, g[1]

    compiled = jax.jit(both).lower(state, batch).compile()
    for name in ('all-gather', 'all-to-all', 'collective-permute'):
      assert name not in compiled.as_text()  # no row moves to another device
    found.append(compiled(state, batch))
  close(*found)


def test_every_row_is_in_one_microbatch_and_groups_of_rows_are_not_split():
  batch = {'x': jnp.arange(12.0)}
  for count, together in ((2, 1), (3, 2), (6, 2)):
    seen = microbatches.mean(
      lambda part: jax.nn.one_hot(part['x'].astype(int), 12).sum(0), batch, count, unroll=True, group=together
    )
    np.testing.assert_allclose(seen * count, np.ones(12))
  pairs = microbatches.mean(
    lambda part: ((part['x'][1::2] - part['x'][0::2]) == 1).mean(), batch, 3, unroll=False, group=2
  )
  assert float(pairs) == 1.0
