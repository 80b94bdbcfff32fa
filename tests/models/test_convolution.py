import jax
import numpy as np
import pytest

from dvd_gan.models.convolution import conv2d, convolve
from tests.models.test_layers import filled


@pytest.mark.parametrize('padding', [(1, 1), (0, 0), (2, 0)])
@pytest.mark.parametrize(('side', 'features'), [((6, 5), 3), ((6, 5), 7), ((3, 2), 5)])
def test_every_form_is_the_convolution(side, features, padding):
  x, kernel = filled((4, *side, 5), 0), filled((3, 2, 5, features), 1)
  expected = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), [(pad, pad) for pad in padding], dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  np.testing.assert_allclose(convolve(padding, x, kernel), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_convolutions_to_rgb_are_shifted_products_on_a_cpu_only(platform):
  args = filled((4, 8, 8, 5), 0), filled((3, 3, 5, 3), 1)
  program = jax.jit(conv2d).trace(*args).lower(lowering_platforms=(platform,)).as_text()
  assert ('stablehlo.convolution' in program) == (platform != 'cpu')


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_small_maps_are_a_matrix_product_on_a_cpu_only(platform):
  args = filled((4, 2, 2, 3), 0), filled((3, 3, 3, 5), 1)
  program = jax.jit(conv2d).trace(*args).lower(lowering_platforms=(platform,)).as_text()
  assert ('stablehlo.convolution' in program) == (platform != 'cpu')
  assert ('stablehlo.dot_general' in program) == (platform == 'cpu')
