"""launch/tpu_pod.sh with a stub gcloud that records its calls. Two folders replace the VMs and run real processes."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import FAST_COMPILE, ROOT
from tests.runtime.test_multihost import SMALL

HERE = pathlib.Path(__file__).parent
FLAGS = ['--mode=train', '--config=configs/smoke.py']


class Cloud:
  """A copy of the project, a stub gcloud that is first on PATH, and two folders that replace VMs."""

  def __init__(self, folder, project):
    self.folder = folder
    self.homes = [folder / 'homes' / str(number) for number in range(2)]
    self.project = folder / 'project'
    self.workdir = folder / 'workdir'
    self.waiting = []
    for path in (*self.homes, self.workdir, folder / 'bin', folder / 'tmp'):
      path.mkdir(parents=True)
    shutil.copy(HERE / 'stub_gcloud.sh', folder / 'bin' / 'gcloud')
    shutil.copytree(HERE / 'stub_vm', folder / 'fake')
    shutil.copy(HERE / 'stub_vm' / 'python3', folder / 'bin')
    shutil.copytree(project, self.project)
    self.states('ACTIVE')
    self.nodes('READY\tHEALTHY')
    (folder / 'calls').touch()
    self.environment = {
      'PATH': f'{folder / "bin"}:{os.environ["PATH"]}',
      'HOME': str(folder),
      'TMPDIR': str(folder / 'tmp'),
      'CLOUD': str(folder),
      'TPU_NAME': 'pod',
      'TPU_ZONE': 'us-west4-a',
      'TPU_PROJECT': 'lab',
      'TPU_TYPE': 'v5litepod-8',
      'POLL_SECONDS': '0.1',
      'BACKOFF_SECONDS': '0',
    }
    assert shutil.which('gcloud', path=self.environment['PATH']) == str(folder / 'bin' / 'gcloud')

  def states(self, *states):
    """Sets the states of the queued resource that successive `describe` calls return."""
    (self.folder / 'states').write_text('\n'.join(states) + '\n')

  def nodes(self, *nodes):
    """Sets the state and health of the VMs that successive `describe` calls return."""
    (self.folder / 'nodes').write_text('\n'.join(nodes) + '\n')

  def git(self, *arguments):
    """Runs git in the project with a fixed identity; returns its output."""
    who = ['-c', 'user.name=somebody', '-c', 'user.email=some@body']
    return subprocess.check_output(['git', '-C', self.project, *who, *arguments], text=True).strip()

  def fate(self, text, of=''):
    (self.workdir / f'fate{of}').write_text(text)

  def enough(self):
    """Lets all programs finish."""
    (self.workdir / 'enough').touch()

  def start(self, *arguments, **environment):
    process = subprocess.Popen(
      ['bash', 'launch/tpu_pod.sh', *arguments],
      cwd=self.project,
      env=self.environment | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    self.waiting.append(process)
    return process

  def __call__(self, *arguments, code=0, **environment):
    """Waits for the end; returns stdout, or stderr if an exit code other than 0 is expected."""
    process = self.start(*arguments, **environment)
    out, error = process.communicate(timeout=120)
    assert process.returncode == code, (out, error)
    return error if code else out

  def refused(self, *arguments, **environment):
    """Runs a command that must fail with exit code 2; returns its only line on stderr."""
    lines = self(*arguments, code=2, **environment).splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), lines
    return lines[0]

  def flags(self, steps=100_000):
    return ['--shared-workdir', '--', *FLAGS, f'--workdir={self.workdir}', f'--config.train.steps={steps}']

  def run(self, steps=100_000, **environment):
    self('setup')
    return self('run', *self.flags(steps), **environment)

  def calls(self, *wanted):
    """The stub's calls that contain all these words, as lists of words."""
    calls = [shlex.split(line) for line in (self.folder / 'calls').read_text().splitlines()]
    return [call for call in calls if set(wanted) <= set(call)]

  def starts(self):
    """How many processes were started on each VM."""
    files = [home / 'started' for home in self.homes]
    return [len(file.read_text().split()) if file.exists() else 0 for file in files]

  def codes(self):
    """Exit codes of the newest run on each VM; None if there is none yet."""
    codes = []
    for home in self.homes:
      newest = home / 'dvd_gan_pod' / 'newest'
      file = home / 'dvd_gan_pod' / 'runs' / newest.read_text().strip() / 'exit_code' if newest.exists() else None
      codes.append(int(file.read_text()) if file and file.exists() else None)
    return codes

  def alive(self):
    """Process ids of the started programs that still run."""
    pids = [int(pid) for home in self.homes for pid in (home / 'started').read_text().split()]
    return [pid for pid in pids if processes_in(self.folder).get(pid)]

  def preempt(self):
    """Preempts the slice: it is suspended and all its processes are killed."""
    self.states('SUSPENDED')
    for home in self.homes:
      end(home)

  def close(self):
    for process in self.waiting:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    end(self.folder)


def newest(home):
  """The name of the newest run on a VM."""
  return (home / 'dvd_gan_pod' / 'newest').read_text().strip()


def processes_in(folder):
  """Processes whose HOME is in a folder: {pid: command line}."""
  found = {}
  for process in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      home = [word for word in (process / 'environ').read_bytes().split(b'\0') if word.startswith(b'HOME=')]
      line = (process / 'cmdline').read_bytes()
    except OSError:
      continue
    if line and home and pathlib.Path(os.fsdecode(home[0][5:])).is_relative_to(folder):
      found[int(process.name)] = line
  return found


def end(folder):
  """Kills all processes of the VMs in a folder and waits until none is left."""
  deadline = time.monotonic() + 20
  while pids := processes_in(folder):
    assert time.monotonic() < deadline
    for pid in pids:
      try:
        os.kill(pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
    time.sleep(0.02)


def until(condition, seconds=60):
  deadline = time.monotonic() + seconds
  while not (value := condition()):
    assert time.monotonic() < deadline, 'it did not come to pass'
    time.sleep(0.02)
  return value


def commit(project):
  """Commits all changes and returns the hash."""
  for arguments in (['add', '--all'], ['commit', '--quiet', '--allow-empty', '--message=x'], ['rev-parse', 'HEAD']):
    who = ['-c', 'user.name=a', '-c', 'user.email=a@b', '-c', 'commit.gpgsign=false']
    done = subprocess.run(['git', *who, *arguments], cwd=project, check=True, capture_output=True, text=True)
  return done.stdout.strip()


@pytest.fixture(scope='module')
def project(tmp_path_factory):
  """A git repository with the files of the project that the scripts need."""
  project = tmp_path_factory.mktemp('clone')
  subprocess.run(['git', 'init', '--quiet'], cwd=project, check=True)
  shutil.copytree(ROOT / 'launch', project / 'launch')
  shutil.copy(ROOT / 'setup.py', project)
  commit(project)
  return project


@pytest.fixture
def cloud(tmp_path, project):
  cloud = Cloud(tmp_path, project)
  yield cloud
  cloud.close()


def test_shell_scripts_pass_shellcheck():
  scripts = [*(ROOT / 'launch').glob('*.sh'), *HERE.glob('*.sh'), *(HERE / 'stub_vm').iterdir(), ROOT / '.ci' / 'run']
  beside = f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
  subprocess.run([shutil.which('shellcheck', path=beside), '-x', *scripts], check=True, cwd=ROOT)


@pytest.mark.parametrize(
  ('type_', 'image', 'vms'),
  [
    ('v2-8', 'tpu-ubuntu2204-base', 1),
    ('v3-512', 'tpu-ubuntu2204-base', 64),
    ('v4-64', 'tpu-ubuntu2204-base', 8),
    ('v5p-128', 'v2-alpha-tpuv5', 16),
    ('v5litepod-8', 'v2-alpha-tpuv5-lite', 1),
    ('v5litepod-64', 'v2-alpha-tpuv5-lite', 16),
    ('v6e-256', 'v2-alpha-tpuv6e', 64),
  ],
)
def test_create_selects_the_runtime_and_counts_the_vms_of_each_accelerator_type(cloud, type_, image, vms):
  where = '--zone=us-west4-a --project=lab'
  create = f'gcloud compute tpus queued-resources create pod --node-id=pod --accelerator-type={type_}'
  printed = cloud('create', '--dry-run', f'--type={type_}').splitlines()
  assert printed[-1] == f'{create} --runtime-version={image} {where}'
  assert not cloud.calls()
  cloud.states('NONE')
  assert f'({vms} VMs)' in cloud('create', f'--type={type_}', '--spot')
  assert cloud.calls('create') == [shlex.split(f'{create} --runtime-version={image} --spot {where}')[1:]]


def test_a_dry_run_prints_quoted_commands_and_calls_nothing(cloud):
  flags = ['--config.sample.classes=(1,2)', '--x=it\'s  a "b" $HOME * \\']
  printed = cloud('babysit', '--dry-run', '--spot', '--runtime=other', '--', *flags).splitlines()
  words = [shlex.split(line) for line in printed]
  assert not cloud.calls() and not list((cloud.folder / 'tmp').iterdir())
  assert [word[0] for word in words if word[0] != 'gcloud'] == ['git']
  assert ['--spot' in word and '--runtime-version=other' in word for word in words if 'create' in word] == [True]
  commands = [(line, word.removeprefix('--command=')) for line in words for word in line if word[:10] == '--command=']
  ((start, remote),) = [(line, command) for line, command in commands if ' start ' in command]
  assert shlex.split(remote)[4:] == flags and '--worker=all' in start


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['create', '--type=tpu7x-128'], 'GKE'),
    (['create', '--type=TPU7x-8'], 'GKE'),
    (['babysit', '--type=ironwood-64', '--', 'x'], 'GKE'),
    (['create', '--type=v5e-64'], 'v5litepod-64'),
    (['create', '--type=v9-8'], 'v9-8 is unknown'),
    (['create', '--type=v4-12'], 'multiple of 8'),
    (['create', '--type=v6e'], 'multiple of 4'),
    (['create', '--node-count=2'], 'several slices'),
    (['create', '--name=My_pod'], 'lower-case'),
    (['create', '--zone'], '--zone needs a value'),
    (['create', '--name='], '--name needs a value'),
    (['create', '--', '--spot'], 'nothing after --'),
    (['fly'], 'no command fly'),
    (['status', '--workdir=x'], 'unknown option --workdir'),
    (['logs', '--worker=1,4'], '--worker=1,4'),
    (['logs', '--worker=all'], '--worker=all'),
    (['ssh', '--worker=all'], 'needs a command'),
    (['run'], 'flags of dvd_gan.main'),
    (['wait', '--timeout=soon'], 'whole numbers'),
  ],
)
def test_a_usage_error_prints_one_line_exits_with_code_2_and_calls_nothing(cloud, arguments, message):
  assert message in cloud.refused(*arguments)
  assert not cloud.calls()


@pytest.mark.parametrize(('variable', 'flag'), [('TPU_NAME', '--name'), ('TPU_ZONE', '--zone'), ('TPU_TYPE', '--type')])
def test_a_missing_name_zone_or_type_gives_a_message_that_names_the_flag(cloud, variable, flag):
  assert flag in cloud.refused('create', **{variable: ''})


def test_help_names_every_command(cloud):
  text = cloud('--help')
  assert all(f'\n  {name}' in text for name in 'create wait setup run status logs stop ssh delete babysit'.split())


@pytest.mark.parametrize('state', ['ACTIVE', 'PROVISIONING', 'ACCEPTED', 'WAITING_FOR_RESOURCES', 'CREATING'])
def test_create_keeps_a_slice_that_is_active_or_requested(cloud, state):
  cloud.states(state)
  assert state in cloud('create')
  assert not cloud.calls('create') and not cloud.calls('delete')


@pytest.mark.parametrize('states', [['SUSPENDED'], ['FAILED'], ['SUSPENDING', 'SUSPENDED']])
def test_create_deletes_and_recreates_a_suspended_or_failed_slice(cloud, states):
  cloud.states(*states)
  cloud('create')
  assert [call[3] for call in cloud.calls() if call[3] != 'describe'] == ['delete', 'create']
  assert {'--force', '--quiet'} <= set(cloud.calls('delete')[0])


def test_extra_create_and_ssh_flags_are_passed_to_gcloud(cloud):
  cloud.states('NONE')
  more = ['--create-flag=--network=net', '--create-flag=--labels=a=b c', '--alpha']
  assert 'needs Cloud NAT' in cloud('create', *more, TPU_CREATE_FLAGS='--internal-ips')
  assert cloud.calls('alpha', 'create', '--network=net', '--labels=a=b c', '--internal-ips')
  cloud('ssh', '--', 'true', TPU_SSH_FLAGS='--tunnel-through-iap')
  assert cloud.calls('alpha', 'ssh', '--tunnel-through-iap')


def test_ssh_flags_are_passed_as_ssh_flag_to_ssh_and_as_scp_flag_to_scp(cloud):
  cloud('setup', '--ssh-flag=-4', '--ssh-flag=--ssh-flag=-oPort=22', TPU_SSH_FLAGS='--internal-ip')
  for name in ('ssh', 'scp'):
    own = [f'--{name}-flag={flag}' for flag in ('-4', '-oPort=22', '-oConnectTimeout=15')]
    assert all({*own, '--internal-ip'} <= set(call) for call in cloud.calls(name)) and cloud.calls(name)


def test_babysit_passes_its_create_and_ssh_flags_to_gcloud(cloud):
  cloud.states('NONE')
  cloud.enough()
  more = ['--create-flag=--labels=a=b c', '--ssh-flag=-oUser=me you', '--alpha']
  cloud('babysit', *more, *cloud.flags())
  assert cloud.calls('create', 'alpha', '--labels=a=b c')
  assert len(cloud.calls('ssh', '--ssh-flag=-oUser=me you')) == len(cloud.calls('ssh'))


@pytest.mark.parametrize('command', ['run', 'babysit'])
def test_a_workdir_on_the_disk_of_a_vm_is_refused(cloud, command):
  for flags in (['--workdir=/home/me/run'], ['--workdir', 'run'], ['-workdir=run']):
    assert 'is lost with the VMs' in cloud.refused(command, '--', *FLAGS, *flags)
  assert not cloud.calls()


def test_create_refuses_an_accelerator_type_that_the_zone_does_not_have(cloud):
  cloud.states('NONE')
  (cloud.folder / 'types').write_text('v5litepod-16\nv5litepod-8\n')
  assert cloud.refused('create', '--type=v5litepod-12').endswith('no v5litepod-12, but v5litepod-8 v5litepod-16 ')
  assert not cloud.calls('create')
  cloud('create')


def test_create_refuses_an_existing_slice_with_another_type_runtime_or_spot_setting(cloud):
  node = '"acceleratorType": "v5litepod-8",\n"runtimeVersion": "v2-alpha-tpuv5-lite"'
  (cloud.folder / 'made.json').write_text('{"spot": {}, "tpu": {"nodeSpec": [{"node": {\n' + node + '\n}}]}}\n')
  assert 'ACTIVE' in cloud('create', '--spot')
  assert 'exists and is spot: add --spot' in cloud.refused('create')
  assert 'acceleratorType v5litepod-8, not v5litepod-16' in cloud.refused('create', '--spot', '--type=v5litepod-16')
  assert 'not other' in cloud.refused('create', '--spot', '--runtime=other')
  (cloud.folder / 'made.json').write_text('{"tpu": {"nodeSpec": [{"node": {\n' + node + '\n}}]}}\n')
  assert 'exists and is not spot: leave --spot out, or take' in cloud.refused('create', '--spot')


def test_wait_and_create_print_why_a_request_failed(cloud):
  (cloud.folder / 'reason').write_text('Quota limit TPUV5sPerProject exceeded')
  cloud.states('FAILED')
  assert 'FAILED: Quota limit' in cloud('wait', code=1)
  assert 'FAILED (Quota limit' in cloud('create')


def test_babysit_retries_a_stockout_after_stockout_seconds_and_counts_no_crash(cloud):
  (cloud.folder / 'reason').write_text('There is no more capacity in the zone')
  cloud.states('NONE')
  stub = cloud.folder / 'bin' / 'gcloud'
  stub.write_text(stub.read_text().replace('echo ACTIVE >states', 'head -n 1 coming >states; sed -i 1d coming'))
  (cloud.folder / 'coming').write_text('FAILED\nFAILED\nACTIVE\n')
  cloud.enough()
  out = cloud('babysit', *cloud.flags(), MAX_CRASHES='1', BACKOFF_SECONDS='600', STOCKOUT_SECONDS='0')
  assert out.count('stockout: the slice is FAILED: There is no more capacity in the zone; again in 0 s') == 2


@pytest.mark.parametrize('node', ['PREEMPTED', 'TERMINATED'])
def test_create_recreates_a_slice_whose_vms_are_gone_although_its_request_is_active(cloud, node):
  cloud.nodes(node)
  assert cloud('status') == f'pod: {node}\n'
  assert node in cloud('wait', code=1)
  cloud('create')
  assert [call[3] for call in cloud.calls() if call[3] in ('delete', 'create')] == ['delete', 'create']


def test_wait_waits_for_the_end_of_maintenance_up_to_a_time_limit(cloud):
  cloud.nodes('READY\tUNHEALTHY_MAINTENANCE', 'REPAIRING', 'READY\tHEALTHY')
  assert cloud('wait').splitlines() == ['pod: UNHEALTHY_MAINTENANCE', 'pod: REPAIRING', 'pod: ACTIVE']
  cloud.nodes('READY\tUNHEALTHY_MAINTENANCE')
  assert 'has been UNHEALTHY_MAINTENANCE for' in cloud('wait', code=1, MAINTENANCE_SECONDS='0')
  cloud.nodes('READY\tTIMEOUT')
  assert 'has been UNHEALTHY_TIMEOUT for' in cloud('wait', code=1, UNREACHABLE_SECONDS='0')


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


def test_status_run_and_stop_name_an_unreachable_vm_and_still_handle_the_other(cloud):
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  (cloud.folder / '1-is-dead').touch()
  lines = cloud('status').splitlines()
  assert 'worker 0: running' in lines[1] and lines[2] == 'worker 1: does not answer'
  assert 'worker 1 does not answer' in cloud('run', *cloud.flags(), code=1)
  stopped = cloud('stop', code=1)
  assert 'worker 1 does not answer; what runs there may go on' in stopped and cloud.codes() == [42, None]


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
  home = cloud.homes[1]
  (home / 'dev').mkdir()
  (home / 'dev' / 'accel0').touch()
  hold = ['bash', '-c', 'exec 7<dev/accel0; sleep 600']  # another user's process holds the device, so VM 1 cannot start
  stranger = subprocess.Popen(hold, cwd=home, env={'HOME': str(cloud.folder / 'else'), 'PATH': os.environ['PATH']})
  cloud.waiting.append(stranger)
  process = cloud.start('babysit', *cloud.flags(), GRACE_SECONDS='0')
  until(lambda: 'was not started on worker 1' in process.stdout.readline())
  stranger.kill()
  stranger.wait()
  cloud.enough()
  process.communicate(timeout=120)
  assert process.returncode == 0 and cloud.codes() == [0, 0]


def test_logs_are_copied_to_the_bucket_of_the_workdir(cloud):
  cloud('setup')
  cloud('run', '--', *FLAGS, '--workdir', 'gs://b/run', '--workdir=gs://b/run', '--config.train.steps=120')
  run = until(lambda: (cloud.homes[1] / 'dvd_gan_pod' / 'newest').exists() and newest(cloud.homes[1]))
  copy = cloud.folder / f'bucket-gs:__b_run_logs_{run}_worker-1.log'
  until(copy.exists)  # while the run continues
  assert 'done' not in copy.read_text() and cloud.codes() == [None, None]
  until(lambda: 'done: 120 steps' in copy.read_text())


def test_run_removes_a_foreign_lock_file_and_enables_huge_pages_with_sudo(cloud):
  """The lock file belongs to another user and is in a folder where only its owner may delete it."""
  cloud('setup')
  sudo = cloud.folder / 'bin' / 'sudo'
  sudo.write_text('#!/bin/sh\n[ "$2" != rm ] || exec rm -r "$4"\nshift; exec "$@"\n')
  sudo.chmod(0o755)
  home = cloud.homes[0]
  (home / 'tmp' / 'libtpu_lockfile').mkdir(parents=True)  # a folder, which rm -f cannot remove
  pages = home / 'sys' / 'kernel' / 'mm' / 'transparent_hugepage' / 'enabled'
  pages.parent.mkdir(parents=True)
  pages.write_text('always [madvise] never\n')
  cloud('run', *cloud.flags())
  assert not (home / 'tmp' / 'libtpu_lockfile').exists() and pages.read_text() == 'always\n'
  cloud('stop')
  (home / 'tmp' / 'libtpu_lockfile').mkdir()
  sudo.write_text('#!/bin/sh\nexit 1\n')
  assert 'another user owns' in cloud.start('run', *cloud.flags()).communicate(timeout=60)[0]


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


def test_wait_prints_each_state_once_until_the_slice_is_active(cloud):
  cloud.states('ACCEPTED', 'ACCEPTED', 'PROVISIONING', 'ACTIVE')
  assert cloud('wait').splitlines() == ['pod: ACCEPTED', 'pod: PROVISIONING', 'pod: ACTIVE']


@pytest.mark.parametrize('state', ['FAILED', 'SUSPENDED', 'SUSPENDING', 'NONE'])
def test_wait_fails_if_the_request_has_failed_is_suspended_or_does_not_exist(cloud, state):
  cloud.states('ACCEPTED', state)
  cloud('wait', code=1)


def test_wait_fails_after_its_timeout(cloud):
  cloud.states('WAITING_FOR_RESOURCES')
  assert 'still WAITING_FOR_RESOURCES after 1 s' in cloud('wait', '--timeout=1', code=1)


def test_setup_copies_each_commit_once_and_reinstalls_only_after_setup_py_changed(cloud):
  (cloud.project / 'file with space').write_text('1')
  hash_ = commit(cloud.project)
  cloud('setup')
  for home in cloud.homes:
    code = home / 'dvd_gan_pod' / 'current'
    assert (code / 'COMMIT').read_text() == f'{hash_}\n' and code.resolve().name == hash_
    assert (code / 'file with space').read_text() == '1'
    assert len((home / 'installed').read_text().splitlines()) == 1
  cloud('setup')
  assert len(cloud.calls('scp')) == 1

  (cloud.project / 'file with space').write_text('2')  # another commit, the same environment
  commit(cloud.project)
  cloud('setup')
  for home in cloud.homes:
    assert (home / 'dvd_gan_pod' / 'current' / 'file with space').read_text() == '2'
    assert len((home / 'installed').read_text().splitlines()) == 1
    assert len(list(home.glob('dvd_gan-*.tar.gz'))) == 1

  (cloud.project / 'setup.py').write_text('# other packages')
  commit(cloud.project)
  cloud('setup')
  assert [len((home / 'installed').read_text().splitlines()) for home in cloud.homes] == [2, 2]


def test_setup_refuses_uncommitted_changes_and_with_allow_dirty_ignores_them(cloud):
  (cloud.project / 'new.py').write_text('')
  assert 'not all is committed' in cloud.refused('setup')
  assert not cloud.calls()
  cloud('setup', '--allow-dirty')
  assert not (cloud.homes[0] / 'dvd_gan_pod' / 'current' / 'new.py').exists()


def test_run_refuses_an_environment_whose_setup_failed_and_setup_makes_it_again(cloud):
  (cloud.homes[1] / 'no-network').touch()
  cloud('setup', code=1)
  assert 'is not set up' in cloud.refused('run', *cloud.flags())
  (cloud.homes[1] / 'no-network').unlink()
  cloud('setup')
  assert [len((home / 'installed').read_text().splitlines()) for home in cloud.homes] == [1, 2]


def test_run_is_refused_before_setup_of_the_current_commit(cloud):
  assert 'is not set up' in cloud.refused('run', *cloud.flags())
  cloud('setup')
  commit(cloud.project)
  assert 'is not set up' in cloud.refused('run', *cloud.flags())


@pytest.mark.parametrize('broken', [False, True])
def test_run_starts_one_process_per_vm_with_unchanged_flags(cloud, broken):
  cloud('setup')
  if broken:
    (cloud.folder / 'broken-connections').touch()
  odd = ['--config.sample.classes=(1,2)', '--a= two  spaces ', '--b=it\'s "$HOME" `id` \\ * ~ ; & | !', '--c=', 'ä\n-']
  cloud('run', *cloud.flags(), *odd)
  for home in cloud.homes:
    flags = until(lambda home=home: (home / 'flags').exists() and (home / 'flags').read_bytes())
    assert flags.decode().split('\0')[:-1] == ['-m', 'dvd_gan.main', *cloud.flags()[2:], *odd]
  assert cloud.starts() == [1, 1] and len(cloud.alive()) == 2


def test_a_second_run_is_refused_until_the_first_is_stopped(cloud):
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  assert 'alive on worker 0,1' in cloud.refused('run', *cloud.flags())
  assert cloud.starts() == [1, 1] and len(cloud.alive()) == 2
  cloud('stop')
  cloud('run', *cloud.flags())
  until(lambda: cloud.starts() == [2, 2])


def test_run_kills_only_our_leftover_processes_that_hold_the_device(cloud):
  cloud('setup')
  home = cloud.homes[0]
  for folder in ('dev', 'tmp'):
    (home / folder).mkdir()
  (home / 'dev' / 'accel0').touch()
  (home / 'tmp' / 'libtpu_lockfile').touch()
  hold = ['bash', '-c', 'exec 7<dev/accel0; sleep 600']
  stranger = subprocess.Popen(hold, cwd=home, env={'HOME': str(home), 'PATH': os.environ['PATH']})
  until(lambda: b'sleep' in processes_in(home).get(stranger.pid, b''))
  assert 'not started' in cloud('run', *cloud.flags(), code=1)
  assert stranger.poll() is None and (home / 'tmp' / 'libtpu_lockfile').exists()
  stranger.kill()
  stranger.wait()
  cloud('stop')

  ours = subprocess.Popen(hold, cwd=home, env={'HOME': str(home), 'PATH': os.environ['PATH'], 'DVD_GAN_RUN': 'x'})
  until(lambda: b'sleep' in processes_in(home).get(ours.pid, b''))
  cloud('run', *cloud.flags())
  assert ours.wait(timeout=10) == -signal.SIGKILL and not (home / 'tmp' / 'libtpu_lockfile').exists()


def test_status_logs_and_ssh_before_a_run_after_its_end_and_after_a_crash(cloud):
  assert cloud('status').splitlines() == ['pod: ACTIVE', 'worker 0: never started', 'worker 1: never started']
  cloud('logs', code=1)
  assert 'never started' in cloud('stop')
  cloud('setup')
  assert 'nothing was ever started' in cloud('logs', code=1)
  cloud.run(steps=7)
  followed = cloud('logs', '--worker=1', '--follow')
  assert 'step 7/7' in followed and followed.rstrip().endswith('done: 7 steps')
  until(lambda: cloud.codes() == [0, 0])
  lines = cloud('status').splitlines()
  assert [line.startswith(f'worker {n}: exited with code 0') for n, line in enumerate(lines[1:])] == [True, True]
  assert lines[1].endswith('step 7/7  9.9 steps/s')
  assert cloud('logs', '--lines=1') == 'done: 7 steps\n'
  assert cloud('ssh', '--worker=1', '--', 'echo', '~').strip() == str(cloud.homes[1])
  assert len(cloud('ssh', '--worker=all', '--', 'pwd').splitlines()) == 2

  shutil.rmtree(cloud.workdir, ignore_errors=True)
  cloud.workdir.mkdir()
  cloud.fate('crash 2')
  cloud('run', *cloud.flags())
  until(lambda: cloud.codes() == [1, 1])
  assert 'exited with code 1' in (line := cloud('status').splitlines()[1]) and line.endswith('RuntimeError: it broke')
  cloud.states('SUSPENDED')
  assert cloud('status') == 'pod: SUSPENDED\n'


def test_status_reports_a_killed_process_as_died_without_an_exit_code(cloud):
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  end(cloud.homes[1])
  lines = cloud('status').splitlines()
  assert 'worker 0: running' in lines[1] and 'worker 1: died without an exit code' in lines[2]
  assert 'alive on worker 0;' in cloud.refused('run', *cloud.flags())


def test_stop_sends_one_sigterm_per_vm_and_records_exit_code_42(cloud):
  cloud.fate('slow')
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  (cloud.folder / 'broken-connections').touch()  # gcloud repeats calls; a second signal would end the run unsaved
  assert cloud('stop').count('exited with code 42 (stop asked for)') == 2
  assert cloud.codes() == [42, 42] and not cloud.alive()
  assert [(home / 'signals').read_text() for home in cloud.homes] == ['TERM\n', 'TERM\n']
  cloud('stop')


def test_stop_kills_a_process_that_ignores_sigterm_only_with_force(cloud):
  cloud.fate('deaf')
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  assert '--force' in cloud('stop', '--timeout=1', code=1)
  assert len(cloud.alive()) == 2
  cloud('stop', '--timeout=0', '--force')
  assert cloud.codes() == [137, 137] and not cloud.alive()


def test_delete_deletes_the_slice_and_reports_if_there_is_none(cloud):
  cloud('delete')
  assert {'--force', '--quiet'} <= set(cloud.calls('delete')[0])
  assert 'there is none' in cloud('delete')
  assert len(cloud.calls('delete')) == 1


def test_babysit_recreates_a_preempted_slice_and_resumes_with_the_original_commit(cloud):
  cloud.states('NONE')
  process = cloud.start('babysit', '--spot', *cloud.flags())
  until(lambda: len(list(cloud.workdir.glob('saved-*'))) == 2)
  before = cloud.git('rev-parse', 'HEAD')
  cloud.git('commit', '--quiet', '--allow-empty', '--message=work goes on')  # the run keeps its original code
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
