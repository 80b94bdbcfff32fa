import json
import types

import jax
import numpy as np
import pytest
from etils import epath

from dvd_gan import sharding, train_step
from dvd_gan.runtime import announcement


@pytest.fixture
def mesh():
  return sharding.make_mesh(1, devices=jax.devices())


def test_the_announcement_shows_devices_data_and_networks_and_warns_of_a_full_disk(config, mesh, tmp_path, capsys):
  state = train_step.state_shapes(config)
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
  source = types.SimpleNamespace(classes=('a', 'b', 'c'), lengths=np.ones(1234))
  announcement.announce(config, epath.Path(tmp_path), mesh, state, source)
  out = capsys.readouterr().out
  assert '8 x cpu' in out and '1,234 clips, 3 classes' in out and '8 videos, 1 on each device' in out
  assert 'D_S' in out and 'D_T' in out and 'up to 3 more checkpoints' in out and 'WARNING' not in out
  config.train.update(keep_checkpoints=0, steps=10**9)
  announcement.announce(config, epath.Path(tmp_path), mesh, state, source)
  assert 'WARNING, they do not fit; free space or set train.keep_checkpoints' in capsys.readouterr().out


def test_the_compilation_message_shows_the_last_duration_for_the_program(config, mesh, tmp_path, capsys, monkeypatch):
  before = jax.config.jax_compilation_cache_dir
  monkeypatch.setattr(announcement.time, 'monotonic', iter(range(0, 1000, 63)).__next__)
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  monkeypatch.delenv('TF_CPP_MIN_LOG_LEVEL', raising=False)
  levels = []
  try:
    for ch in (2, 2, 3):
      config.gen.ch, level = ch, jax.config.jax_logging_level
      with announcement.compiling(config, mesh):
        levels.append(jax.config.jax_logging_level)
      assert jax.config.jax_logging_level == level
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  lines = ['compiling the train step', 'compiling the train step (63 s last time)', 'compiling the train step']
  assert capsys.readouterr().err.splitlines() == lines  # another width gives another program
  assert len(json.loads((tmp_path / announcement.COMPILED).read_text())) == 2
  assert levels == ['CRITICAL'] * 3  # XLA logs "Very slow compile?" at the level of errors
