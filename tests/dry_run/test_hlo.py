import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from dvd_gan import sharding
from dvd_gan.dry_run import hlo


def text_of(fn, *args):
  return jax.jit(fn).lower(*args).compile().as_text()


def test_size_gives_the_bytes_of_hlo_shapes_and_tuples():
  assert hlo.size('f32[2,3]{1,0}') == 24
  assert hlo.size('(bf16[4]{0}, s32[], pred[7])') == 8 + 4 + 7
  assert hlo.size('token[]') == 0


def test_arrays_in_on_chip_memory_do_not_count_as_memory_traffic():
  assert hlo.size('(f32[8]{0:T(128)S(1)}, f32[2]{0:T(128)})') == 8
  assert hlo.size('f32[8]{0:T(128)S(1)}', on_chip=True) == 32
  text = """HloModule m
ENTRY %main (p: f32[64]) -> f32[64] {
  %p = f32[64]{0:T(128)} parameter(0)
  %c = (f32[64]{0:T(128)S(1)}, f32[64]{0:T(128)}, u32[]{:S(2)}) copy-start(%p)
  %d = f32[64]{0:T(128)S(1)} copy-done(%c)
  %s = ((f32[64]{0:T(128)}), f32[16]{0:T(128)S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:16]}
  %e = f32[16]{0:T(128)S(1)} slice-done(%s)
  %n = f32[64]{0:T(128)S(1)} negate(%d)
  ROOT %r = f32[64]{0:T(128)} negate(%n)
}
"""
  assert hlo.traffic(text).bytes == 4 * (64 + 16 + 64)  # a read of all of p, a read of a part, and a write


def test_traffic_of_a_loop_is_multiplied_by_its_trip_count():
  x, w = jnp.ones((256, 256)), jnp.ones((256, 256))

  def step(x, _):
    return jnp.tanh(x @ w), None

  loop = hlo.traffic(text_of(lambda x: jax.lax.scan(step, x, None, length=12)[0], x))
  once = hlo.traffic(text_of(lambda x: jax.lax.scan(step, x, None, length=1)[0], x))
  assert 10 < loop.bytes / once.bytes < 14


def test_traffic_of_a_matrix_product_is_its_operands_and_its_result():
  a, b = jnp.ones((512, 256)), jnp.ones((256, 128))
  expected = 4 * (512 * 256 + 256 * 128 + 512 * 128)
  assert hlo.traffic(text_of(lambda a, b: a @ b, a, b)).bytes == pytest.approx(expected, rel=0.1)


def test_traffic_of_an_array_that_a_loop_slices_counts_only_the_slices():
  """Each iteration reads one slice of `xs` and writes one of the output, so each array is moved once in total."""
  xs = jnp.ones((100, 64, 128))

  def step(total, x):
    return total + x.sum(), jnp.tanh(x)

  found = hlo.traffic(text_of(lambda xs: jax.lax.scan(step, jnp.zeros(()), xs), xs))
  once = 4 * xs.size
  assert 2 * once < found.bytes < 8 * once  # with intermediate results; whole arrays would be a hundred times as much


def test_collectives_in_a_loop_are_counted_with_bytes_and_dtypes():
  mesh = sharding.make_mesh()
  x = jax.device_put(jnp.ones((8, 1000)), jax.sharding.NamedSharding(mesh, P(('replica', 'shard'))))

  def fn(x):
    def step(total, _):
      return total + jnp.sin(x + total.mean()).sum(0), None

    return jax.lax.scan(step, jnp.zeros(1000), None, length=5)[0]

  found = hlo.traffic(text_of(fn, x))
  assert set(found.collectives) == {'all-reduce'} and found.dtypes['all-reduce'] == {'f32'}
  assert found.collectives['all-reduce'] == {'count': 5, 'bytes': 5 * 4000}


def test_a_loop_without_a_trip_count_is_an_error():
  def fn(x):
    return jax.lax.while_loop(lambda x: x.sum() > 1e-3, lambda x: x / 2, x)

  with pytest.raises(ValueError, match='no trip count'):
    hlo.traffic(text_of(fn, jnp.ones(3)))
