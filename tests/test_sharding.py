import jax
import numpy as np
import pytest

from dvd_gan import sharding


def test_the_mesh_has_both_axes():
  mesh = sharding.make_mesh(2)
  assert dict(mesh.shape) == {'replica': 4, 'shard': 2}
  with pytest.raises(ValueError, match='does not divide'):
    sharding.make_mesh(3)


def test_host_rows_become_the_global_batch():
  mesh = sharding.make_mesh()
  rows = sharding.host_rows(mesh, 16)
  np.testing.assert_array_equal(rows, np.arange(16))
  local = np.arange(2 * 16 * 3).reshape(2, 16, 3)
  whole = sharding.to_global(sharding.train_batch(mesh), {'x': local}, rows, 16)['x']
  np.testing.assert_array_equal(whole, local)
  assert {shard.data.shape for shard in whole.addressable_shards} == {(2, 2, 3)}
  flat = sharding.to_global(sharding.batch(mesh), local[0], rows, 16)
  np.testing.assert_array_equal(flat, local[0])


def test_loops_unroll_on_a_cpu_only():
  assert sharding.unrolls('auto') == (jax.default_backend() == 'cpu')
  assert sharding.unrolls('unroll') and not sharding.unrolls('scan')
