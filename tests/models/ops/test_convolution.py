import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan.models.ops.convolution import conv2d, convolve, kernel_gradient
from tests.models.ops.test_layers import filled


@pytest.mark.parametrize('padding', [(1, 1), (0, 0), (2, 0)])
@pytest.mark.parametrize(('side', 'features'), [((6, 5), 3), ((6, 5), 7), ((3, 2), 5)])
def test_convolve_matches_lax_convolution_for_every_map_size_and_padding(side, features, padding):
  x, kernel = filled((4, *side, 5), 0), filled((3, 2, 5, features), 1)
  expected = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), [(pad, pad) for pad in padding], dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  np.testing.assert_allclose(convolve(padding, x, kernel), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('padding', [(1, 1), (0, 1)])
@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_few_input_channels_are_convolved_by_pairs_of_columns_only_on_cpu(platform, padding):
  x, kernel = filled((4, 5, 6, 3), 0), filled((3, 3, 3, 7), 1)
  program = jax.jit(convolve, static_argnums=0).trace(padding, x, kernel).lower(lowering_platforms=(platform,))
  assert ('tensor<4x5x4x6xf32>' in program.as_text()) == (platform == 'cpu')
  if platform == 'cpu':
    expected = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), [(pad, pad) for pad in padding], dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    np.testing.assert_allclose(convolve(padding, x, kernel), expected, rtol=1e-4, atol=1e-4)


def test_kernel_gradients_in_a_loop_use_the_fast_layout_and_unfused_transposes():
  x, d_out = filled((3, 4, 8, 8, 5), 0), filled((3, 4, 8, 8, 7), 1)

  def sum_over_loop(x, d_out):
    return jax.lax.scan(lambda total, at: (total + gradient(jax.nn.relu(at[0]), at[1]), None), zeros, (x, d_out))[0]

  zeros, gradient = jnp.zeros((3, 3, 5, 7)), functools.partial(kernel_gradient, shape=(3, 3, 5, 7))
  compiled = jax.jit(sum_over_loop).lower(x, d_out).compile()
  program = compiled.as_text()
  assert set(re.findall(r' convolution\(.*dim_labels=([^ ,]*)', program)) == {'b01f_01io->b01f'}
  assert len(re.findall(r' call\(.*to_apply=', program)) >= 2
  expected = gradient(jax.nn.relu(x).reshape(-1, 8, 8, 5), d_out.reshape(-1, 8, 8, 7))
  np.testing.assert_allclose(compiled(x, d_out), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_convolutions_to_rgb_become_shifted_products_only_on_cpu(platform):
  args = filled((4, 8, 8, 5), 0), filled((3, 3, 5, 3), 1)
  program = jax.jit(conv2d).trace(*args).lower(lowering_platforms=(platform,)).as_text()
  assert ('stablehlo.convolution' in program) == (platform != 'cpu')


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_convolutions_of_small_maps_become_a_matrix_product_only_on_cpu(platform):
  args = filled((4, 2, 2, 3), 0), filled((3, 3, 3, 5), 1)
  program = jax.jit(conv2d).trace(*args).lower(lowering_platforms=(platform,)).as_text()
  assert ('stablehlo.convolution' in program) == (platform != 'cpu')
  assert ('stablehlo.dot_general' in program) == (platform == 'cpu')
