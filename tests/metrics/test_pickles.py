import io
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from dvd_gan.metrics import pickles
from tests.metrics import networks

HERE = pathlib.Path(__file__).parent
UNIT = {
  'conv3d.weight': (3, 2, 1, 2, 2),
  'batch3d.weight': (3,),
  'batch3d.bias': (3,),
  'batch3d.running_mean': (3,),
  'batch3d.running_var': (3,),
  'batch3d.num_batches_tracked': (),
}
# By torch_files.py: array i of the state dict counts up from 100 i.
STATE = {f'{unit}.{name}': shape for unit in ('conv3d_1a_7x7', 'branch_1.1') for name, shape in UNIT.items()}


class Call:
  """Pickles as a call of a function."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def archived(content, **storages):
  """A file like torch.save's, with this pickle in it."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('any/data.pkl', content)
    for key, storage in storages.items():
      archive.writestr(f'any/data/{key}', storage)
  return file.getvalue()


@pytest.mark.parametrize('name', ['torch_state.pt', 'torch_script.pt'])
def test_pytorchs_own_files(name):
  found = pickles.load_torch((HERE / name).read_bytes())
  if name == 'torch_state.pt':
    np.testing.assert_array_equal(found.pop('strided'), np.arange(24.0).reshape(4, 6)[1:, ::2].T)
    half = found.pop('half')
    assert half.dtype == np.float16 and half.tolist() == [0, 1, 2]
  assert found.keys() == STATE.keys()
  for i, (name, shape) in enumerate(STATE.items()):
    np.testing.assert_array_equal(found[name], np.arange(np.prod(shape, dtype=int)).reshape(shape) + 100 * i)
    assert found[name].dtype == (np.int64 if name.endswith('tracked') else np.float32)


def test_nothing_else_is_called(tmp_path):
  touched = tmp_path / 'touched'
  for function in (os.mkdir, eval):
    content = pickle.dumps({'x': Call(function, str(touched))}, protocol=2)
    networks.refused(lambda content=content: pickles.load_numpy(content), f'.{function.__name__}, no array')
    networks.refused(lambda content=content: pickles.load_torch(archived(content)), f'.{function.__name__}, nothing of')
  assert not touched.exists()


@pytest.mark.parametrize('place', [(0, (4,), (2,)), (5, (2,), (1,)), (0, (2,), (-1,)), (-1, (2,), (1,))])
def test_no_tensor_reaches_beyond_its_storage(place):
  with pytest.raises(ValueError, match='beyond its storage'):
    pickles._tensor(np.zeros(6, np.float32), *place, False, {})


def test_numpys_pickles_old_and_new():
  tree = {'a': {'b': np.arange(6.0).reshape(2, 3), 'c': [1, 'x', None]}}
  old = pickle.dumps(tree, protocol=3).replace(b'numpy._core.', b'numpy.core.')  # numpy 1 called it so
  assert b'numpy.core.' in old
  for content in (old, pickle.dumps(tree, protocol=4)):
    found = pickles.load_numpy(content)
    np.testing.assert_array_equal(found['a']['b'], tree['a']['b'])
    assert found['a']['c'] == tree['a']['c']


def test_no_file_of_pytorch():
  networks.refused(lambda: pickles.load_torch(b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'), 'no zip file', '.npz')
  file = io.BytesIO()
  np.savez(file, x=np.zeros(3))
  networks.refused(lambda: pickles.load_torch(file.getvalue()), 'no data.pkl')
