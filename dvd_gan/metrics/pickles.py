"""Arrays out of pickles that others wrote, by unpicklers that know arrays and nothing that could run."""

import io
import pickle
import zipfile
from typing import Any

import numpy as np

from dvd_gan.errors import UsageError

# What a pickled dict of numpy arrays refers to; numpy 2 renamed its module.
NUMPY = {
  ('numpy.core.multiarray', '_reconstruct'),
  ('numpy._core.multiarray', '_reconstruct'),
  ('numpy', 'ndarray'),
  ('numpy', 'dtype'),
}
STORAGES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
}


def load_numpy(content: bytes) -> Any:
  """A pickle of Python's containers, numbers and numpy arrays.

  Raises:
    UsageError: it refers to anything else.
  """
  return _NumpyUnpickler(io.BytesIO(content)).load()


def load_torch(content: bytes) -> dict[str, np.ndarray]:
  """The arrays in a PyTorch file, under their names in its state dict; PyTorch is not needed.

  Args:
    content: of a zip file: a state dict by torch.save (since PyTorch 1.6) or a module by torch.jit.save.

  Raises:
    UsageError: it is no zip file, or its pickle holds what neither of the two does.
    ValueError, KeyError: it is damaged.
  """
  try:
    archive = zipfile.ZipFile(io.BytesIO(content))
  except zipfile.BadZipFile:
    raise UsageError(
      'no zip file; PyTorch itself can turn an older one into .npz (dvd_gan/metrics/i3d_weights.py)'
    ) from None
  root = next((name.removesuffix('data.pkl') for name in archive.namelist() if name.endswith('/data.pkl')), None)
  if root is None:
    raise UsageError('a zip file, but not of PyTorch: it has no data.pkl')
  if f'{root}byteorder' in archive.namelist() and archive.read(f'{root}byteorder') != b'little':
    raise UsageError('its numbers are big-endian')
  with archive, archive.open(f'{root}data.pkl') as pickled:
    tree = _TorchUnpickler(pickled, archive, root).load()
  return dict(_named_arrays(tree, ''))


class _NumpyUnpickler(pickle.Unpickler):
  def find_class(self, module, name):
    if (module, name) not in NUMPY:
      raise UsageError(f'its pickle refers to {module}.{name}, no array')
    return super().find_class(module, name)


class _Record(dict):
  """Stands for a state dict or a module of TorchScript: what it holds, by name."""

  def __setstate__(self, state):
    self.update(state)


class _TorchUnpickler(pickle.Unpickler):
  """Resolves every name to something of this file."""

  def __init__(self, pickled, archive, root):
    super().__init__(pickled)
    self._archive, self._root = archive, root

  def find_class(self, module, name):
    if module.split('.')[0] == '__torch__' or (module, name) == ('collections', 'OrderedDict'):
      return _Record
    if module == 'torch' and name in STORAGES:
      return STORAGES[name]
    if module == 'torch.jit._pickle' and name.startswith('build_'):
      return _listed
    found = {'_rebuild_tensor_v2': _tensor, '_rebuild_parameter': _parameter}.get(name)
    if module != 'torch._utils' or not found:
      raise UsageError(f'its pickle refers to {module}.{name}, nothing of a state dict')
    return found

  def persistent_load(self, pid):
    _, dtype, key, _, _ = pid  # 'storage', type, key, device, length
    return np.frombuffer(self._archive.read(f'{self._root}data/{key}'), dtype)


def _listed(values):
  return list(values)


def _parameter(tensor, requires_grad, hooks):
  del requires_grad, hooks
  return tensor


def _tensor(storage, offset, size, stride, requires_grad, hooks):
  """torch._utils._rebuild_tensor_v2: a view of the storage; `stride` is in elements."""
  del requires_grad, hooks
  last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
  if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= len(storage)):
    raise ValueError('a tensor reaches beyond its storage')
  steps = [step * storage.itemsize for step in stride]
  return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _named_arrays(tree, prefix):
  for name, value in tree.items() if isinstance(tree, dict) else ():
    if isinstance(value, np.ndarray):
      yield f'{prefix}{name}', value
    else:
      yield from _named_arrays(value, f'{prefix}{name}.')
