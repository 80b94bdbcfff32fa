"""Commands of launch/tpu_pod.sh about the slice, and its options: the calls of gcloud."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.launch.cloud import STUBS


def test_shell_scripts_pass_shellcheck():
  scripts = [*(ROOT / 'launch').glob('*.sh'), *STUBS.glob('*.sh'), *(STUBS / 'stub_vm').iterdir(), ROOT / '.ci' / 'run']
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


def test_delete_deletes_the_slice_and_reports_if_there_is_none(cloud):
  cloud('delete')
  assert {'--force', '--quiet'} <= set(cloud.calls('delete')[0])
  assert 'there is none' in cloud('delete')
  assert len(cloud.calls('delete')) == 1
