import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dvd_gan import sharding
from dvd_gan.models.convolution import conv2d


def test_the_mesh_has_both_axes():
  mesh = sharding.make_mesh(2)
  assert dict(mesh.shape) == {'replica': 4, 'shard': 2}
  with pytest.raises(ValueError, match='does not divide'):
    sharding.make_mesh(3)


def test_one_process_loads_all_rows():
  np.testing.assert_array_equal(sharding.host_rows(sharding.make_mesh(), 16), np.arange(16))


def test_resampling_is_in_the_kernels_on_a_cpu_only():
  assert sharding.resamples_in_kernel('auto') == (jax.default_backend() == 'cpu')
  assert sharding.resamples_in_kernel('in_kernel') and not sharding.resamples_in_kernel('apart')


def test_convolutions_on_a_cpu_are_not_ynnpacks():
  options = sharding.compiler_options('cpu')
  args = jnp.zeros((24, 16, 16, 48)), jnp.zeros((3, 3, 48, 144))
  compiled = jax.jit(conv2d, compiler_options=options).lower(*args).compile()
  entry = compiled.as_text().partition('ENTRY')[2]
  assert ' convolution(' in entry and 'ynn' not in entry


def test_options_unknown_to_the_library_are_left_out(monkeypatch):
  def refuse(*_, **__):
    raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option: 'xla_cpu_experimental_ynn_fusion_type'")

  monkeypatch.setattr(jax, 'jit', refuse)
  assert sharding.compiler_options.__wrapped__('cpu') == {}


def test_an_unknown_option_does_not_take_the_others_with_it(monkeypatch):
  others = dict(sharding.compiler_options('cpu'))
  del others['xla_cpu_scheduler_type']
  jit = jax.jit

  def refuse_the_schedule(*args, compiler_options):
    if 'xla_cpu_scheduler_type' in compiler_options:
      raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option: 'xla_cpu_scheduler_type'")
    return jit(*args, compiler_options=compiler_options)

  monkeypatch.setattr(jax, 'jit', refuse_the_schedule)
  assert sharding.compiler_options.__wrapped__('cpu') == others != {}


def test_flags_that_the_user_set_stay(monkeypatch):
  level = 'xla_backend_optimization_level'
  assert level not in sharding.compiler_options.__wrapped__('cpu')  # tests/conftest.py sets it
  monkeypatch.delenv('XLA_FLAGS')
  assert sharding.compiler_options.__wrapped__('cpu')[level] == '1'


def test_other_backends_get_no_options():
  assert sharding.compiler_options('tpu') == {}
