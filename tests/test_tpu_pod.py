"""launch/tpu_pod.sh against a stub gcloud: what it would call, and real processes in two folders that are the VMs."""

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
  """A project in a clone of its own, a stub gcloud first on PATH, and two VMs."""

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
    """What describe says, one after the other."""
    (self.folder / 'states').write_text('\n'.join(states) + '\n')

  def nodes(self, *nodes):
    """State and health of the VMs as describe says them, one after the other."""
    (self.folder / 'nodes').write_text('\n'.join(nodes) + '\n')

  def git(self, *arguments):
    """In the project, as somebody."""
    who = ['-c', 'user.name=somebody', '-c', 'user.email=some@body']
    return subprocess.check_output(['git', '-C', self.project, *who, *arguments], text=True).strip()

  def fate(self, text, of=''):
    (self.workdir / f'fate{of}').write_text(text)

  def enough(self):
    """All programs come to their end."""
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
    """Runs to the end; returns stdout, or stderr where another exit code than 0 is expected."""
    process = self.start(*arguments, **environment)
    out, error = process.communicate(timeout=120)
    assert process.returncode == code, (out, error)
    return error if code else out

  def refused(self, *arguments, **environment):
    """A mistake: one line on stderr, exit code 2."""
    lines = self(*arguments, code=2, **environment).splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), lines
    return lines[0]

  def flags(self, steps=100_000):
    return ['--shared-workdir', '--', *FLAGS, f'--workdir={self.workdir}', f'--config.train.steps={steps}']

  def run(self, steps=100_000, **environment):
    self('setup')
    return self('run', *self.flags(steps), **environment)

  def calls(self, *wanted):
    """The stub's calls that have all these words, as lists of words."""
    calls = [shlex.split(line) for line in (self.folder / 'calls').read_text().splitlines()]
    return [call for call in calls if set(wanted) <= set(call)]

  def starts(self):
    """How many processes were started on each VM."""
    files = [home / 'started' for home in self.homes]
    return [len(file.read_text().split()) if file.exists() else 0 for file in files]

  def codes(self):
    """Exit codes of the newest run on each VM, None where there is none yet."""
    codes = []
    for home in self.homes:
      newest = home / 'dvd_gan_pod' / 'newest'
      file = home / 'dvd_gan_pod' / 'runs' / newest.read_text().strip() / 'exit_code' if newest.exists() else None
      codes.append(int(file.read_text()) if file and file.exists() else None)
    return codes

  def alive(self):
    """The started programs that run."""
    pids = [int(pid) for home in self.homes for pid in (home / 'started').read_text().split()]
    return [pid for pid in pids if processes_in(self.folder).get(pid)]

  def preempt(self):
    """The spot slice is taken away."""
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
  """The newest run of a VM."""
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
  """Kills all processes of the VMs in a folder, until there are none."""
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
  """Commits all there is and returns the hash."""
  for arguments in (['add', '--all'], ['commit', '--quiet', '--allow-empty', '--message=x'], ['rev-parse', 'HEAD']):
    who = ['-c', 'user.name=a', '-c', 'user.email=a@b', '-c', 'commit.gpgsign=false']
    done = subprocess.run(['git', *who, *arguments], cwd=project, check=True, capture_output=True, text=True)
  return done.stdout.strip()


@pytest.fixture(scope='module')
def project(tmp_path_factory):
  """A clone with what the scripts need of the project."""
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


def test_scripts_are_clean():
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
def test_create_knows_every_type(cloud, type_, image, vms):
  where = '--zone=us-west4-a --project=lab'
  create = f'gcloud compute tpus queued-resources create pod --node-id=pod --accelerator-type={type_}'
  printed = cloud('create', '--dry-run', f'--type={type_}').splitlines()
  assert printed[-1] == f'{create} --runtime-version={image} {where}'
  assert not cloud.calls()
  cloud.states('NONE')
  assert f'({vms} VMs)' in cloud('create', f'--type={type_}', '--spot')
  assert cloud.calls('create') == [shlex.split(f'{create} --runtime-version={image} --spot {where}')[1:]]


def test_a_dry_run_prints_what_can_be_pasted_and_does_nothing(cloud):
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
def test_a_mistake_is_one_line_and_exit_code_2(cloud, arguments, message):
  assert message in cloud.refused(*arguments)
  assert not cloud.calls()


@pytest.mark.parametrize(('variable', 'flag'), [('TPU_NAME', '--name'), ('TPU_ZONE', '--zone'), ('TPU_TYPE', '--type')])
def test_what_is_missing_is_said(cloud, variable, flag):
  assert flag in cloud.refused('create', **{variable: ''})


def test_help_names_every_command(cloud):
  text = cloud('--help')
  assert all(f'\n  {name}' in text for name in 'create wait setup run status logs stop ssh delete babysit'.split())


@pytest.mark.parametrize('state', ['ACTIVE', 'PROVISIONING', 'ACCEPTED', 'WAITING_FOR_RESOURCES', 'CREATING'])
def test_create_leaves_what_is_there(cloud, state):
  cloud.states(state)
  assert state in cloud('create')
  assert not cloud.calls('create') and not cloud.calls('delete')


@pytest.mark.parametrize('states', [['SUSPENDED'], ['FAILED'], ['SUSPENDING', 'SUSPENDED']])
def test_create_makes_what_is_lost_anew(cloud, states):
  cloud.states(*states)
  cloud('create')
  assert [call[3] for call in cloud.calls() if call[3] != 'describe'] == ['delete', 'create']
  assert {'--force', '--quiet'} <= set(cloud.calls('delete')[0])


def test_more_flags_for_gcloud(cloud):
  cloud.states('NONE')
  more = ['--create-flag=--network=net', '--create-flag=--labels=a=b c', '--alpha']
  assert 'needs Cloud NAT' in cloud('create', *more, TPU_CREATE_FLAGS='--internal-ips')
  assert cloud.calls('alpha', 'create', '--network=net', '--labels=a=b c', '--internal-ips')
  cloud('ssh', '--', 'true', TPU_SSH_FLAGS='--tunnel-through-iap')
  assert cloud.calls('alpha', 'ssh', '--tunnel-through-iap')


def test_ssh_and_scp_get_flags_in_the_form_that_each_takes(cloud):
  cloud('setup', '--ssh-flag=-4', '--ssh-flag=--ssh-flag=-oPort=22', TPU_SSH_FLAGS='--internal-ip')
  for name in ('ssh', 'scp'):
    own = [f'--{name}-flag={flag}' for flag in ('-4', '-oPort=22', '-oConnectTimeout=15')]
    assert all({*own, '--internal-ip'} <= set(call) for call in cloud.calls(name)) and cloud.calls(name)


def test_babysit_hands_its_flags_to_every_command(cloud):
  cloud.states('NONE')
  cloud.enough()
  more = ['--create-flag=--labels=a=b c', '--ssh-flag=-oUser=me you', '--alpha']
  cloud('babysit', *more, *cloud.flags())
  assert cloud.calls('create', 'alpha', '--labels=a=b c')
  assert len(cloud.calls('ssh', '--ssh-flag=-oUser=me you')) == len(cloud.calls('ssh'))


@pytest.mark.parametrize('command', ['run', 'babysit'])
def test_a_workdir_on_the_vms_disks_is_refused(cloud, command):
  for flags in (['--workdir=/home/me/run'], ['--workdir', 'run'], ['-workdir=run']):
    assert 'is lost with the VMs' in cloud.refused(command, '--', *FLAGS, *flags)
  assert not cloud.calls()


def test_create_asks_whether_the_zone_has_the_type(cloud):
  cloud.states('NONE')
  (cloud.folder / 'types').write_text('v5litepod-16\nv5litepod-8\n')
  assert cloud.refused('create', '--type=v5litepod-12').endswith('no v5litepod-12, but v5litepod-8 v5litepod-16 ')
  assert not cloud.calls('create')
  cloud('create')


def test_create_refuses_a_slice_that_is_another_one(cloud):
  node = '"acceleratorType": "v5litepod-8",\n"runtimeVersion": "v2-alpha-tpuv5-lite"'
  (cloud.folder / 'made.json').write_text('{"spot": {}, "tpu": {"nodeSpec": [{"node": {\n' + node + '\n}}]}}\n')
  assert 'ACTIVE' in cloud('create', '--spot')
  assert '--spot was not given' not in cloud.refused('create') and '--spot was given' in cloud.refused('create')
  assert 'acceleratorType v5litepod-8, not v5litepod-16' in cloud.refused('create', '--spot', '--type=v5litepod-16')
  assert 'not other' in cloud.refused('create', '--spot', '--runtime=other')


def test_a_failed_request_says_why(cloud):
  (cloud.folder / 'reason').write_text('Quota limit TPUV5sPerProject exceeded')
  cloud.states('FAILED')
  assert 'FAILED: Quota limit' in cloud('wait', code=1)
  assert 'FAILED (Quota limit' in cloud('create')


def test_babysit_waits_longer_where_there_is_no_capacity_and_counts_no_crash(cloud):
  (cloud.folder / 'reason').write_text('There is no more capacity in the zone')
  cloud.states('NONE')
  stub = cloud.folder / 'bin' / 'gcloud'
  stub.write_text(stub.read_text().replace('echo ACTIVE >states', 'head -n 1 coming >states; sed -i 1d coming'))
  (cloud.folder / 'coming').write_text('FAILED\nFAILED\nACTIVE\n')
  cloud.enough()
  out = cloud('babysit', *cloud.flags(), MAX_CRASHES='1', BACKOFF_SECONDS='600', STOCKOUT_SECONDS='0')
  assert out.count('stockout: the slice is FAILED: There is no more capacity in the zone; again in 0 s') == 2


@pytest.mark.parametrize('node', ['PREEMPTED', 'TERMINATED'])
def test_vms_that_are_gone_under_an_active_request_are_made_anew(cloud, node):
  cloud.nodes(node)
  assert cloud('status') == f'pod: {node}\n'
  assert node in cloud('wait', code=1)
  cloud('create')
  assert [call[3] for call in cloud.calls() if call[3] in ('delete', 'create')] == ['delete', 'create']


def test_maintenance_is_waited_for_and_not_for_ever(cloud):
  cloud.nodes('READY\tUNHEALTHY_MAINTENANCE', 'REPAIRING', 'READY\tHEALTHY')
  assert cloud('wait').splitlines() == ['pod: UNHEALTHY_MAINTENANCE', 'pod: REPAIRING', 'pod: ACTIVE']
  cloud.nodes('READY\tUNHEALTHY_MAINTENANCE')
  assert 'has been UNHEALTHY_MAINTENANCE for' in cloud('wait', code=1, MAINTENANCE_SECONDS='0')
  cloud.nodes('READY\tTIMEOUT')
  assert 'has been UNHEALTHY_TIMEOUT for' in cloud('wait', code=1, UNREACHABLE_SECONDS='0')


@pytest.mark.parametrize('trouble', ['dead', 'ill'])
def test_babysit_replaces_a_slice_that_stays_broken(cloud, trouble):
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
      os.kill(pid, signal.SIGSTOP)  # no news
  until(lambda: cloud.calls('create') and cloud.starts() == [1, 1])
  cloud.enough()
  out, error = process.communicate(timeout=120)
  assert process.returncode == 0, (out, error)
  assert len(cloud.calls('delete')) == 1 and ('worker 1 does not answer' in out) == (trouble == 'dead')


def test_an_ill_slice_is_left_alone_while_the_run_makes_steps(cloud):
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


def test_a_run_is_left_alone_while_ssh_reaches_no_vm(cloud):
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


def test_a_stop_is_noticed_on_an_ill_slice(cloud):
  process = cloud.start('babysit', *cloud.flags())
  until(lambda: cloud.starts() == [1, 1])
  cloud.nodes('READY\tUNHEALTHY_TENSORFLOW')
  cloud('stop')
  process.communicate(timeout=60)
  assert process.returncode == 42 and not cloud.calls('delete')


def test_a_live_run_on_an_ill_slice_is_taken_over(cloud):
  cloud.run()
  cloud.nodes('READY\tUNHEALTHY_TENSORFLOW')
  process = cloud.start('babysit', *cloud.flags(), UNREACHABLE_SECONDS='1')
  until(lambda: 'watching it' in process.stdout.readline())
  cloud.enough()
  process.communicate(timeout=60)
  assert process.returncode == 0 and not cloud.calls('delete') and cloud.starts() == [1, 1]


def test_a_network_that_the_vms_lack_is_no_network_of_ours(cloud):
  for home in cloud.homes:
    (home / 'no-network').touch()
  error = cloud('babysit', *cloud.flags(), code=1, MAX_CRASHES='2')
  assert 'Temporary failure in name resolution' in error and '2 crashes in a row' in error.splitlines()[-1]


def test_babysit_ends_where_the_first_look_is_refused(cloud):
  said = 'HTTPError 403: denied. This command is authenticated as me which is the active account specified by x.'
  (cloud.folder / 'offline').write_text(said)
  assert 'HTTPError 403' in cloud('babysit', *cloud.flags(), code=1)
  assert len(cloud.calls()) == 1


def test_a_dead_vm_hides_no_other(cloud):
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


def test_what_a_vm_says_of_an_earlier_run_is_no_news_of_this_one(cloud):
  cloud.run(steps=3)
  until(lambda: cloud.codes() == [0, 0])
  home = cloud.homes[1]
  (home / 'dev').mkdir()
  (home / 'dev' / 'accel0').touch()
  hold = ['bash', '-c', 'exec 7<dev/accel0; sleep 600']  # another user's: VM 1 cannot start
  stranger = subprocess.Popen(hold, cwd=home, env={'HOME': str(cloud.folder / 'else'), 'PATH': os.environ['PATH']})
  cloud.waiting.append(stranger)
  process = cloud.start('babysit', *cloud.flags(), GRACE_SECONDS='0')
  until(lambda: 'worker 1 has not started it' in process.stdout.readline())
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
  until(copy.exists)  # while it runs
  assert 'done' not in copy.read_text() and cloud.codes() == [None, None]
  until(lambda: 'done: 120 steps' in copy.read_text())


def test_the_vm_is_made_ready_as_root(cloud):
  """Another user's lock file, in a folder where only its owner may delete it, and large pages."""
  cloud('setup')
  sudo = cloud.folder / 'bin' / 'sudo'
  sudo.write_text('#!/bin/sh\n[ "$2" != rm ] || exec rm -r "$4"\nshift; exec "$@"\n')
  sudo.chmod(0o755)
  home = cloud.homes[0]
  (home / 'tmp' / 'libtpu_lockfile').mkdir(parents=True)  # which rm -f cannot remove
  pages = home / 'sys' / 'kernel' / 'mm' / 'transparent_hugepage' / 'enabled'
  pages.parent.mkdir(parents=True)
  pages.write_text('always [madvise] never\n')
  cloud('run', *cloud.flags())
  assert not (home / 'tmp' / 'libtpu_lockfile').exists() and pages.read_text() == 'always\n'
  cloud('stop')
  (home / 'tmp' / 'libtpu_lockfile').mkdir()
  sudo.write_text('#!/bin/sh\nexit 1\n')
  assert "another user's, and has to go" in cloud.start('run', *cloud.flags()).communicate(timeout=60)[0]


def test_wait(cloud):
  cloud.states('ACCEPTED', 'ACCEPTED', 'PROVISIONING', 'ACTIVE')
  assert cloud('wait').splitlines() == ['pod: ACCEPTED', 'pod: PROVISIONING', 'pod: ACTIVE']


@pytest.mark.parametrize('state', ['FAILED', 'SUSPENDED', 'SUSPENDING', 'NONE'])
def test_wait_ends_at_once_where_nothing_will_come(cloud, state):
  cloud.states('ACCEPTED', state)
  cloud('wait', code=1)


def test_wait_is_bounded(cloud):
  cloud.states('WAITING_FOR_RESOURCES')
  assert 'still WAITING_FOR_RESOURCES after 1 s' in cloud('wait', '--timeout=1', code=1)


def test_setup_ships_the_commit_once(cloud):
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


def test_setup_refuses_what_is_not_committed(cloud):
  (cloud.project / 'new.py').write_text('')
  assert 'not all is committed' in cloud.refused('setup')
  assert not cloud.calls()
  cloud('setup', '--allow-dirty')
  assert not (cloud.homes[0] / 'dvd_gan_pod' / 'current' / 'new.py').exists()


def test_a_half_made_environment_is_never_used(cloud):
  (cloud.homes[1] / 'no-network').touch()
  cloud('setup', code=1)
  assert 'is not set up' in cloud.refused('run', *cloud.flags())
  (cloud.homes[1] / 'no-network').unlink()
  cloud('setup')
  assert [len((home / 'installed').read_text().splitlines()) for home in cloud.homes] == [1, 2]


def test_run_needs_setup_of_this_commit(cloud):
  assert 'is not set up' in cloud.refused('run', *cloud.flags())
  cloud('setup')
  commit(cloud.project)
  assert 'is not set up' in cloud.refused('run', *cloud.flags())


@pytest.mark.parametrize('broken', [False, True])
def test_run_starts_one_process_a_vm_with_the_exact_flags(cloud, broken):
  cloud('setup')
  if broken:
    (cloud.folder / 'broken-connections').touch()
  odd = ['--config.sample.classes=(1,2)', '--a= two  spaces ', '--b=it\'s "$HOME" `id` \\ * ~ ; & | !', '--c=', 'ä\n-']
  cloud('run', *cloud.flags(), *odd)
  for home in cloud.homes:
    flags = until(lambda home=home: (home / 'flags').exists() and (home / 'flags').read_bytes())
    assert flags.decode().split('\0')[:-1] == ['-m', 'dvd_gan.main', *cloud.flags()[2:], *odd]
  assert cloud.starts() == [1, 1] and len(cloud.alive()) == 2


def test_a_second_run_is_refused_and_the_first_left_alone(cloud):
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  assert 'alive on worker 0,1' in cloud.refused('run', *cloud.flags())
  assert cloud.starts() == [1, 1] and len(cloud.alive()) == 2
  cloud('stop')
  cloud('run', *cloud.flags())
  until(lambda: cloud.starts() == [2, 2])


def test_run_frees_the_device_of_a_dead_run(cloud):
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


def test_status_logs_and_ssh(cloud):
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


def test_a_vm_started_anew_has_no_live_run(cloud):
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  end(cloud.homes[1])
  lines = cloud('status').splitlines()
  assert 'worker 0: running' in lines[1] and 'worker 1: died without an exit code' in lines[2]
  assert 'alive on worker 0;' in cloud.refused('run', *cloud.flags())


def test_stop_saves_and_records_42(cloud):
  cloud.fate('slow')
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  (cloud.folder / 'broken-connections').touch()  # a second signal would end it unsaved
  assert cloud('stop').count('exited with code 42 (stop asked for)') == 2
  assert cloud.codes() == [42, 42] and not cloud.alive()
  assert [(home / 'signals').read_text() for home in cloud.homes] == ['TERM\n', 'TERM\n']
  cloud('stop')


def test_stop_kills_only_by_force(cloud):
  cloud.fate('deaf')
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  assert '--force' in cloud('stop', '--timeout=1', code=1)
  assert len(cloud.alive()) == 2
  cloud('stop', '--timeout=0', '--force')
  assert cloud.codes() == [137, 137] and not cloud.alive()


def test_delete(cloud):
  cloud('delete')
  assert {'--force', '--quiet'} <= set(cloud.calls('delete')[0])
  assert 'there is none' in cloud('delete')
  assert len(cloud.calls('delete')) == 1


def test_babysit_brings_a_preempted_run_to_its_end(cloud):
  cloud.states('NONE')
  process = cloud.start('babysit', '--spot', *cloud.flags())
  until(lambda: len(list(cloud.workdir.glob('saved-*'))) == 2)
  before = cloud.git('rev-parse', 'HEAD')
  cloud.git('commit', '--quiet', '--allow-empty', '--message=work goes on')  # the run keeps the code that it began with
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


def test_babysit_starts_again_after_a_saved_stop_that_nobody_asked_for(cloud):
  process = cloud.start('babysit', *cloud.flags())
  until(lambda: cloud.starts() == [1, 1])
  for pid in cloud.alive():
    os.kill(pid, signal.SIGTERM)
  until(lambda: cloud.starts() == [2, 2])
  cloud.enough()
  out, error = process.communicate(timeout=120)
  assert process.returncode == 0, (out, error)
  assert not cloud.calls('create')


def test_babysit_ends_with_a_stop_that_somebody_asked_for(cloud):
  process = cloud.start('babysit', *cloud.flags())
  until(lambda: cloud.starts() == [1, 1])
  cloud('stop')
  process.communicate(timeout=120)
  assert process.returncode == 42 and cloud.starts() == [1, 1]


def test_babysit_gives_up_after_crashes_without_a_new_step(cloud):
  cloud.fate('crash 3')
  error = cloud('babysit', *cloud.flags(), code=1, MAX_CRASHES='2')
  # The first one made new steps.
  assert cloud.starts() == [3, 3]
  assert error.splitlines()[-1] == ('error: 2 crashes in a row without a new step: exit code 1: RuntimeError: it broke')


def test_babysit_goes_on_while_there_is_progress(cloud):
  cloud.fate('crash-after-save')
  cloud('babysit', *cloud.flags(12), MAX_CRASHES='1')
  assert cloud.starts() == [3, 3] and cloud.codes() == [0, 0]


def test_babysit_gives_up_on_a_slice_that_never_comes(cloud):
  cloud.states('NONE', *['NONE', 'FAILED', 'FAILED'] * 5)
  stub = cloud.folder / 'bin' / 'gcloud'
  stub.write_text(stub.read_text().replace('echo ACTIVE >states', 'exit 1'))
  assert '3 crashes' in cloud('babysit', *cloud.flags(), code=1, MAX_CRASHES='3')


@pytest.mark.parametrize('of', ['', '-t1v-n-0a1b2c3d-w-1'])
def test_babysit_ends_at_once_with_a_usage_error(cloud, of):
  cloud.fate('usage', of)
  assert cloud('babysit', *cloud.flags(), code=2).splitlines()[-1] == 'error: no config of that name'
  assert cloud.starts() == [1, 1] and not cloud.alive()


def test_babysit_ends_the_rest_of_a_broken_run(cloud):
  process = cloud.start('babysit', *cloud.flags(), GRACE_SECONDS='0')
  until(lambda: cloud.starts() == [1, 1])
  end(cloud.homes[1])
  until(lambda: cloud.starts() == [2, 2])
  assert len(cloud.alive()) == 2
  cloud('stop')
  process.communicate(timeout=120)
  assert process.returncode == 42


def test_babysit_takes_over_its_own_run_and_no_other(cloud):
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


def test_a_run_that_hangs_says_where_and_is_started_again(cloud):
  """The real program on the one VM of a slice."""
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
