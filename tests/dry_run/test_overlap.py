import jax
import jax.numpy as jnp
import pytest

from dvd_gan import sharding
from dvd_gan.dry_run import compile, hlo, overlap, tpu
from dvd_gan.models.ops.convolution import conv2d
from dvd_gan.runtime import backend

# Three collectives. The first, of 64 bytes, is contained in two fusions, each with a product of 2 * 8 * 8 * 8 FLOP. The
# second, of 32 bytes, runs in a loop of three iterations. The third, of 64 bytes, has nothing between start and done.
PROGRAM = """HloModule m, is_scheduled=true

%begin (a: f32[16]) -> (f32[16], u32[]) {
  %a = f32[16]{0} parameter(0)
  %r = f32[16]{0} all-reduce(%a), channel_id=7, to_apply=%add
  ROOT %c = (f32[16]{0}, u32[]) custom-call(%r), custom_call_target="x"
}

%carry (b: f32[16], x: f32[8,8]) -> (f32[16], f32[16], f32[8,8]) {
  %b = f32[16]{0} parameter(0)
  %x = f32[8,8]{1,0} parameter(1)
  %s = f32[16]{0} all-reduce(%b), channel_id=7, to_apply=%add
  %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (f32[16]{0}, f32[16]{0}, f32[8,8]{1,0}) tuple(%b, %s, %d)
}

%end (e: f32[16]) -> f32[16] {
  %e = f32[16]{0} parameter(0)
  ROOT %u = f32[16]{0} all-reduce(%e), channel_id=7, to_apply=%add
}

%alone (h: f32[16]) -> f32[16] {
  %h = f32[16]{0} parameter(0)
  ROOT %v = f32[16]{0} all-reduce(%h), channel_id=9, to_apply=%add
}

%body (l: f32[8]) -> f32[8] {
  %l = f32[8]{0} parameter(0)
  ROOT %w = f32[8]{0} all-reduce(%l), channel_id=8, to_apply=%add
}

%until (m: f32[8]) -> pred[] {
  %m = f32[8]{0} parameter(0)
  ROOT %n = pred[] constant(true)
}

ENTRY %main (p: f32[16], q: f32[8,8], o: f32[8]) -> f32[16] {
  %p = f32[16]{0} parameter(0)
  %q = f32[8,8]{1,0} parameter(1)
  %o = f32[8]{0} parameter(2)
  %async-collective-start = (f32[16]{0}, u32[]) fusion(%p), kind=kCustom, calls=%begin
  %g = f32[16]{0} get-tuple-element(%async-collective-start), index=0
  %f1 = (f32[16]{0}, f32[16]{0}, f32[8,8]{1,0}) fusion(%g, %q), kind=kOutput, calls=%carry
  %g1 = f32[16]{0} get-tuple-element(%f1), index=0
  %f2 = (f32[16]{0}, f32[16]{0}, f32[8,8]{1,0}) fusion(%g1, %q), kind=kOutput, calls=%carry
  %g2 = f32[16]{0} get-tuple-element(%f2), index=0
  %async-collective-done = f32[16]{0} fusion(%g2), kind=kCustom, calls=%end
  %async-collective-start.1 = f32[16]{0} fusion(%p), kind=kCustom, calls=%alone
  %async-collective-done.1 = f32[16]{0} fusion(%async-collective-start.1), kind=kCustom, calls=%alone
  %k = f32[8]{0} while(%o), condition=%until, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %z = f32[16]{0} add(%async-collective-done, %async-collective-done.1)
}
"""
PRODUCTS = 2 * 2 * 8**3


@pytest.mark.parametrize('share', [0.0, 0.25, 1.0, 4.0])
def test_a_collective_is_hidden_only_by_the_products_of_the_fusions_that_contain_it(share):
  """At a byte per second the first collective takes 64 seconds; the two products take `share` of them."""
  flop_per_s = PRODUCTS / (64 * share) if share else float('inf')
  found = overlap.exposed(PROGRAM, flop_per_s, float)
  assert found == pytest.approx(64 * max(0, 1 - share) + 64 + 3 * 32)


def test_a_collective_contained_in_several_fusions_is_counted_once():
  found = hlo.traffic(PROGRAM)
  assert found.collectives == {'all-reduce': {'count': 5, 'bytes': 64 + 64 + 3 * 32}}
  assert found.dtypes == {'all-reduce': {'f32'}}


def test_a_fusion_with_a_collective_moves_only_the_bytes_of_its_own_product():
  """The product reads and writes 8 x 8 floats each. Arrays that the fusion only passes on are not moved."""
  plain = PROGRAM.replace(
    '%f1 = (f32[16]{0}, f32[16]{0}, f32[8,8]{1,0}) fusion(%g, %q), kind=kOutput, calls=%carry',
    '%f1 = token[] after-all()',
  )
  assert hlo.traffic(PROGRAM).bytes - hlo.traffic(plain).bytes == 2 * 4 * 8 * 8


def test_overlap_options_hide_more_than_half_of_the_gradient_all_reduces_on_a_tpu(monkeypatch):
  monkeypatch.setattr(backend, 'GRADIENTS_SENT_TOGETHER', 1 << 20)
  slice_ = tpu.parse('v5e:16x16')
  mesh = sharding.make_mesh(1, compile.describe(slice_).devices)
  width = 512
  kernels = [jax.ShapeDtypeStruct((3, 3, width, width), jnp.float32, sharding=sharding.replicated(mesh))] * 3
  x = jax.ShapeDtypeStruct((4 * slice_.devices, 8, 8, width), jnp.bfloat16, sharding=sharding.batch(mesh))

  def loss(kernels, x):
    for kernel in kernels:
      x = jax.nn.relu(conv2d(x, kernel))
    return x.astype(jnp.float32).mean()

  def exposed(options):
    text = jax.jit(jax.grad(loss), compiler_options=options).lower(kernels, x).compile().as_text()
    assert hlo.traffic(text).dtypes == {'all-reduce': {'f32'}}
    sent = hlo.traffic(text).collectives['all-reduce']['bytes']
    return overlap.exposed(text, 1.0, float) / sent  # at a FLOP per second, every collective in a fusion is hidden

  assert exposed({}) == pytest.approx(1)
  assert exposed(backend.overlap_options('tpu')) < 0.5


def test_cpu_and_gpu_have_no_overlap_options():
  assert backend.overlap_options('cpu') == backend.overlap_options('gpu') == {}
