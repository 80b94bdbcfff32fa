import jax
import jax.numpy as jnp
from etils import epath

from dvd_gan.runtime.trace import Trace


def test_trace_records_the_steps_of_its_range(tmp_path, monkeypatch):
  recorded = []
  trace = Trace(epath.Path(tmp_path), (2, 3))
  for step in range(1, 7):
    with trace(step):
      jax.block_until_ready(jax.jit(jnp.sin)(jnp.ones(4)))
    recorded.append(trace._recording)
  trace.close()
  assert recorded == [False, True, True, True, False, False]  # until the loop has waited for step 3
  assert len(list(tmp_path.glob('plugins/profile/*/*.xplane.pb'))) == 1


def test_trace_without_a_range_records_nothing(tmp_path):
  trace = Trace(epath.Path(tmp_path), ())
  for step in range(1, 4):
    with trace(step):
      pass
  trace.close()
  assert not list(tmp_path.iterdir())
