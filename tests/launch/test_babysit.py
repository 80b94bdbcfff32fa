"""launch/tpu_pod.sh babysit: which events restart the run or replace the slice, and which end it."""

import os
import shutil
import signal
import sys

import numpy as np
import pytest

from tests.conftest import FAST_COMPILE, ROOT
from tests.launch.cloud import commit, end, git, until
from tests.runtime.test_multihost import SMALL


def test_babysit_passes_its_create_and_ssh_flags_to_gcloud(cloud):
  cloud.states('NONE')
  cloud.enough()
  more = ['--create-flag=--labels=a=b c', '--ssh-flag=-oUser=me you', '--alpha']
  cloud('babysit', *more, *cloud.flags())
  assert cloud.calls('create', 'alpha', '--labels=a=b c')
  assert len(cloud.calls('ssh', '--ssh-flag=-oUser=me you')) == len(cloud.calls('ssh'))


def test_babysit_retries_a_stockout_after_stockout_seconds_and_counts_no_crash(cloud):
  (cloud.folder / 'reason').write_text('There is no more capacity in the zone')
  cloud.states('NONE')
  stub = cloud.folder / 'bin' / 'gcloud'
  stub.write_text(stub.read_text().replace('echo ACTIVE >states', 'head -n 1 coming >states; sed -i 1d coming'))
  (cloud.folder / 'coming').write_text('FAILED\nFAILED\nACTIVE\n')
  cloud.enough()
  out = cloud('babysit', *cloud.flags(), MAX_CRASHES='1', BACKOFF_SECONDS='600', STOCKOUT_SECONDS='0')
  assert out.count('stockout: the slice is FAILED: There is no more capacity in the zone; again in 0 s') == 2


@pytest.mark.parametrize('trouble', ['dead', 'ill'])
def test_babysit_recreates_a_slice_that_stays_unreachable_or_unhealthy(cloud, trouble):
  process = cloud.start('babysit', *cloud.flags(), UNREACHABLE_SECONDS='0')
  until(lambda: cloud.starts() == [1, 1])
  if trouble == 'dead':
    end(cloud.homes[1])
    (cloud.folder / '1-is-dead').touch()
    for pid in cloud.alive():
      os.kill(pid, signal.SIGKILL)
  else:
    cloud.nodes('READY\tUNHEALTHY_TENSORFLOW')
    for pid in cloud.alive():
      os.kill(pid, signal.SIGSTOP)  # no further steps
  until(lambda: cloud.calls('create') and cloud.starts() == [1, 1])
  cloud.enough()
  out, error = process.communicate(timeout=120)
  assert process.returncode == 0, (out, error)
  assert len(cloud.calls('delete')) == 1 and ('worker 1 does not answer' in out) == (trouble == 'dead')


def test_babysit_keeps_an_unhealthy_slice_while_its_run_makes_progress(cloud):
  cloud.nodes('READY\tHEALTHY')
  process = cloud.start('babysit', *cloud.flags(), UNREACHABLE_SECONDS='1')
  until(lambda: cloud.starts() == [1, 1])
  cloud.nodes('READY\tUNHEALTHY_TENSORFLOW')
  before = len(cloud.calls())
  until(lambda: len(cloud.calls()) > before + 45)  # about two seconds
  cloud.nodes('READY\tHEALTHY')
  cloud.enough()
  process.communicate(timeout=120)
  assert process.returncode == 0 and not cloud.calls('delete')


def test_babysit_keeps_a_run_while_no_vm_answers_over_ssh(cloud):
  process = cloud.start('babysit', *cloud.flags(), UNREACHABLE_SECONDS='0')
  until(lambda: cloud.starts() == [1, 1])
  for number in range(2):
    (cloud.folder / f'{number}-is-dead').touch()
  before = len(cloud.calls())
  until(lambda: len(cloud.calls()) > before + 20)
  for number in range(2):
    (cloud.folder / f'{number}-is-dead').unlink()
  cloud.enough()
  process.communicate(timeout=60)
  assert process.returncode == 0 and not cloud.calls('delete') and cloud.starts() == [1, 1]


def test_babysit_ends_after_a_stop_command_on_an_unhealthy_slice(cloud):
  process = cloud.start('babysit', *cloud.flags())
  until(lambda: cloud.starts() == [1, 1])
  cloud.nodes('READY\tUNHEALTHY_TENSORFLOW')
  cloud('stop')
  process.communicate(timeout=60)
  assert process.returncode == 42 and not cloud.calls('delete')


def test_babysit_attaches_to_a_live_run_on_an_unhealthy_slice(cloud):
  cloud.run()
  cloud.nodes('READY\tUNHEALTHY_TENSORFLOW')
  process = cloud.start('babysit', *cloud.flags(), UNREACHABLE_SECONDS='1')
  until(lambda: 'watching it' in process.stdout.readline())
  cloud.enough()
  process.communicate(timeout=60)
  assert process.returncode == 0 and not cloud.calls('delete') and cloud.starts() == [1, 1]


def test_babysit_counts_a_missing_network_on_the_vms_as_crashes(cloud):
  for home in cloud.homes:
    (home / 'no-network').touch()
  error = cloud('babysit', *cloud.flags(), code=1, MAX_CRASHES='2')
  assert 'Temporary failure in name resolution' in error and '2 crashes in a row' in error.splitlines()[-1]


def test_babysit_ends_if_its_first_gcloud_call_is_denied(cloud):
  said = 'HTTPError 403: denied. This command is authenticated as me which is the active account specified by x.'
  (cloud.folder / 'offline').write_text(said)
  assert 'HTTPError 403' in cloud('babysit', *cloud.flags(), code=1)
  assert len(cloud.calls()) == 1


@pytest.mark.parametrize(
  'said',
  ['Unable to find the server at x', 'There was a problem refreshing your current auth tokens', 'HTTPError 503: x'],
)
def test_babysit_waits_while_gcloud_cannot_be_used_and_counts_no_crash(cloud, said):
  (cloud.folder / 'offline').write_text(said)
  process = cloud.start('babysit', *cloud.flags(), MAX_CRASHES='1')
  until(lambda: len(cloud.calls()) > 4)
  (cloud.folder / 'offline').unlink()
  until(lambda: cloud.starts() == [1, 1])
  (cloud.folder / 'offline').write_text(said)
  before = len(cloud.calls())
  until(lambda: len(cloud.calls()) > before + 3)
  (cloud.folder / 'offline').unlink()
  cloud.enough()
  out, error = process.communicate(timeout=120)
  assert process.returncode == 0 and cloud.starts() == [1, 1], (out, error)
  assert f'offline: gcloud cannot be used: ERROR: (gcloud.compute.tpus.x) {said}' in out
  assert out.count('cannot be used, waiting') == 1


def test_babysit_does_not_take_the_exit_code_of_an_earlier_run_for_this_one(cloud):
  cloud.run(steps=3)
  until(lambda: cloud.codes() == [0, 0])
  stranger = cloud.hold_device(1, HOME=str(cloud.folder / 'else'))  # of another user, so VM 1 cannot start
  process = cloud.start('babysit', *cloud.flags(), GRACE_SECONDS='0')
  until(lambda: 'was not started on worker 1' in process.stdout.readline())
  stranger.kill()
  stranger.wait()
  cloud.enough()
  process.communicate(timeout=120)
  assert process.returncode == 0 and cloud.codes() == [0, 0]


def test_babysit_ends_where_somebody_deletes_the_slice(cloud):
  process = cloud.start('babysit', *cloud.flags())
  until(lambda: cloud.starts() == [1, 1])
  cloud('delete')
  out, _ = process.communicate(timeout=60)
  assert process.returncode == 42 and 'somebody deleted the slice' in out and not cloud.calls('create')


def test_babysit_keeps_the_slice_while_a_silent_vm_is_beside_a_running_one(cloud):
  process = cloud.start('babysit', *cloud.flags(), UNREACHABLE_SECONDS='0')
  until(lambda: cloud.starts() == [1, 1])
  (cloud.folder / '0-is-dead').touch()  # worker 0, which prints the steps
  before = len(cloud.calls())
  until(lambda: len(cloud.calls()) > before + 20)
  (cloud.folder / '0-is-dead').unlink()
  cloud.enough()
  process.communicate(timeout=60)
  assert process.returncode == 0 and not cloud.calls('delete') and cloud.starts() == [1, 1]


def test_babysit_recreates_a_preempted_slice_and_resumes_with_the_original_commit(cloud):
  cloud.states('NONE')
  process = cloud.start('babysit', '--spot', *cloud.flags())
  until(lambda: 'is alive on all VMs' in process.stdout.readline())
  until(lambda: len(list(cloud.workdir.glob('saved-*'))) == 2)
  before = git(cloud.project, 'rev-parse', 'HEAD')
  commit(cloud.project)  # the run keeps its original code
  (cloud.project / 'untracked').touch()
  cloud.preempt()
  until(lambda: len(cloud.calls('create', '--spot')) == 2 and cloud.starts() == [1, 1])
  cloud.enough()
  out, error = process.communicate(timeout=120)
  assert process.returncode == 0, (out, error)
  assert 'preempted' in out and out.splitlines()[-1].endswith('delete it')
  assert len(cloud.calls('create')) == 2 and len(cloud.calls('delete')) == 1
  assert cloud.codes() == [0, 0]
  pod = cloud.homes[0] / 'dvd_gan_pod'
  assert 'resuming at step' in (next((pod / 'runs').iterdir()) / 'log').read_text()
  assert [path.name for path in (pod / 'code').iterdir()] == [before]


def test_babysit_restarts_a_run_that_a_signal_stopped_without_a_stop_command(cloud):
  process = cloud.start('babysit', *cloud.flags())
  until(lambda: cloud.starts() == [1, 1])
  for pid in cloud.alive():
    os.kill(pid, signal.SIGTERM)
  until(lambda: cloud.starts() == [2, 2])
  cloud.enough()
  out, error = process.communicate(timeout=120)
  assert process.returncode == 0, (out, error)
  assert not cloud.calls('create')


def test_babysit_ends_with_exit_code_42_after_a_stop_command(cloud):
  process = cloud.start('babysit', *cloud.flags())
  until(lambda: cloud.starts() == [1, 1])
  cloud('stop')
  process.communicate(timeout=120)
  assert process.returncode == 42 and cloud.starts() == [1, 1]


def test_babysit_gives_up_after_crashes_without_a_new_step(cloud):
  cloud.fate('crash 3')
  error = cloud('babysit', *cloud.flags(), code=1, MAX_CRASHES='2')
  # The first of the three starts made new steps.
  assert cloud.starts() == [3, 3]
  last = error.splitlines()[-1]
  assert (
    '2 crashes in a row without a new step (the newest is 3): worker 0: exit code 1: RuntimeError: it broke' in last
  )


def test_babysit_restarts_beyond_max_crashes_while_each_run_makes_new_steps(cloud):
  cloud.fate('crash-after-save')
  cloud('babysit', *cloud.flags(12), MAX_CRASHES='1')
  assert cloud.starts() == [3, 3] and cloud.codes() == [0, 0]


def test_babysit_gives_up_after_max_crashes_if_the_slice_is_never_created(cloud):
  cloud.states('NONE', *['NONE', 'FAILED', 'FAILED'] * 5)
  stub = cloud.folder / 'bin' / 'gcloud'
  stub.write_text(stub.read_text().replace('echo ACTIVE >states', 'exit 1'))
  assert '3 crashes' in cloud('babysit', *cloud.flags(), code=1, MAX_CRASHES='3')


@pytest.mark.parametrize('of', ['', '-t1v-n-0a1b2c3d-w-1'])
def test_babysit_ends_without_a_restart_if_any_worker_exits_with_a_usage_error(cloud, of):
  cloud.fate('usage', of)
  assert cloud('babysit', *cloud.flags(), code=2).splitlines()[-1] == 'error: no config of that name'
  assert cloud.starts() == [1, 1] and not cloud.alive()


def test_babysit_restarts_all_workers_when_one_dies(cloud):
  process = cloud.start('babysit', *cloud.flags(), GRACE_SECONDS='0')
  until(lambda: cloud.starts() == [1, 1])
  end(cloud.homes[1])
  until(lambda: cloud.starts() == [2, 2])
  assert len(cloud.alive()) == 2
  cloud('stop')
  process.communicate(timeout=120)
  assert process.returncode == 42


def test_babysit_attaches_to_a_live_run_only_if_its_flags_are_equal(cloud):
  cloud.run()
  assert 'other flags is alive' in cloud('babysit', *cloud.flags(9), code=2)
  process = cloud.start('babysit', *cloud.flags())
  until(lambda: 'watching it' in process.stdout.readline())
  cloud.enough()
  process.communicate(timeout=120)
  assert process.returncode == 0 and cloud.starts() == [1, 1] and cloud.codes() == [0, 0]


HANGING = """
import pathlib, time
from dvd_gan import writer
from tests import tiny
scalars = writer.Writer.scalars

def a_bucket_that_never_answers(self, step, metrics):
  scalars(self, step, metrics)
  marker = pathlib.Path(__file__).with_name('hung')
  if step == 2 and not marker.exists():
    time.sleep(6)  # so that a line of progress is due
  if step == 4 and not marker.exists():
    marker.touch()
    time.sleep(10_000)

writer.Writer.scalars = a_bucket_that_never_answers
get_config = tiny.get_config
"""


def test_babysit_logs_the_stack_of_a_hanging_run_and_restarts_it(cloud):
  """Uses the real program, on a slice of one VM."""
  shutil.rmtree(cloud.homes[1])
  cloud('setup')
  (python,) = (cloud.homes[0] / 'dvd_gan_pod' / 'environments').glob('*/bin/python')
  cache = os.environ['JAX_COMPILATION_CACHE_DIR']
  exports = f'JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR={cache} XLA_FLAGS="{FAST_COMPILE}"'
  python.write_text(f'#!/bin/bash\ncd {ROOT}; export {exports}; exec {sys.executable} "$@"\n')
  config = cloud.folder / 'hanging.py'
  config.write_text(HANGING)
  fields = SMALL | {'data.name': 'array_file', 'data.source': cloud.folder / 'clips.npz', 'train.steps': 6}
  clips = np.zeros((20, 7, 8, 8, 3), np.uint8)
  np.savez(fields['data.source'], video=clips, label=np.arange(20) % 3)
  flags = [f'--config={config}', f'--workdir={cloud.workdir}', *(f'--config.{k}={v}' for k, v in fields.items())]
  out = cloud('babysit', '--shared-workdir', '--', '--mode=train', *flags, STALL_SECONDS='8', GRACE_SECONDS='1')
  assert 'crashed: the run hung after step 2' in out and out.splitlines()[-1].endswith('delete it')
  first, second = sorted((cloud.homes[0] / 'dvd_gan_pod' / 'runs').iterdir())
  assert 'in a_bucket_that_never_answers' in (first / 'log').read_text()
  assert 'resuming' in (second / 'log').read_text() and 'done: 6 steps' in (second / 'log').read_text()
