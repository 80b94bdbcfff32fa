import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import expit

from dvd_gan.models import conv_gru

B, T, SIZE, INPUTS, WIDTH = 2, 4, 5, 3, 4


def _conv(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _reference(params, x, state, activation):
  """The paper's equations, frame by frame, on the concatenated [h; x]."""
  act = {'relu': lambda c: jnp.maximum(c, 0), 'tanh': jnp.tanh}[activation]
  h, states = state, []
  for t in range(T):
    gate = lambda name, h: _conv(jnp.concatenate([h, x[:, t]], -1), params[name]['kernel']) + params[name]['bias']  # noqa: B023, E731
    r, u = expit(gate('reset', h)), expit(gate('update', h))
    h = u * h + (1 - u) * act(gate('candidate', r * h))
    states.append(h)
  return jnp.stack(states, 1)


@pytest.fixture(params=['relu', 'tanh'])
def setup(request):
  module = conv_gru.ConvGRU(WIDTH, T, request.param)
  x = jax.random.normal(jax.random.key(0), (B, T, SIZE, SIZE, INPUTS))
  shapes = module.init(jax.random.key(0), x)['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes)
  return request.param, module, params, x


def test_conv_gru_activation_is_relu_by_default():
  assert conv_gru.ConvGRU(WIDTH, T).activation == 'relu'


@pytest.mark.parametrize('with_state', [False, True])
def test_conv_gru_states_and_gradients_match_the_equations(setup, with_state):
  activation, module, params, x = setup
  state = (
    jax.random.normal(jax.random.key(1), (B, SIZE, SIZE, WIDTH)) if with_state else jnp.zeros((B, SIZE, SIZE, WIDTH))
  )
  weight = jax.random.normal(jax.random.key(2), (B, T, SIZE, SIZE, WIDTH))

  def ours(params, x, state):
    return jnp.sum(weight * module.apply({'params': params}, x, state if with_state else None))

  def reference(params, x, state):
    return jnp.sum(weight * _reference(params, x, state, activation))

  arguments = (0, 1, 2) if with_state else (0, 1)
  got, expected = (jax.value_and_grad(f, arguments)(params, x, state) for f in (ours, reference))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


def test_conv_gru_uses_a_single_input_for_every_frame(setup):
  _, module, params, x = setup
  once = module.apply({'params': params}, x[:, :1])
  every = module.apply({'params': params}, jnp.repeat(x[:, :1], T, 1))
  np.testing.assert_allclose(once, every, atol=1e-6)


def test_conv_gru_state_does_not_depend_on_later_inputs(setup):
  _, module, params, x = setup
  changed = module.apply({'params': params}, x.at[:, 2:].add(1.0))
  same = module.apply({'params': params}, x)
  np.testing.assert_array_equal(changed[:, :2], same[:, :2])
  assert not np.allclose(changed[:, 2], same[:, 2])


def test_each_conv_gru_kernel_acts_on_the_concatenation_of_state_and_input(setup):
  _, _, params, _ = setup
  assert {params[gate]['kernel'].shape for gate in ('reset', 'update', 'candidate')} == {(3, 3, WIDTH + INPUTS, WIDTH)}
