import jax
import jax.numpy as jnp
import pytest

from dvd_gan.models.ops.convolution import conv2d
from dvd_gan.runtime import backend


@pytest.mark.parametrize(
  ('choice', 'on_cpu', 'on_tpu'), [('auto', True, False), ('in_kernel', True, True), ('apart', False, False)]
)
def test_resampling_in_kernels_is_the_default_only_on_a_cpu(choice, on_cpu, on_tpu):
  assert backend.resamples_in_kernel(choice, 'cpu') == on_cpu
  assert backend.resamples_in_kernel(choice, 'tpu') == on_tpu


def test_convolutions_on_a_cpu_are_not_compiled_to_ynnpack():
  options = backend.compiler_options('cpu')
  args = jnp.zeros((24, 16, 16, 48)), jnp.zeros((3, 3, 48, 144))
  compiled = jax.jit(conv2d, compiler_options=options).lower(*args).compile()
  entry = compiled.as_text().partition('ENTRY')[2]
  assert ' convolution(' in entry and 'ynn' not in entry


def test_compiler_options_that_jaxlib_does_not_know_are_omitted(monkeypatch):
  def refuse(*_, **__):
    raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option: 'xla_cpu_experimental_ynn_fusion_type'")

  monkeypatch.setattr(jax, 'jit', refuse)
  assert backend.compiler_options.__wrapped__('cpu') == {}


def test_one_unknown_compiler_option_does_not_remove_the_others(monkeypatch):
  others = dict(backend.compiler_options('cpu'))
  del others['xla_cpu_scheduler_type']
  jit = jax.jit

  def refuse_the_schedule(*args, compiler_options):
    if 'xla_cpu_scheduler_type' in compiler_options:
      raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option: 'xla_cpu_scheduler_type'")
    return jit(*args, compiler_options=compiler_options)

  monkeypatch.setattr(jax, 'jit', refuse_the_schedule)
  assert backend.compiler_options.__wrapped__('cpu') == others != {}


def test_compiler_options_do_not_override_xla_flags(monkeypatch):
  level = 'xla_backend_optimization_level'
  assert level not in backend.compiler_options.__wrapped__('cpu')  # tests/conftest.py sets it
  monkeypatch.delenv('XLA_FLAGS')
  assert backend.compiler_options.__wrapped__('cpu')[level] == '1'


def test_compiler_options_are_empty_for_a_tpu():
  assert backend.compiler_options('tpu') == {}
