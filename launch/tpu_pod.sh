#!/usr/bin/env bash
# Cloud TPU slices from nothing to a trained model and back; bash launch/tpu_pod.sh --help
set -euo pipefail
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || { echo "error: bash 4.4 or newer is needed" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=${TPU_REPOSITORY:-${here%/*}}
# shellcheck source=launch/tpu_types.sh
source "$here/tpu_types.sh"
# shellcheck source=launch/tpu_workdir.sh
source "$here/tpu_workdir.sh"
# shellcheck source=launch/tpu_slice.sh
source "$here/tpu_slice.sh"
# shellcheck source=launch/tpu_babysit.sh
source "$here/tpu_babysit.sh"

help() {
  cat <<'END'
bash launch/tpu_pod.sh COMMAND [OPTIONS] [-- FLAGS]

  create            requests the slice as a queued resource; keeps one that exists, replaces a preempted or failed one
  wait              until the slice is ACTIVE
  setup             copies this commit to every VM and installs it there, if that was not done before
  run -- FLAGS      starts python -m dvd_gan.main FLAGS on every VM, detached
  status            the slice; for each VM running or how it ended; the newest step (worker 0 prints it)
  logs              the end of one VM's log
  stop              SIGTERM: the run saves a checkpoint and ends with 42
  ssh [-- COMMAND]  a shell, or a command, on one VM or all
  delete            the slice and its VMs; costs end here
  babysit -- FLAGS  create, wait, setup and run; restarts after preemptions, crashes and hangs, until the run is done

  --name=NAME       TPU_NAME      of the slice
  --zone=ZONE       TPU_ZONE
  --project=ID      TPU_PROJECT   by default gcloud's configured project
  --type=TYPE       TPU_TYPE      v2-N, v3-N, v4-N, v5p-N (cores), v5litepod-N, v6e-N (chips)
  --spot            TPU_SPOT=1    cheaper; may be taken away at any time
  --runtime=IMAGE   TPU_RUNTIME   another runtime than the type's (launch/README.md)
  --timeout=SECONDS TPU_TIMEOUT   wait: 21600, in babysit 604800; stop: 300
  --worker=N        ssh, logs: number of the VM, 0 by default; ssh also takes all
  --lines=N         logs: how many, 50
  --follow          logs: goes on until the run ends
  --force           stop: SIGKILL, unsaved, where SIGTERM was not enough
  --allow-dirty     setup: leaves out what is not committed
  --dry-run         prints the commands and runs none

  --create-flag=F   one more flag for gcloud's create, such as --network=NET; may be given again
  --ssh-flag=F      one more flag for gcloud's ssh and scp (--internal-ip, --tunnel-through-iap), or for ssh and scp
                    themselves (-oPort=22); may be given again
  --alpha           gcloud's alpha commands, for flags that only they have (--create-flag=--autocheckpoint-enabled)
  --shared-workdir  run, babysit: the local --workdir is a disk that outlives the slice and that all VMs share

  TPU_CREATE_FLAGS, TPU_SSH_FLAGS   several such flags, separated by spaces
  POLL_SECONDS      seconds between two checks, 30
  babysit, in seconds but MAX_CRASHES:
    BACKOFF_SECONDS 10        before the first restart; doubled each time, up to BACKOFF_MAX 600
    MAX_CRASHES 5             gives up after so many crashes without passing the furthest step so far
    GRACE_SECONDS 300         once the run has ended on one VM, for the others to end by themselves
    STALL_SECONDS             without a new step: restart; by default ten times the longest pause, from 1800 to 7200
    START_SECONDS 7200        before the first step, without a new line in worker 0's log: restart
    UNREACHABLE_SECONDS 900   a VM is silent and no other runs, or the slice is unhealthy without steps: another slice
    MAINTENANCE_SECONDS 7200  the same in maintenance, or where no VM answers, or where others run
    STOCKOUT_SECONDS 1800     before the next request where there is no capacity

Exit codes: 0 done; 2 a mistake, in one line; 42 babysit: a person stopped it or deleted the slice; 1 anything else.
END
}

fail() { echo "error: $1" >&2; exit 1; }
usage() { echo "error: $1" >&2; exit 2; }

quoted() {  # words as a shell reads them back, quoted only where they must be
  local word out=()
  for word; do
    [[ $word =~ ^[a-zA-Z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    out+=("$word")
  done
  echo "${out[*]}"
}

call() {  # runs a command, or only prints it
  if [[ $dry_run ]]; then
    quoted "$@" >&3
  else
    "$@" 3>&-
  fi
}

say() { [[ $dry_run ]] || echo "$1"; }

cmd_create() {
  local found deadline=$((SECONDS + timeout))
  found=$(state)
  while [[ $found == SUSPENDING || $found == DELETING ]]; do
    ((SECONDS < deadline)) || fail "$name is still $found after $timeout s"
    sleep "$poll"
    found=$(state)
  done
  case $found in
    NONE) ;;
    SUSPENDED | FAILED | PREEMPTED | TERMINATED)
      [[ $found != FAILED ]] || found="FAILED ($(reason))"
      echo "$name is $found, which is final: deleting it"
      queued delete --force --quiet
      ;;
    *)
      check_same
      echo "$name is there: $found"
      return
      ;;
  esac
  check_zone
  queued create --node-id="$name" --accelerator-type="$type" --runtime-version="$image" \
    "${spot[@]}" "${create_flags[@]}"
  say "$name: asked for $type ($vms VMs)"
  [[ " ${create_flags[*]} " != *" --internal-ips "* ]] ||
    say "without external addresses setup needs Cloud NAT, for it installs packages"
}

cmd_wait() {
  local found last='' away='' since=$SECONDS deadline=$((SECONDS + timeout))
  while :; do
    # The first look fails for a reason that will not go away; a later one may.
    if ! found=$(state 2>"$said"); then
      [[ $last ]] || { cat "$said" >&2; exit 1; }
      [[ $away ]] || echo "$name: gcloud cannot be used, waiting: $(head -n 1 "$said")"
      away=1 found=$last
    else
      away=''
    fi
    [[ ! $dry_run ]] || return 0
    [[ $found == "$last" ]] || { echo "$name: $found"; since=$SECONDS; }
    last=$found
    case $found in
      ACTIVE) return ;;
      NONE) fail "$name: there is none; create it first" ;;
      FAILED) fail "$name will not come: FAILED: $(reason)" ;;
    esac
    ! is_lost "$found" || fail "$name will not come: $found; create requests it again"
    ! is_ill "$found" || ((SECONDS - since < $(patience "$found"))) || fail "$name has been $found for $((SECONDS - since)) s; delete and create it"
    ((SECONDS < deadline)) || fail "$name is still $found after $timeout s"
    sleep "$poll"
  done
}

refuse_dirty() {
  local dirty
  dirty=$(git -C "$repository" status --porcelain)
  [[ ! $dirty || $allow_dirty ]] || usage "not all is committed in $repository; commit it, or leave it out with --allow-dirty"
}

cmd_setup() {
  local date lines archive=$scratch/dvd_gan-$commit.tar.gz
  refuse_dirty
  lines=$(collect)
  if [[ ! $dry_run ]] && set_up "$lines"; then
    say "$commit is set up on all VMs"
    return
  fi
  date=$(git -C "$repository" log -1 --format=%cI "$commit" -- "$repository/setup.py")
  call git -C "$repository" archive --format=tar.gz --output="$archive" "$commit"
  say "shipping $commit; the first environment takes minutes"
  tpu_vm scp "$archive" "$name:" --worker=all 2>"$errors" || fail "copying failed: $(<"$errors")"
  on all "tar -xzOf dvd_gan-$commit.tar.gz launch/tpu_worker.sh >dvd_gan_worker.sh && \
bash dvd_gan_worker.sh setup $commit $date" || fail "setup failed, see above; repeat it, and it continues where it ended"
  say "$commit is set up on all VMs"
}

check_workdir() {
  local workdir
  workdir=$(workdir_in "${rest[@]}")
  [[ ! $workdir || $workdir == gs://* || $shared ]] || usage "--workdir=$workdir is lost with the VMs: take a gs:// path; \
with --shared-workdir it is a disk that outlives them and that all share"
}

cmd_run() {
  local lines alive silent run
  ((${#rest[@]})) || usage "flags of dvd_gan.main are needed: run -- --mode=train --config=... --workdir=gs://..."
  check_workdir
  lines=$(collect)
  silent=$(vms_that_are unreachable "$lines")
  [[ ! $silent ]] || fail "worker $silent does not answer; if it stays so, delete and create the slice"
  alive=$(vms_that_are running "$lines")
  [[ ! $alive ]] || usage "a run is alive on worker $alive; babysit with its flags watches it, stop ends it"
  [[ $dry_run ]] || set_up "$lines" || usage "$commit is not set up on all VMs; setup first"
  # Made once: a request that ssh repeats is known by it, and babysit knows its run.
  run=${TPU_RUN:-$(new_run)}
  on all "bash $script start $run $(quoted "${rest[@]}")" ||
    fail "not started on every VM: see status, then stop --force and run again"
  say "run $run is alive on all VMs"
}

new_run() { echo "$(date -u +%Y%m%d-%H%M%S)-$BASHPID-$(flags_sum)"; }  # in a process of its own, $(new_run)

flags_sum() { quoted "${rest[@]}" | cksum | cut -d' ' -f1; }

cmd_status() {
  local found lines
  found=$(state)
  say "$name: $found"
  if [[ $found == ACTIVE || $dry_run ]] || is_ill "$found"; then
    lines=$(collect)
    [[ $dry_run ]] || show "$lines"
  fi
}

cmd_logs() { on "$worker" "bash $script logs $lines_wanted $follow"; }

cmd_stop() {
  local lines alive silent deadline=$((SECONDS + timeout))
  on all "[ ! -e $script ] || bash $script stop TERM ${TPU_STOPPER-}" 2>"$said" || true # who did not hear is said below
  [[ ! $dry_run ]] || return 0
  while :; do
    lines=$(collect)
    alive=$(vms_that_are running "$lines")
    [[ $alive ]] || break
    if ((SECONDS >= deadline)); then
      [[ $force ]] || fail "worker $alive still runs after $timeout s; --force ends it unsaved"
      on all "[ ! -e $script ] || bash $script stop KILL ${TPU_STOPPER-}" 2>"$said" || true
      deadline=$((SECONDS + 60)) force=''
    fi
    sleep "$poll"
  done
  show "$lines"
  silent=$(vms_that_are unreachable "$lines")
  [[ ! $silent ]] || fail "worker $silent does not answer; what runs there may go on"
}

cmd_ssh() {
  local command=()
  # Like ssh itself: the words are joined and the VM's shell reads them.
  ((!${#rest[@]})) || command=(--command="${rest[*]}")
  [[ $worker != all || ${command[*]} ]] || usage "--worker=all needs a command: ssh --worker=all -- COMMAND"
  tpu_vm ssh "$name" --worker="$worker" "${command[@]}"
}

cmd_delete() {
  local found
  found=$(state)
  [[ $found != NONE || $dry_run ]] || { echo "$name: there is none"; return; }
  queued delete --force --quiet
  say "$name: deleted"
}

command=${1:---help}
case $command in
  -h | --help | help) help; exit ;;
  create | wait | setup | run | status | logs | stop | ssh | delete | babysit) shift ;;
  *) usage "no command $command: create, wait, setup, run, status, logs, stop, ssh, delete, babysit; or --help" ;;
esac

name=${TPU_NAME-} zone=${TPU_ZONE-} project=${TPU_PROJECT-} type=${TPU_TYPE-} runtime=${TPU_RUNTIME-}
timeout=${TPU_TIMEOUT-} worker=0 lines_wanted=50 follow='' force='' allow_dirty='' dry_run=${TPU_DRY_RUN-} shared=''
spot=() rest=() alpha=() poll=${POLL_SECONDS:-30}
read -ra create_flags <<<"${TPU_CREATE_FLAGS-}"
read -ra ssh_flags <<<"${TPU_SSH_FLAGS-}"
[[ ${TPU_SPOT:-0} == 0 ]] || spot=(--spot)
while (($#)); do
  case $1 in
    --) rest=("${@:2}"); break ;;
    --name=* | --zone=* | --project=* | --type=* | --runtime=* | --timeout=* | --worker=* | --lines=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    --name | --zone | --project | --type | --runtime | --timeout | --worker | --lines)
      [[ ${2-} ]] || usage "$1 needs a value"
      case $1 in
        --name) name=$2 ;;
        --zone) zone=$2 ;;
        --project) project=$2 ;;
        --type) type=$2 ;;
        --runtime) runtime=$2 ;;
        --timeout) timeout=$2 ;;
        --worker) worker=$2 ;;
        --lines) lines_wanted=$2 ;;
      esac
      shift 2
      continue
      ;;
    --create-flag=*) create_flags+=("${1#*=}") ;;
    --ssh-flag=*) ssh_flags+=("${1#*=}") ;;
    --alpha) alpha=(alpha) ;;
    --shared-workdir) shared=1 ;;
    --spot) spot=(--spot) ;;
    --follow) follow=follow ;;
    --force) force=1 ;;
    --allow-dirty) allow_dirty=1 ;;
    --dry-run) dry_run=1 ;;
    -h | --help) help; exit ;;
    --node-count* | --node-prefix* | --num-slices*)
      usage "$1: several slices in one run are not supported; take one larger slice" ;;
    *) usage "unknown option $1; flags of dvd_gan.main come after --" ;;
  esac
  shift
done

[[ $name ]] || usage "--name=NAME or TPU_NAME is missing"
[[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
  usage "--name=$name: lower-case letters, digits and hyphens, a letter first, 63 at most"
[[ $zone ]] || usage "--zone=ZONE or TPU_ZONE is missing"
[[ $command =~ ^(run|ssh|babysit)$ || ${#rest[@]} == 0 ]] || usage "$command takes nothing after --"
[[ $worker =~ ^[0-9]+$ || ($worker == all && $command == ssh) ]] ||
  usage "--worker=$worker is not the number of one VM; only ssh takes all"
[[ $timeout =~ ^[0-9]*$ && $lines_wanted =~ ^[0-9]+$ ]] || usage "--timeout and --lines are whole numbers"
case $command in
  stop) timeout=${timeout:-300} ;;
  babysit) timeout=${timeout:-604800} ;;
  *) timeout=${timeout:-21600} ;;
esac
if [[ $command =~ ^(create|babysit)$ ]]; then
  [[ $type ]] || usage "--type=TYPE or TPU_TYPE is missing"
  tpu_type "$type"
  image=${runtime:-$image}
fi
[[ $dry_run ]] || command -v gcloud >/dev/null || fail "gcloud is not installed"

where=(--zone="$zone" ${project:+--project="$project"})
commit=${TPU_COMMIT-}  # babysit's own
[[ $commit ]] || commit=$(git -C "$repository" rev-parse HEAD 2>/dev/null) || commit=none
[[ $commit != none || ! $command =~ ^(setup|run|babysit)$ ]] || usage "$command ships a commit, and this is no git clone"
exec 3>&1
if [[ $dry_run ]]; then
  scratch=${TMPDIR:-/tmp} errors=/dev/null said=/dev/null
else
  scratch=$(mktemp -d) errors=$scratch/errors said=$scratch/said
  trap 'rm -rf "$scratch"' EXIT
fi
"cmd_$command"
