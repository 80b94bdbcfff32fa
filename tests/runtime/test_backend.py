import jax
import jax.numpy as jnp
import pytest

from dvd_gan.models.ops.convolution import conv2d
from dvd_gan.runtime import backend


@pytest.mark.parametrize(
  ('choice', 'on_cpu', 'on_tpu'), [('auto', True, False), ('in_kernel', True, True), ('apart', False, False)]
)
def test_resampling_in_the_kernels_has_to_be_asked_for_but_on_a_cpu(choice, on_cpu, on_tpu):
  assert backend.resamples_in_kernel(choice, 'cpu') == on_cpu
  assert backend.resamples_in_kernel(choice, 'tpu') == on_tpu


def test_convolutions_on_a_cpu_are_not_ynnpacks():
  options = backend.compiler_options('cpu')
  args = jnp.zeros((24, 16, 16, 48)), jnp.zeros((3, 3, 48, 144))
  compiled = jax.jit(conv2d, compiler_options=options).lower(*args).compile()
  entry = compiled.as_text().partition('ENTRY')[2]
  assert ' convolution(' in entry and 'ynn' not in entry


def test_options_unknown_to_the_library_are_left_out(monkeypatch):
  def refuse(*_, **__):
    raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option: 'xla_cpu_experimental_ynn_fusion_type'")

  monkeypatch.setattr(jax, 'jit', refuse)
  assert backend.compiler_options.__wrapped__('cpu') == {}


def test_an_unknown_option_does_not_take_the_others_with_it(monkeypatch):
  others = dict(backend.compiler_options('cpu'))
  del others['xla_cpu_scheduler_type']
  jit = jax.jit

  def refuse_the_schedule(*args, compiler_options):
    if 'xla_cpu_scheduler_type' in compiler_options:
      raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option: 'xla_cpu_scheduler_type'")
    return jit(*args, compiler_options=compiler_options)

  monkeypatch.setattr(jax, 'jit', refuse_the_schedule)
  assert backend.compiler_options.__wrapped__('cpu') == others != {}


def test_flags_that_the_user_set_stay(monkeypatch):
  level = 'xla_backend_optimization_level'
  assert level not in backend.compiler_options.__wrapped__('cpu')  # tests/conftest.py sets it
  monkeypatch.delenv('XLA_FLAGS')
  assert backend.compiler_options.__wrapped__('cpu')[level] == '1'


def test_other_backends_get_no_options():
  assert backend.compiler_options('tpu') == {}
