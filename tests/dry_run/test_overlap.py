import jax
import jax.numpy as jnp
import pytest

from dvd_gan import sharding
from dvd_gan.dry_run import compile, hlo, overlap, tpu
from dvd_gan.models.ops.convolution import conv2d
from dvd_gan.runtime import backend

# A collective of 64 bytes that two fusions carry, each with a product of 2 * 8 * 8 * 8 FLOP; another of 32, alone, in a
# loop of three turns; a third, begun and ended with nothing between.
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
def test_a_collective_is_hidden_by_the_products_of_the_fusions_that_carry_it_alone(share):
  """A byte a second; the two products take `share` of the carried collective's 64 seconds."""
  flop_per_s = PRODUCTS / (64 * share) if share else float('inf')
  found = overlap.exposed(PROGRAM, flop_per_s, float)
  assert found == pytest.approx(64 * max(0, 1 - share) + 64 + 3 * 32)


def test_a_carried_collective_counts_once():
  found = hlo.traffic(PROGRAM)
  assert found.collectives == {'all-reduce': {'count': 5, 'bytes': 64 + 64 + 3 * 32}}
  assert found.dtypes == {'all-reduce': {'f32'}}


def test_a_fusion_that_carries_a_collective_moves_the_bytes_of_its_own_work():
  """What the product takes and gives, 8 x 8 floats each; what is handed on stays where it is."""
  plain = PROGRAM.replace(
    '%f1 = (f32[16]{0}, f32[16]{0}, f32[8,8]{1,0}) fusion(%g, %q), kind=kOutput, calls=%carry',
    '%f1 = token[] after-all()',
  )
  assert hlo.traffic(PROGRAM).bytes - hlo.traffic(plain).bytes == 2 * 4 * 8 * 8


def test_a_tpu_sends_gradients_while_it_computes_the_next_ones(monkeypatch):
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
    return overlap.exposed(text, 1.0, float) / sent  # at a FLOP a second all that is carried is hidden

  assert exposed({}) == pytest.approx(1)
  assert exposed(backend.overlap_options('tpu')) < 0.5


def test_other_backends_are_not_asked_to_overlap():
  assert backend.overlap_options('cpu') == backend.overlap_options('gpu') == {}
