"""Shared by all tests: eight fake CPU devices, one compilation cache, tiny configs, one compiled step."""

import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ['JAX_PLATFORMS'] = 'cpu'
# Most of the suite's time is compilation. Without optimisation and with the older fusion emitters it takes two fifths
# of the time. The programs are the same, but their machine code is slower.
FAST_COMPILE = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {FAST_COMPILE} --xla_force_host_platform_device_count=8'
# The cache is kept between runs and shared with the processes that tests start.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), f'dvd_gan_tests_{os.getuid()}'))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'

import functools  # noqa: E402
from typing import NamedTuple  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from dvd_gan import models, sampling, sharding, train_step  # noqa: E402
from dvd_gan.models import spectral  # noqa: E402
from dvd_gan.runtime import backend  # noqa: E402
from tests.tiny import get_config as tiny_config  # noqa: E402


def random_batch(config, seed=0):
  """A host batch of noise: video uint8 [d_steps, B, T, H, W, 3], label int32 [d_steps, B]."""
  rng = np.random.default_rng(seed)
  shape = (config.train.d_steps, config.train.batch_size)
  size = config.data.resolution
  return {
    'video': rng.integers(0, 256, (*shape, config.data.frames, size, size, 3), np.uint8),
    'label': rng.integers(0, config.data.num_classes, shape, np.int32),
  }


PACE = ('steps_per_s', 'clips_per_s', 'input_wait')  # metrics that depend on time


class Step(NamedTuple):
  """The compiled train step of the tiny config. It donates its state; `fresh` makes a new initial state."""

  config: object
  spec: train_step.StepSpec
  mesh: jax.sharding.Mesh
  compiled: object
  key: jax.Array

  def fresh(self):
    init = functools.partial(train_step.init_state, self.spec)
    # Copied by NumPy, not in jit, so that every leaf has its own buffer.
    state = jax.tree.map(np.array, jax.jit(init)(models.init(self.config), jax.random.key(self.config.seed)))
    return jax.device_put(state, sharding.state(self.mesh, state))

  def place(self, batch):
    return jax.device_put(batch, sharding.train_batch(self.mesh))

  def __call__(self, state, batch):
    return self.compiled(state, self.place(batch), self.key)


def make_step(devices, shard=1, config=None):
  config = config or tiny_config()
  mesh = sharding.make_mesh(shard, devices=devices)
  spec = train_step.make_spec(config, **backend.step_options(config.mesh))
  key = jax.device_put(jax.random.key(config.seed), sharding.replicated(mesh))
  step = Step(config, spec, mesh, None, key)
  jitted = train_step.jitted(spec, mesh, train_step.state_shapes(config))
  compiled = jitted.lower(step.fresh(), step.place(random_batch(config)), key).compile()
  return step._replace(compiled=compiled)


@pytest.fixture(scope='session')
def step_one():
  """The compiled step on one device."""
  return make_step(jax.devices()[:1])


@pytest.fixture(scope='session')
def step_eight():
  """The compiled step on eight devices."""
  return make_step(jax.devices())


@pytest.fixture
def config():
  return tiny_config()


@pytest.fixture
def sampler(config):
  """A sampler of the tiny config without attention, with random weights."""
  config.gen.attention = ()
  params = models.init(config)[0]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape, np.float32), params)
  return sampling.make_sampler(config, params, spectral.init(jax.random.key(0), params))
