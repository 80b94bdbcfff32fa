"""Times I3D with 3-D convolutions computed as 2-D ones, as `evaluate` runs it, and with XLA's own; random weights.

python results/performance/i3d_convolution.py [ROUNDS [FILE.json]]

Times VARIANTS alternately; prints seconds per clip of 16 frames, batch 4, and the ratios of the medians to the first's.
"""

import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from dvd_gan.metrics.networks import i3d  # noqa: E402
from dvd_gan.runtime import backend  # noqa: E402
from results.scripts import measured  # noqa: E402

BATCH = 4


def plain(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  numbers = ('NDHWC', 'DHWIO', 'NDHWC')
  return jax.lax.conv_general_dilated(x, kernel, (stride,) * 3, 'SAME', dimension_numbers=numbers)


# name: (the 3-D convolution, whether to use backend.compiler_options)
VARIANTS = {
  'as 2-D, on all cores': (i3d.conv3d, True),
  "as 2-D, jaxlib's default": (i3d.conv3d, False),
  "XLA's 3-D, jaxlib's default": (plain, False),
}


def main(rounds: str = '5', out: str = '') -> None:
  net = i3d.I3D()
  video = jax.random.uniform(jax.random.key(0), (BATCH, 16, 224, 224, 3), jnp.float32, -1, 1)
  params = jax.jit(net.init)(jax.random.key(1), video)
  compiled, seconds = {}, {}
  for name, (i3d.conv3d, ours) in VARIANTS.items():
    options = backend.compiler_options(jax.default_backend()) if ours else {}
    logits = jax.jit(lambda params, video: net.apply(params, video)['logits'], compiler_options=options)
    compiled[name] = logits.lower(params, video).compile()
    compiled[name](params, video).block_until_ready()
    seconds[name] = []
  for _ in range(int(rounds)):
    for name, fn in compiled.items():
      started = time.perf_counter()
      fn(params, video).block_until_ready()
      seconds[name].append((time.perf_counter() - started) / BATCH)
  for name, found in seconds.items():
    print(f'{name}: ' + ' '.join(f'{value:.3f}' for value in found) + ' s a clip')
  medians = {name: statistics.median(found) for name, found in seconds.items()}
  for name, median in medians.items():
    print(f'{name}: {median / medians[next(iter(VARIANTS))]:.2f} times the first')
  if out:
    measured.save(pathlib.Path(out), [{'variant': name, 's_a_clip': found} for name, found in seconds.items()])


if __name__ == '__main__':
  main(*sys.argv[1:])
