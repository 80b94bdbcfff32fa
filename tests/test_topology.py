import pytest

from dvd_gan import topology
from dvd_gan.errors import UsageError


@pytest.mark.parametrize(
  ('text', 'name', 'devices'),
  [
    ('v5e:16x16', 'v5e:16x16', 256),
    ('v5litepod-32', 'v5e:4x8', 32),
    ('v5litepod-64', 'v5e:8x8', 64),
    ('v5litepod-128', 'v5e:8x16', 128),
    ('v3-32', 'v3:4x4', 32),
    ('v3-512', 'v3:16x16', 512),
    ('v4-64', 'v4:2x4x4', 32),
    ('v4-128', 'v4:4x4x4', 64),
    ('v5p-64', 'v5p:2x4x4', 32),
    ('v6e-256', 'v6e:16x16', 256),
  ],
)
def test_shapes_and_gcloud_types(text, name, devices):
  """facts.md's table."""
  found = topology.parse(text)
  assert (found.name, found.devices) == (name, devices) and found.chip.hbm_gib > 15


@pytest.mark.parametrize('text', ['', 'v5e', 'v5e:16', 'v5e:4x4x4', 'v4:4x4', 'v9-8', 'v5litepod-48', 'tpu7x-32'])
def test_what_is_no_slice_is_told(text):
  with pytest.raises(UsageError, match='is no slice known here'):
    topology.parse(text)
