"""Rates of the convolutions of a train step on a CPU, with jaxlib's default kernels and with backend.compiler_options.

python results/performance/cpu_convolutions.py

Prints GFLOP/s, with taps on padding counted, of a matrix product, of 3x3 convolutions, and of their kernel gradients
with either operand as the image. Then prints milliseconds of a convolution of a map smaller than its kernel and of a
pool after a ReLU, as other platforms and as a CPU compute them.
"""

import pathlib
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dvd_gan import benchmark  # noqa: E402
from dvd_gan.models.ops import convolution, resampling  # noqa: E402
from dvd_gan.runtime import backend  # noqa: E402
from results.performance import alternatives  # noqa: E402

# images, side, channels in, channels out
SHAPES = [
  (48, 16, 256, 256),
  (48, 64, 64, 64),
  (64, 32, 64, 128),
  (24, 16, 48, 144),
  (24, 32, 48, 32),
  (48, 32, 32, 16),
  (48, 64, 32, 3),
  (96, 64, 3, 32),
]
SECONDS = 0.5


def main() -> None:
  print(f'matrix product {benchmark.matmul_rate("float32") / 1e9:.0f} GFLOP/s\n')
  settings = {'default': {}, 'ours': backend.compiler_options(jax.default_backend())}
  print('| images, side, in, out | ' + ' | '.join(f'{what}, {name}' for what in COLUMNS for name in settings) + ' |')
  print('|---' * (1 + len(COLUMNS) * len(settings)) + '|')
  for n, side, inputs, outputs in SHAPES:
    x, d_out, kernel = (
      jnp.ones(shape) for shape in ((n, side, side, inputs), (n, side, side, outputs), (3, 3, inputs, outputs))
    )
    gflop = 2 * 9 * n * side**2 * inputs * outputs / 1e9
    cells = [
      f'{gflop / seconds(of, options, x, d_out, kernel):.0f}'
      for of in COLUMNS.values()
      for options in settings.values()
    ]
    print(f'| {n}, {side}, {inputs}, {outputs} | {" | ".join(cells)} |')
  print('\n| | form of other platforms, ms | form of a CPU, ms |')
  print('|---|---|---|')
  small = jnp.ones((24, 2, 2, 768)), jnp.ones((3, 3, 768, 512))
  forms('24 maps of 2x2, 768 channels to 512', convolution.conv2d, *small)
  forms(
    'ReLU, then pool of 64 frames of 64x64x64',
    lambda x: resampling.pool_space(jax.nn.relu(x)),
    jnp.ones((8, 8, 64, 64, 64)),
  )


def image_is_x(x, d_out, kernel):
  return correlate(x, d_out)


def image_is_d_out(x, d_out, kernel):
  return convolution.transposed(correlate(d_out, x))


def correlate(image, window):
  return convolution.kernel_gradient(image, window, (3, 3, 1, 1))  # as narrow in as out: the plain form


COLUMNS = {
  'forward': lambda x, d_out, kernel: convolution.conv2d(x, kernel),
  "kernel's gradient, image x": image_is_x,
  'the same, image d_out': image_is_d_out,
}


def forms(what: str, fn: Any, *args: jax.Array) -> None:
  options = backend.compiler_options(jax.default_backend())
  with alternatives.other_platforms_forms():
    others = seconds(lambda *args: fn(*args), options, *args)
  print(f'| {what} | {1e3 * others:.1f} | {1e3 * seconds(fn, options, *args):.1f} |')


def seconds(fn: Any, options: dict[str, str], *args: jax.Array) -> float:
  """Median time of a call."""
  compiled = jax.jit(fn, compiler_options=options).lower(*args).compile()
  found, until = [], time.perf_counter() + SECONDS
  while len(found) < 4 or time.perf_counter() < until:
    start = time.perf_counter()
    jax.block_until_ready(compiled(*args))
    found.append(time.perf_counter() - start)
  return statistics.median(found[1:])


if __name__ == '__main__':
  main()
