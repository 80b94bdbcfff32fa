import numpy as np
import pytest

from dvd_gan import sharding


def test_the_mesh_has_both_axes():
  mesh = sharding.make_mesh(2)
  assert dict(mesh.shape) == {'replica': 4, 'shard': 2}
  with pytest.raises(ValueError, match='does not divide'):
    sharding.make_mesh(3)


def test_one_process_loads_all_rows():
  np.testing.assert_array_equal(sharding.host_rows(sharding.make_mesh(), 16), np.arange(16))
