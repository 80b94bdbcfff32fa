"""I3D with 3-D convolutions as 2-D ones (dvd_gan/metrics/convolution.py) beside XLA's own, on random weights.

python results/performance/i3d_convolution.py [ROUNDS]

Prints seconds a clip of 16 frames, batch 4, the two in turn, and the ratio of their medians.
"""

import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dvd_gan.metrics import i3d  # noqa: E402

BATCH = 4


def plain(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  numbers = ('NDHWC', 'DHWIO', 'NDHWC')
  return jax.lax.conv_general_dilated(x, kernel, (stride,) * 3, 'SAME', dimension_numbers=numbers)


def main(rounds: int = 5) -> None:
  net = i3d.I3D()
  video = jax.random.uniform(jax.random.key(0), (BATCH, 16, 224, 224, 3), jnp.float32, -1, 1)
  params = jax.jit(net.init)(jax.random.key(1), video)
  compiled, seconds = {}, {}
  for name, convolution in (('as 2-D', i3d.conv3d), ('XLA 3-D', plain)):
    i3d.conv3d = convolution
    compiled[name] = jax.jit(lambda params, video: net.apply(params, video)['logits']).lower(params, video).compile()
    compiled[name](params, video).block_until_ready()
    seconds[name] = []
  for _ in range(rounds):
    for name, fn in compiled.items():
      started = time.perf_counter()
      fn(params, video).block_until_ready()
      seconds[name].append((time.perf_counter() - started) / BATCH)
  for name, found in seconds.items():
    print(f'{name}: ' + ' '.join(f'{value:.3f}' for value in found) + ' s a clip')
  medians = [statistics.median(found) for found in seconds.values()]
  print(f'ratio {medians[1] / medians[0]:.2f}')


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
