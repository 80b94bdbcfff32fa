import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from dvd_gan import sharding
from dvd_gan.dry_run import hlo


def text_of(fn, *args):
  return jax.jit(fn).lower(*args).compile().as_text()


def test_sizes():
  assert hlo.size('f32[2,3]{1,0}') == 24
  assert hlo.size('(bf16[4]{0}, s32[], pred[7])') == 8 + 4 + 7
  assert hlo.size('token[]') == 0


def test_what_lies_on_the_chip_moves_no_bytes_of_the_memory():
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
  assert hlo.traffic(text).bytes == 4 * (64 + 16 + 64)  # two reads, one of a part, and one write


def test_a_loop_counts_as_often_as_it_runs():
  x, w = jnp.ones((256, 256)), jnp.ones((256, 256))

  def step(x, _):
    return jnp.tanh(x @ w), None

  loop = hlo.traffic(text_of(lambda x: jax.lax.scan(step, x, None, length=12)[0], x))
  once = hlo.traffic(text_of(lambda x: jax.lax.scan(step, x, None, length=1)[0], x))
  assert 10 < loop.bytes / once.bytes < 14


def test_bytes_of_a_product_are_its_operands_and_its_result():
  a, b = jnp.ones((512, 256)), jnp.ones((256, 128))
  expected = 4 * (512 * 256 + 256 * 128 + 512 * 128)
  assert hlo.traffic(text_of(lambda a, b: a @ b, a, b)).bytes == pytest.approx(expected, rel=0.1)


def test_of_an_array_that_a_loop_slices_the_slices_count():
  """Turn by turn a loop reads its part of `xs` and writes its part of `ys`: in all each once."""
  xs = jnp.ones((100, 64, 128))

  def step(total, x):
    return total + x.sum(), jnp.tanh(x)

  found = hlo.traffic(text_of(lambda xs: jax.lax.scan(step, jnp.zeros(()), xs), xs))
  once = 4 * xs.size
  assert 2 * once < found.bytes < 8 * once  # with what passes between instructions; not a hundred times as much


def test_collectives_are_told_with_bytes_and_dtypes_also_in_loops():
  mesh = sharding.make_mesh()
  x = jax.device_put(jnp.ones((8, 1000)), jax.sharding.NamedSharding(mesh, P(('replica', 'shard'))))

  def fn(x):
    def step(total, _):
      return total + jnp.sin(x + total.mean()).sum(0), None

    return jax.lax.scan(step, jnp.zeros(1000), None, length=5)[0]

  found = hlo.traffic(text_of(fn, x))
  assert set(found.collectives) == {'all-reduce'} and found.dtypes['all-reduce'] == {'f32'}
  assert found.collectives['all-reduce'] == {'count': 5, 'bytes': 5 * 4000}


def test_a_loop_without_a_count_is_told():
  def fn(x):
    return jax.lax.while_loop(lambda x: x.sum() > 1e-3, lambda x: x / 2, x)

  with pytest.raises(ValueError, match='no trip count'):
    hlo.traffic(text_of(fn, jnp.ones(3)))
