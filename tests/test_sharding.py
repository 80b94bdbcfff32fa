import numpy as np
import pytest

from dvd_gan import sharding


def test_make_mesh_has_replica_and_shard_axes_and_refuses_a_shard_that_does_not_divide():
  mesh = sharding.make_mesh(2)
  assert dict(mesh.shape) == {'replica': 4, 'shard': 2}
  with pytest.raises(ValueError, match='does not divide'):
    sharding.make_mesh(3)


def test_host_rows_of_a_single_process_are_all_rows_of_the_batch():
  np.testing.assert_array_equal(sharding.host_rows(sharding.make_mesh(), 16), np.arange(16))
