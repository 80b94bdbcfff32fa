import jax
import jax.numpy as jnp
import pytest

from dvd_gan import flops
from dvd_gan.dry_run import arithmetic
from dvd_gan.models.ops.convolution import conv2d


def compiled(fn, *args):
  return jax.jit(fn).lower(*args).compile().as_text()


def product(a, b):
  return jnp.einsum('gij,gjk->gik', a, b)


def convolution(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (2, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def both_gradients(x, kernel):
  return jax.grad(lambda x, kernel: (conv2d(x, kernel) ** 2).sum(), (0, 1))(x, kernel)


def loop(a, b):
  return jax.lax.scan(lambda c, _: (product(c, b), None), a, None, length=6)[0]


@pytest.mark.parametrize('fn', [product, loop])
def test_flop_of_compiled_matrix_products_match_the_count_from_the_jaxpr(fn):
  args = jnp.ones((3, 20, 20)), jnp.ones((3, 20, 20))
  assert arithmetic.count(compiled(fn, *args)) == flops.count(fn, *args) > 0


@pytest.mark.parametrize('fn', [convolution, both_gradients])
def test_flop_of_compiled_convolutions_match_the_count_from_the_jaxpr(fn):
  args = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 32))
  assert arithmetic.count(compiled(fn, *args)) == flops.count(fn, *args) > 0


def test_flop_of_products_written_as_a_dilated_convolution_exclude_the_holes():
  """Six pairs of 128 x 128 matrices as the TPU compiler writes them: one tap per output is data, the rest holes."""
  text = """HloModule m
ENTRY %main (a: f32[6,128,128], b: f32[6,128,128]) -> f32[6,128,128] {
  %a = f32[6,128,128] parameter(0)
  %b = f32[6,128,128] parameter(1)
  ROOT %c = f32[6,128,128] convolution(%a, %b), window={size=6 stride=5 lhs_dilate=6}, dim_labels=0bf_0io->0bf
}
"""
  found = arithmetic.count(text)
  assert found == 2 * 6 * 128**3
