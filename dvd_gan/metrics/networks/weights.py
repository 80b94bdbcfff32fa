"""Reads the weights of published networks, checks them, and converts them to our layout.

Nothing is downloaded: the user gives the path of a file, local or gs://. The loaders of all networks use this module.
"""

import hashlib
import io
import zipfile
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError

NAMED = 3  # maximum number of array names per fault in an error message


class Weights(NamedTuple):
  """A network's weights.

  Attributes:
    params: f32 numpy arrays, for `apply({'params': params}, ...)`.
    sha256: of each file that was read, by file name.
  """

  params: dict[str, Any]
  sha256: dict[str, str]


class Slot(NamedTuple):
  """The parameter that an array of a file belongs to.

  Attributes:
    name: of the parameter, its path joined by '/'.
    axes: transposition from the file's layout to the network's; () for none.
  """

  name: str
  axes: tuple[int, ...] = ()

  def shape_in_file(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in the file of a parameter whose shape is `shape`."""
    return tuple(shape[self.axes.index(axis)] for axis in range(len(shape))) if self.axes else shape


CONV_AXES = (2, 3, 4, 1, 0)  # [out, in, t, h, w] to [t, h, w, in, out]
DENSE_AXES = (1, 0)  # [out, in] to [in, out]


def parameters(net: nn.Module, video: tuple[int, ...]) -> dict[str, Any]:
  """ShapeDtypeStructs of a network's parameters, for a video of shape `video`."""
  return jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros(video)))['params']


def names(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
  """Shapes of parameters by name; a name is a path joined by '/'."""
  return {_joined(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def place(
  arrays: dict[str, np.ndarray], slots: dict[str, Slot], params: dict[str, Any], path: object
) -> dict[str, Any]:
  """Converts a file's arrays to a tree of parameters.

  Args:
    arrays: all arrays of the file, by the file's names; a vector may have the shape [1, 1, 1, 1, C].
    slots: one slot per parameter, by the file's names.
    params: ShapeDtypeStructs of the parameters.
    path: the file, for error messages.

  Returns:
    The parameters, f32 numpy.

  Raises:
    UsageError: if arrays are missing, unknown, of the wrong shape, not floating point or not finite.
  """
  shapes = names(params)
  wanted = {name: slot.shape_in_file(shapes[slot.name]) for name, slot in slots.items()}
  both = sorted(wanted.keys() & arrays.keys())
  floats = [name for name in both if np.issubdtype(arrays[name].dtype, np.floating)]
  faults = {
    'missing': sorted(wanted.keys() - arrays.keys()),
    'not of this network': sorted(arrays.keys() - wanted.keys()),
    'of the wrong shape': [
      f'{name} {list(arrays[name].shape)} in place of {list(wanted[name])}'
      for name in both
      if not _fits(arrays[name].shape, wanted[name])
    ],
    'no floats': sorted(set(both) - set(floats)),
    'not finite': [name for name in floats if not np.isfinite(arrays[name]).all()],
  }
  said = [f'{len(at_fault)} {fault} ({_first(at_fault)})' for fault, at_fault in faults.items() if at_fault]
  if said:
    raise UsageError(f'{path} does not hold the weights of this network: of its arrays {"; ".join(said)}')
  found = {}
  for name, slot in slots.items():
    array = arrays[name].reshape(wanted[name]).astype(np.float32)
    found[slot.name] = np.ascontiguousarray(array.transpose(slot.axes) if slot.axes else array)
  return jax.tree_util.tree_map_with_path(lambda at, _: found[_joined(at)], params)


def read(path: epath.Path) -> bytes:
  """Reads a file; UsageError if that fails."""
  try:
    return path.read_bytes()
  except files.errors() as error:
    raise UsageError(f'cannot read weights: {" ".join(str(error).split())}') from None


def read_npz(content: bytes, path: object) -> dict[str, np.ndarray]:
  """Reads the arrays of an .npz file without unpickling; UsageError if that fails."""
  try:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, AttributeError) as error:
    raise UsageError(f'{path} is no intact .npz file of arrays: {error}') from None


def sha256(content: bytes) -> str:
  """Hexadecimal digest."""
  return hashlib.sha256(content).hexdigest()


def _fits(shape, wanted):
  return shape == wanted or (len(wanted) == 1 and shape == (1, 1, 1, 1, *wanted))


def _first(names):
  return ', '.join(names[:NAMED]) + (', ...' if len(names) > NAMED else '')


def _joined(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')
