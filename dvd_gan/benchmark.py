"""Times the train step, or sampling, of a named size; prints one JSON object last. Needs no TensorFlow.

`python -m dvd_gan.benchmark` times 64x64, 12 frames, ch = 32, batch 4. `--size` selects another entry of SIZES; the
kinetics600 sizes are at full width, in bfloat16. `--sampling --size=kinetics600_64x48 --batch_size=2` times sampling of
two videos.
"""

import argparse
import functools
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dvd_gan import flops, models, sampling, sharding, train_step
from dvd_gan.datasets.evaluation_windows import Clips
from dvd_gan.models import spectral
from dvd_gan.runtime import backend, validation
from dvd_gan.runtime.errors import UsageError


def _size(name: str, **fields: Any) -> Any:
  """The config of a file in configs/, with fields overridden; `group__field` sets `group.field`."""
  config = importlib.import_module(f'dvd_gan.configs.{name}').get_config()
  config.update_from_flattened_dict({field.replace('__', '.'): value for field, value in fields.items()})
  return config


_NARROW = {'dtype': 'float32', 'gen__ch': 32, 'disc__ch': 32, 'train__batch_size': 4}
SIZES = {
  '64x64x12_ch32_b4': functools.partial(_size, 'default', **_NARROW),
  '64x64_5to11_ch32_b4': functools.partial(_size, 'kinetics600_fp_64x16', **_NARROW),
  'kinetics600_64x12': functools.partial(_size, 'kinetics600_64x12', train__batch_size=16),
  'kinetics600_64x48': functools.partial(_size, 'kinetics600_64x48', train__batch_size=4),
  'kinetics600_128x12': functools.partial(_size, 'kinetics600_128x12', train__batch_size=8),
  **{name: functools.partial(_size, name) for name in ('smoke', 'moving_shapes_16', 'moving_shapes_32')},
}


class Step:
  """The compiled train step of a config on all devices, with a random state and batch.

  Attributes:
    flop: analytic FLOPs of one step, with convolution and resampling as separate operations.
    computed_flop: analytic FLOPs of the step that runs; fewer if resampling is merged into the kernels.
    compile_s: compilation time in seconds.
    temporary_gib: GiB of temporary memory per device, without arguments and results.
  """

  def __init__(self, config: Any):
    validation.validate(config)
    validation.validate_batch(config, jax.device_count())
    mesh = sharding.make_mesh(config.mesh.shard)
    spec = train_step.make_spec(config, **backend.step_options(config.mesh))
    everywhere = sharding.replicated(mesh)
    self._key = jax.jit(functools.partial(jax.random.key, config.seed), out_shardings=everywhere)()
    init = jax.jit(functools.partial(train_step.init_state, spec), out_shardings=everywhere)
    self._state = init(models.init(config), self._key)
    data, d_steps, size = config.data, config.train.d_steps, config.train.batch_size
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (d_steps, size, data.frames, data.resolution, data.resolution, 3), np.uint8)
    label = rng.integers(0, models.num_labels(config), (d_steps, size), np.int32)
    self._batch = jax.device_put({'video': video, 'label': label}, sharding.train_batch(mesh))

    arguments = self._state, self._batch, self._key
    self.computed_flop = self.flop = flops.count(functools.partial(train_step.train_step, spec), *arguments)
    if spec.gen.resample_in_kernel:
      described = train_step.make_spec(config, unroll=spec.unroll)
      self.flop = flops.count(functools.partial(train_step.train_step, described), *arguments)
    lowered = train_step.jitted(spec, mesh, self._state).lower(*arguments)
    start = time.perf_counter()
    self._compiled = lowered.compile()
    self.compile_s = time.perf_counter() - start
    self.temporary_gib = self._compiled.memory_analysis().temp_size_in_bytes / 2**30
    self.seconds(1)  # warm-up: the first step is slower

  @property
  def text(self) -> str:
    """The text of the compiled program."""
    return self._compiled.as_text()

  def seconds(self, repeats: int) -> list[float]:
    """Runs `repeats` steps and returns the seconds that each took."""
    found = []
    for _ in range(repeats):
      start = time.perf_counter()
      self._state, metrics = self._compiled(self._state, self._batch, self._key)
      jax.block_until_ready(metrics)
      found.append(time.perf_counter() - start)
    return found


def measure(config: Any, repeats: int) -> dict[str, Any]:
  """Compiles and times the train step of a config on all devices, on random videos.

  Returns:
    step_s (median), step_s_min, compile_s, temporary_gib, model_tflop and computed_tflop (one step, `flop` and
    `computed_flop` of Step), clips_per_s (batch size / step_s), matmul_gflops (rate of matrix products in the config's
    dtype, measured before and after the steps, times the number of devices), share_of_matmul_rate (model FLOP/s over
    that rate), and a description of the model and the machine.
  """
  step = Step(config)
  step_s, figures = _timed('step', lambda: step.seconds(repeats), step.flop, config.dtype, jax.device_count())
  return {
    **figures,
    'compile_s': round(step.compile_s, 2),
    'temporary_gib': round(step.temporary_gib, 3),
    'computed_tflop': round(step.computed_flop / 1e12, 4),
    'clips_per_s': round(config.train.batch_size / step_s, 3),
    'batch_size': config.train.batch_size,
    'loops': config.mesh.loops,
    'resampling': config.mesh.resampling,
    **_about(config),
  }


def measure_sampling(config: Any, repeats: int) -> dict[str, Any]:
  """Compiles and times sampling of `sample.batch_size` videos, from latents on the host to uint8 videos on the device.

  Returns:
    draw_s (median), draw_s_min, videos_per_s, model_tflop (analytic, one batch), share_of_matmul_rate and matmul_gflops
    as in `measure` but for one device, and a description of the model and the machine.
  """
  validation.validate(config)
  size, data, rng = config.sample.batch_size, config.data, np.random.default_rng(0)
  config.sample.statistics_batch_size = size
  frames = rng.integers(0, 256, (size, data.context, data.resolution, data.resolution, 3), np.uint8)
  context = Clips(frames, np.zeros(size, np.int32)) if data.context else None
  params, _ = models.init(config)
  sampler = sampling.make_sampler(config, params, spectral.init(jax.random.key(0), params), context)
  standing = sampler.standing(batches=1)
  labels = rng.integers(models.num_labels(config), size=size, dtype=np.int32)
  z = np.zeros((size, config.gen.z_dim), np.float32)
  flop = flops.count(sampler.generate.__wrapped__, sampler.weights, standing, z, labels, frames)

  def draw(seed: int) -> float:
    start = time.perf_counter()
    jax.block_until_ready(sampler.batch(standing, 0, labels, frames, truncation=1.0, seed=seed))
    return time.perf_counter() - start

  draw(0)  # compiles
  draw_s, figures = _timed('draw', lambda: [draw(seed) for seed in range(repeats)], flop, config.dtype)
  return {**figures, 'videos_per_s': round(size / draw_s, 3), 'batch_size': size, **_about(config)}


def _timed(
  name: str, run: Callable[[], list[float]], flop: int, dtype: str, devices: int = 1
) -> tuple[float, dict[str, Any]]:
  """Calls `run`, which returns the seconds of each repeat, and times matrix products before and after it.

  Returns (median seconds of a repeat, figures); `flop` is the FLOPs of one repeat.
  """
  matmul = [matmul_rate(dtype)]
  seconds = run()
  matmul.append(matmul_rate(dtype))
  median, rate = statistics.median(seconds), statistics.mean(matmul) * devices
  return median, {
    f'{name}_s': round(median, 4),
    f'{name}_s_min': round(min(seconds), 4),
    'model_tflop': round(flop / 1e12, 4),
    'share_of_matmul_rate': round(flop / median / rate, 3),
    'matmul_gflops': round(rate / 1e9, 1),
    'repeats': len(seconds),
  }


def _about(config: Any) -> dict[str, Any]:
  """A description of the model and the machine."""
  return {
    'resolution': config.data.resolution,
    'frames': config.data.frames,
    'context': config.data.context,
    'gen_ch': config.gen.ch,
    'disc_ch': config.disc.ch,
    'dtype': config.dtype,
    'backend': jax.default_backend(),
    'devices': jax.device_count(),
    'device_kind': jax.devices()[0].device_kind,
    'jax': jax.__version__,
    'python': platform.python_version(),
  }


def matmul_rate(dtype: str, seconds: float = 0.5) -> float:
  """FLOP/s of a large square matrix product on one device; the best of several runs."""
  side = 8192 if jax.default_backend() != 'cpu' else 2048
  a = jnp.ones((side, side), dtype)
  product = jax.jit(lambda a: a @ a)
  product(a).block_until_ready()
  best, until = float('inf'), time.perf_counter() + seconds
  while time.perf_counter() < until:
    start = time.perf_counter()
    product(a).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 2 * side**3 / best


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--size', choices=sorted(SIZES), default='64x64x12_ch32_b4')
  parser.add_argument('--sampling', action='store_true', help='time the drawing of batch_size videos, not the step')
  parser.add_argument('--repeats', type=int, default=5, help='steps (or draws) timed; the median is printed')
  parser.add_argument('--batch_size', type=int, help="in place of the size's own")
  parser.add_argument('--dtype', help="float32 or bfloat16, in place of the size's own")
  parser.add_argument('--loops', help='scan or unroll, in place of auto')
  args = parser.parse_args()
  config = SIZES[args.size]()
  size = config.train.batch_size if args.batch_size is None else args.batch_size
  config.train.batch_size = config.sample.batch_size = size
  config.dtype = args.dtype or config.dtype
  config.mesh.loops = args.loops or config.mesh.loops
  try:
    if args.repeats < 1:
      raise UsageError(f'--repeats={args.repeats} is not 1 or more')
    result = (measure_sampling if args.sampling else measure)(config, args.repeats)
  except UsageError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  print(json.dumps({'size': args.size, **result}))


if __name__ == '__main__':
  main()
