"""A stub of gcloud and of two VMs, for tests of launch/tpu_pod.sh."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

from tests.conftest import ROOT

STUBS = ROOT / 'tests'
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
    shutil.copy(STUBS / 'stub_gcloud.sh', folder / 'bin' / 'gcloud')
    shutil.copytree(STUBS / 'stub_vm', folder / 'fake')
    shutil.copy(STUBS / 'stub_vm' / 'python3', folder / 'bin')
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
    self._write('states', states)

  def nodes(self, *nodes):
    """Sets the state and health of the VMs that successive `describe` calls return."""
    self._write('nodes', nodes)

  def _write(self, name, lines):
    new = self.folder / f'{name}.new'
    new.write_text('\n'.join(lines) + '\n')
    new.replace(self.folder / name)  # a running stub reads the old file or the new one

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
    files = [home / 'dvd_gan_pod' / 'runs' / newest(home) / 'exit_code' for home in self.homes]
    return [int(file.read_text()) if file.exists() else None for file in files]

  def alive(self):
    """Process ids of the started programs that still run."""
    pids = [int(pid) for home in self.homes for pid in (home / 'started').read_text().split()]
    return [pid for pid in pids if processes_in(self.folder).get(pid)]

  def hold_device(self, number, **environment):
    """Starts a process that holds the device of a VM."""
    home = self.homes[number]
    (home / 'dev').mkdir(exist_ok=True)
    (home / 'dev' / 'accel0').touch()
    process = subprocess.Popen(
      ['bash', '-c', 'exec 7<dev/accel0; sleep 600'],
      cwd=home,
      env={'HOME': str(home), 'PATH': os.environ['PATH']} | environment,
      start_new_session=True,
    )
    self.waiting.append(process)
    until(pathlib.Path(f'/proc/{process.pid}/fd/7').exists)
    return process

  def preempt(self):
    """Preempts the slice: it is suspended and all its processes are killed.

    gcloud fails meanwhile. Otherwise babysit may read the state before and the processes after the preemption.
    """
    offline = self.folder / 'offline'
    offline.write_text('HTTPError 503: x')
    before = len(self.calls())
    until(lambda: len(self.calls()) > before + 1)
    self.states('SUSPENDED')
    for home in self.homes:
      end(home)
    offline.unlink()

  def close(self):
    for process in self.waiting:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    end(self.folder)


def newest(home):
  """The name of the newest run on a VM; empty if there is none."""
  file = home / 'dvd_gan_pod' / 'newest'
  return file.read_text().strip() if file.exists() else ''


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


def git(project, *arguments):
  """Runs git in a project with a fixed identity; returns its output."""
  who = ['-c', 'user.name=a', '-c', 'user.email=a@b', '-c', 'commit.gpgsign=false']
  return subprocess.check_output(['git', '-C', project, *who, *arguments], text=True).strip()


def commit(project):
  """Commits all changes and returns the hash."""
  git(project, 'add', '--all')
  git(project, 'commit', '--quiet', '--allow-empty', '--message=x')
  return git(project, 'rev-parse', 'HEAD')
