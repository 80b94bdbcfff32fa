"""Compares resampling with jax.image, and resampling in a convolution's kernel with a separate step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan.models.ops import resampling
from dvd_gan.models.ops.convolution import conv2d
from tests.models.ops.test_layers import filled


@pytest.mark.parametrize('method', ['bilinear', 'nearest'])
def test_upsampling_matches_jax_image_resize(method):
  x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 6))
  expected = jax.image.resize(x, (2, 3, 8, 10, 6), method)
  np.testing.assert_allclose(resampling.upsample(x, method), expected, atol=1e-6)


def test_pool_time_averages_pairs_of_frames_and_keeps_an_odd_last_frame():
  x = jnp.arange(5.0).reshape(1, 5, 1, 1, 1)
  np.testing.assert_allclose(resampling.pool_time(x).ravel(), [0.5, 2.5, 4.0])
  np.testing.assert_allclose(resampling.pool_time(x[:, :4]).ravel(), [0.5, 2.5])


@pytest.mark.parametrize('platform', ['cpu', 'default'])
@pytest.mark.parametrize('shape', [(3, 8, 6, 5), (2, 4, 4, 7), (2, 2, 2, 3), (3, 2, 4, 3)])
def test_pooling_in_the_kernel_equals_pooling_after_the_convolution(shape, platform, monkeypatch):
  """Values and gradients, also for more channels in than out and for maps computed as one matrix product."""
  if platform == 'default':
    monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *args, default, **_: default(*args))
  x, kernel = filled((2, *shape), 0), filled((3, 3, shape[-1], 6), 1)
  weight = filled((2, shape[0], shape[1] // 2, shape[2] // 2, 6), 2)

  def after(x, kernel):
    out = conv2d(x, kernel)
    return out.reshape(*out.shape[:2], shape[1] // 2, 2, shape[2] // 2, 2, 6).mean((3, 5))

  assert_same(resampling.pooled_conv2d, after, x, kernel, weight)


@pytest.mark.parametrize('method', ['bilinear', 'nearest'])
@pytest.mark.parametrize('shape', [(3, 8, 6, 5), (2, 4, 4, 7), (2, 2, 1, 3), (1, 1, 1, 3)])
def test_upsampling_in_the_kernel_equals_upsampling_before_the_convolution(shape, method):
  """Values and gradients, including edges and corners, down to a map of one pixel."""
  x, kernel = filled((2, *shape), 0), filled((3, 3, shape[-1], 6), 1)
  weight = filled((2, shape[0], 2 * shape[1], 2 * shape[2], 6), 2)
  assert_same(
    lambda x, kernel: resampling.upsampled_conv2d(x, kernel, method),
    lambda x, kernel: conv2d(resampling.upsample(x, method), kernel),
    x, kernel, weight,
  )  # fmt: skip


def assert_same(form, other, x, kernel, weight):
  """Asserts equal outputs, and equal gradients of a weighted sum of the outputs."""
  np.testing.assert_allclose(form(x, kernel), other(x, kernel), rtol=1e-4, atol=1e-4)
  got, expected = (
    jax.grad(lambda x, kernel, form=form: (form(x, kernel) * weight).sum(), (0, 1))(x, kernel) for form in (form, other)
  )
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'form', [resampling.pooled_conv2d, lambda x, kernel: resampling.upsampled_conv2d(x, kernel, 'bilinear')]
)
def test_no_gradient_convolution_has_a_kernel_larger_than_its_image(form):
  """XLA's CPU backend runs such a convolution by a naive loop."""
  x, kernel = filled((2, 8, 8, 5), 0), filled((3, 3, 5, 6), 1)
  grads = jax.make_jaxpr(jax.grad(lambda x, k: (form(x, k) ** 2).sum(), (0, 1)))(x, kernel)
  found = []

  def visit(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name == 'conv_general_dilated':
        numbers = equation.params['dimension_numbers']
        image, window = (v.aval.shape for v in equation.invars)
        found.append((image[numbers.lhs_spec[2]], window[numbers.rhs_spec[2]]))
      for inner in jax.core.jaxprs_in_params(equation.params):
        visit(inner)

  visit(grads.jaxpr)
  assert len(found) >= 3 and all(image >= window for image, window in found)
