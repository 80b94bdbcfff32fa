import jax
import pytest

from dvd_gan.models.convolution import conv2d
from tests.models.test_layers import filled


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_small_maps_are_a_matrix_product_on_a_cpu_only(platform):
  args = filled((4, 2, 2, 3), 0), filled((3, 3, 3, 5), 1)
  program = jax.jit(conv2d).trace(*args).lower(lowering_platforms=(platform,)).as_text()
  assert ('stablehlo.convolution' in program) == (platform != 'cpu')
  assert ('stablehlo.dot_general' in program) == (platform == 'cpu')
