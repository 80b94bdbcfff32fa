import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan.models import blocks


def test_conv3d_matches_the_3d_convolution_of_lax():
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 4, 3))
  module = blocks.Conv3D(6)
  params = jax.tree.map(
    lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), module.init(jax.random.key(0), x)
  )
  kernel, bias = params['params']['kernel'], params['params']['bias']
  expected = bias + jax.lax.conv_general_dilated(
    x, kernel, (1, 1, 1), 'SAME', dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC')
  )
  np.testing.assert_allclose(module.apply(params, x), expected, atol=1e-4)


@pytest.mark.parametrize('frames', [4, 5])
@pytest.mark.parametrize('in_kernel', [False, True])
@pytest.mark.parametrize('volumetric', [False, True])
def test_discriminator_block_matches_its_formula(volumetric, in_kernel, frames):
  """Pooling before the 1x1 skip convolution, or in the kernel of conv2, changes only the cost."""
  x = jax.random.normal(jax.random.key(0), (2, frames, 4, 4, 3))
  module = blocks.DiscriminatorBlock(6, down=True, volumetric=volumetric, resample_in_kernel=in_kernel)
  variables = module.init(jax.random.key(0), x)
  variables = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables)
  params = variables['params']
  rank = 3 if volumetric else 2

  def conv(x, name):
    kernel, bias = params[name]['kernel'], params[name]['bias']
    kernel = kernel.reshape((1,) * (5 - kernel.ndim) + kernel.shape)  # a 2-D kernel acts on one frame
    return bias + jax.lax.conv_general_dilated(
      x, kernel, (1, 1, 1), 'SAME', dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC')
    )

  def pool(x):
    x = x.reshape(*x.shape[:2], 2, 2, 2, 2, x.shape[-1]).mean((3, 5))
    return jnp.stack([x[:, i : i + 2].mean(1) for i in range(0, frames, 2)], 1) if rank == 3 else x

  expected = pool(conv(x, 'skip')) + pool(conv(jax.nn.relu(conv(jax.nn.relu(x), 'conv1')), 'conv2'))
  np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-3)


def test_generator_block_skip_is_upsampling_then_a_1x1_convolution():
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 3))
  cond = jax.random.normal(jax.random.key(1), (2, 5))
  module = blocks.GeneratorBlock(6, up=True)
  variables = module.init(jax.random.key(0), x, cond, train=True)
  variables = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables)
  silent = jax.tree_util.tree_map_with_path(
    lambda path, leaf: 0 * leaf if any(key.key == 'conv2' for key in path) else leaf, variables
  )
  skip = variables['params']['skip']
  expected = jax.image.resize(x, (2, 3, 8, 8, 3), 'bilinear') @ skip['kernel'][0, 0] + skip['bias']
  np.testing.assert_allclose(module.apply(silent, x, cond, train=True), expected, atol=1e-4)


@pytest.mark.parametrize('up', [False, True])
def test_generator_block_gives_the_same_output_with_resampling_in_its_kernel(up):
  x = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 3))
  cond = jax.random.normal(jax.random.key(1), (2, 5))
  variables = blocks.GeneratorBlock(6, up=up).init(jax.random.key(0), x, cond, train=True)
  variables = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables)
  module = blocks.GeneratorBlock(6, up=up, resample_in_kernel=True)
  got, program = (f(lambda v: module.apply(v, x, cond, train=True))(variables) for f in (jax.jit, jax.make_jaxpr))
  expected = blocks.GeneratorBlock(6, up=up).apply(variables, x, cond, train=True)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
  assert ('f32[2,2,3,24]' in str(program)) == up  # four kernels of 2x2 taps


def test_discriminator_block_has_a_leading_relu_only_if_relu_first_is_set():
  x = -jnp.ones((1, 4, 4, 4, 3))
  for relu_first in (True, False):
    module = blocks.DiscriminatorBlock(6, down=False, relu_first=relu_first)
    variables = jax.tree.map(jnp.ones_like, module.init(jax.random.key(0), x))
    inner = module.apply(variables, x, capture_intermediates=True, mutable=['intermediates'])[1]['intermediates']
    conv1 = inner['conv1']['__call__'][0]
    assert (conv1 == 1).all() == relu_first  # only the bias remains if the ReLU zeroed the input
