import subprocess
import sys

import jax
import pytest

from dvd_gan.runtime import multihost
from dvd_gan.runtime.errors import RunError
from tests.conftest import ROOT


@pytest.fixture
def on_tpu(monkeypatch):
  """Starts as on a TPU VM; its arguments are the errors that `initialize` and `devices` raise, or None."""

  def call(initialize, devices):
    def raising(error):
      def fn(*args, **kwargs):
        if error:
          raise error

      return fn

    monkeypatch.setattr(jax.distributed, 'initialize', raising(initialize))
    monkeypatch.setattr(jax, 'devices', raising(devices))
    before = jax.config.jax_platforms
    jax.config.update('jax_platforms', 'tpu,cpu')
    try:
      multihost.start('', 0, 0, 100)
    finally:
      jax.config.update('jax_platforms', before)

  for name in ('SLURM_NTASKS', 'TPU_SKIP_MDS_QUERY'):  # JAX sets the second on a machine without a TPU
    monkeypatch.delenv(name, raising=False)
  return call


@pytest.mark.parametrize(
  ('initialize', 'devices', 'message'),
  [
    (ValueError('coordinator_address should be defined.'), None, 'cannot find the other hosts of its TPU slice'),
    (ConnectionError('metadata.google.internal'), None, 'delete the slice and create it again: metadata'),
    (None, RuntimeError("Unable to initialize backend 'tpu': busy\nmore"), 'cannot use its TPU; .*: Unable .* busy$'),
  ],
)
def test_start_on_a_tpu_vm_that_finds_no_slice_or_no_tpu_is_a_run_error(on_tpu, initialize, devices, message):
  with pytest.raises(RunError, match=message):
    on_tpu(initialize, devices)
  on_tpu(None, None)


def test_a_signal_before_the_first_step_ends_with_exit_code_42_even_if_stdout_is_full():
  code = """
import os, signal, time
from dvd_gan.runtime.preemption import StopSignal
stop = StopSignal()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
  with open('/dev/full', 'w') as full:
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, stdout=full, stderr=subprocess.DEVNULL, timeout=50)
  assert done.returncode == 42
