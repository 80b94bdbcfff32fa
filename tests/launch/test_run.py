"""Commands of launch/tpu_pod.sh about a run: setup, run, status, logs, ssh and stop."""

import shutil
import signal

import pytest

from tests.launch.cloud import FLAGS, commit, end, newest, until


@pytest.mark.parametrize('command', ['run', 'babysit'])
def test_a_workdir_on_the_disk_of_a_vm_is_refused(cloud, command):
  for flags in (['--workdir=/home/me/run'], ['--workdir', 'run'], ['-workdir=run']):
    assert 'is lost with the VMs' in cloud.refused(command, '--', *FLAGS, *flags)
  assert not cloud.calls()


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
  (home / 'tmp').mkdir()
  (home / 'tmp' / 'libtpu_lockfile').touch()
  stranger = cloud.hold_device(0)
  assert 'not started' in cloud('run', *cloud.flags(), code=1)
  assert stranger.poll() is None and (home / 'tmp' / 'libtpu_lockfile').exists()
  stranger.kill()
  stranger.wait()
  cloud('stop')

  ours = cloud.hold_device(0, DVD_GAN_RUN='x')
  cloud('run', *cloud.flags())
  assert ours.wait(timeout=10) == -signal.SIGKILL and not (home / 'tmp' / 'libtpu_lockfile').exists()


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


def test_logs_are_copied_to_the_bucket_of_the_workdir(cloud):
  cloud('setup')
  cloud('run', '--', *FLAGS, '--workdir', 'gs://b/run', '--workdir=gs://b/run', '--config.train.steps=120')
  run = until(lambda: newest(cloud.homes[1]))
  copy = cloud.folder / f'bucket-gs:__b_run_logs_{run}_worker-1.log'
  until(copy.exists)  # while the run continues
  assert 'done' not in copy.read_text() and cloud.codes() == [None, None]
  until(lambda: 'done: 120 steps' in copy.read_text())


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


def test_status_run_and_stop_name_an_unreachable_vm_and_still_handle_the_other(cloud):
  cloud.run()
  until(lambda: cloud.starts() == [1, 1])
  (cloud.folder / '1-is-dead').touch()
  lines = cloud('status').splitlines()
  assert 'worker 0: running' in lines[1] and lines[2] == 'worker 1: does not answer'
  assert 'worker 1 does not answer' in cloud('run', *cloud.flags(), code=1)
  stopped = cloud('stop', code=1)
  assert 'worker 1 does not answer; what runs there may go on' in stopped and cloud.codes() == [42, None]


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
