"""Weights of published networks: read from the files in which they are public, checked, put in our networks' layout.

Nothing is downloaded: the user names a file, local or gs://. Here is what i3d_weights.py and c3d.py share.
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

NAMED = 3  # how many of the arrays at fault an error names


class Weights(NamedTuple):
  """A network's weights.

  Attributes:
    params: what its `apply` takes as {'params': params}: f32 numpy.
    sha256: of each file they were read from, by file name.
  """

  params: dict[str, Any]
  sha256: dict[str, str]


class Slot(NamedTuple):
  """Where an array of a file belongs.

  Attributes:
    name: of the parameter, its path joined by '/'.
    axes: the transposition from the file's layout to the network's; none if ().
  """

  name: str
  axes: tuple[int, ...] = ()

  def shape_in_file(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The file's shape of a parameter of that shape."""
    return tuple(shape[self.axes.index(axis)] for axis in range(len(shape))) if self.axes else shape


CONV_AXES = (2, 3, 4, 1, 0)  # [out, in, t, h, w] to [t, h, w, in, out]
DENSE_AXES = (1, 0)  # [out, in] to [in, out]


def parameters(net: nn.Module, video: tuple[int, ...]) -> dict[str, Any]:
  """ShapeDtypeStructs of a network's parameters for a video of that shape."""
  return jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros(video)))['params']


def names(params: dict[str, Any]) -> dict[str, tuple[int, ...]]:
  """Shapes of parameters by name, path joined by '/'."""
  return {_joined(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def place(
  arrays: dict[str, np.ndarray], slots: dict[str, Slot], params: dict[str, Any], path: object
) -> dict[str, Any]:
  """Puts a file's arrays where they belong.

  Args:
    arrays: all of the file, by the file's names; a vector may come as [1, 1, 1, 1, C].
    slots: where each belongs, by the file's names, one for each parameter.
    params: ShapeDtypeStructs of the parameters.
    path: the file, for the message.

  Returns:
    The parameters, f32 numpy.

  Raises:
    UsageError: arrays are missing, superfluous, of the wrong shape, no floats or not finite.
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
  """A file's content, or UsageError."""
  try:
    return path.read_bytes()
  except files.errors() as error:
    raise UsageError(f'cannot read weights: {" ".join(str(error).split())}') from None


def read_npz(content: bytes, path: object) -> dict[str, np.ndarray]:
  """The arrays of an .npz file, or UsageError; nothing pickled is read."""
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
