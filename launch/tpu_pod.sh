#!/usr/bin/env bash
# Cloud TPU slices from nothing to a trained model and back; bash launch/tpu_pod.sh --help
set -euo pipefail
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || { echo "error: bash 4.4 or newer is needed" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/tpu_types.sh
source "$here/tpu_types.sh"
# shellcheck source=launch/tpu_babysit.sh
source "$here/tpu_babysit.sh"

help() {
  cat <<'END'
bash launch/tpu_pod.sh COMMAND [OPTIONS] [-- FLAGS]

  create            asks for the slice as a queued resource; one that is there is left, a preempted one made anew
  wait              until the slice is ACTIVE
  setup             this commit and its environment on every VM; what is there already is left
  run -- FLAGS      starts python -m dvd_gan.main FLAGS on every VM, detached
  status            the slice, and for each VM whether the run is alive, how it ended, its newest step
  logs              the end of one VM's log
  stop              SIGTERM: the run saves a checkpoint and ends with 42
  ssh [-- COMMAND]  a shell, or a command, on one VM or all
  delete            the slice and its VMs; costs end here
  babysit -- FLAGS  all of it, again after every preemption or crash, until the run is done

  --name=NAME       TPU_NAME      of the slice
  --zone=ZONE       TPU_ZONE
  --project=ID      TPU_PROJECT   gcloud's own where it is missing
  --type=TYPE       TPU_TYPE      v2-N, v3-N, v4-N, v5p-N (cores), v5litepod-N, v6e-N (chips)
  --spot            TPU_SPOT=1    cheaper; may be taken away at any time
  --runtime=IMAGE   TPU_RUNTIME   where the type's own is not wanted
  --timeout=SECONDS TPU_TIMEOUT   wait: 21600, in babysit 604800; stop: 300
  --worker=N        ssh, logs: which VM, 0; ssh: or all
  --lines=N         logs: how many, 50
  --follow          logs: goes on until the run ends
  --force           stop: SIGKILL, unsaved, where SIGTERM was not enough
  --allow-dirty     setup: leaves out what is not committed
  --dry-run         prints the commands and runs none

  TPU_CREATE_FLAGS  more flags for gcloud's create, such as --network=NET --service-account=NAME
  TPU_SSH_FLAGS     more flags for gcloud's ssh and scp: --internal-ip, or --tunnel-through-iap
  POLL_SECONDS      between two looks, 30
  babysit: BACKOFF_SECONDS 10, doubled up to BACKOFF_MAX 600; MAX_CRASHES 5, in a row and without a new step;
           GRACE_SECONDS 300, for the other VMs to end by themselves once one has

Exit codes: 0 done, 2 a mistake told in one line, 42 (babysit) somebody else's stop, 1 anything else.
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

queued() { call gcloud compute tpus queued-resources "$1" "$name" "${@:2}" "${where[@]}"; }
tpu_vm() { call gcloud "${track[@]}" compute tpus tpu-vm "$@" "${where[@]}" "${ssh_flags[@]}"; }

state() {  # of the queued resource, or NONE
  local found
  if found=$(queued describe --format='value(state.state)' 2>"$errors"); then
    echo "${found:-NONE}"
  elif grep -q NOT_FOUND "$errors"; then
    echo NONE
  else
    cat "$errors" >&2
    return 1
  fi
}

on() {  # on WORKER COMMAND, a number or all; what gcloud and ssh say is only of interest where it failed
  # Never a list of workers, which can lose a failure, and no --output-directory, which is broken (gcloud 528).
  if ! tpu_vm ssh "$name" --worker="$1" --command="$2" </dev/null 2>"$errors"; then
    cat "$errors" >&2
    return 1
  fi
}

script=dvd_gan_pod/current/launch/tpu_worker.sh
collect() {  # a line for each VM, as tpu_worker.sh's status says it
  on all "if [ -e $script ]; then bash $script status $commit; else echo \"\${HOSTNAME##*-w-}|0|never||||||\"; fi" | sort -n
}

alive_on() {  # the VMs that are running in what collect said
  awk -F'|' '$3 == "running" { printf "%s%s", sep, $1; sep = "," }' <<<"$1"
}

set_up() { ! grep -qv '^[^|]*|1|' <<<"$1"; }  # whether all VMs have this commit, in what collect said

show() {  # what collect said, for people
  local number state code run asked text
  while IFS='|' read -r number _ state code run asked _ text; do
    case $state in
      never) state='never started' ;;
      exited) state="exited with code $code" ;;
      died) state='died without an exit code' ;;
    esac
    [[ $asked != 1 ]] || state+=' (stop asked for)'
    echo "worker $number: $state${run:+, run $run}${text:+: $text}"
  done <<<"$1"
}

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
    SUSPENDED | FAILED)
      echo "$name is $found, which is final: deleting it"
      queued delete --force --quiet
      ;;
    *)
      echo "$name is there: $found"
      return
      ;;
  esac
  queued create --node-id="$name" --accelerator-type="$type" --runtime-version="$image" \
    "${spot[@]}" "${create_flags[@]}"
  say "$name: asked for $type ($vms VMs)"
}

cmd_wait() {
  local found last='' deadline=$((SECONDS + timeout))
  while :; do
    # The first look fails for a reason that will not go away; a later one may.
    found=$(state) || { [[ $last ]] || exit 1; found=$last; }
    [[ ! $dry_run ]] || return 0
    [[ $found == "$last" ]] || echo "$name: $found"
    last=$found
    case $found in
      ACTIVE) return ;;
      NONE) fail "$name: there is none; create it first" ;;
      FAILED | SUSPENDED | SUSPENDING | DELETING) fail "$name will not come: $found" ;;
    esac
    ((SECONDS < deadline)) || fail "$name is still $found after $timeout s"
    sleep "$poll"
  done
}

refuse_dirty() {
  local dirty
  dirty=$(git -C "$here" status --porcelain)
  [[ ! $dirty || $allow_dirty ]] || usage "not all is committed; commit it, or leave it out with --allow-dirty"
}

cmd_setup() {
  local date lines archive=$scratch/dvd_gan-$commit.tar.gz
  refuse_dirty
  lines=$(collect)
  if [[ ! $dry_run ]] && set_up "$lines"; then
    say "$commit is set up on all VMs"
    return
  fi
  date=$(git -C "$here" log -1 --format=%cI "$commit" -- "$here/../setup.py")
  call git -C "$(cd "$here/.." && pwd)" archive --format=tar.gz --output="$archive" "$commit"
  say "shipping $commit; the first environment takes minutes"
  tpu_vm scp "$archive" "$name:" --worker=all 2>"$errors" || fail "copying failed: $(<"$errors")"
  on all "tar -xzOf dvd_gan-$commit.tar.gz launch/tpu_worker.sh >dvd_gan_worker.sh && \
bash dvd_gan_worker.sh setup $commit $date" || fail "setup failed; what is done will not be done again"
  say "$commit is set up on all VMs"
}

cmd_run() {
  local lines alive run
  ((${#rest[@]})) || usage "flags of dvd_gan.main are needed: run -- --mode=train --config=... --workdir=gs://..."
  lines=$(collect)
  alive=$(alive_on "$lines")
  [[ ! $alive ]] || usage "a run is alive on worker $alive; stop it first"
  [[ $dry_run ]] || set_up "$lines" || usage "$commit is not set up on all VMs; setup first"
  # Made here, once: a request that ssh repeats is known by it.
  run=$(date -u +%Y%m%d-%H%M%S)-$$-$(flags_sum)
  on all "bash $script start $run $(quoted "${rest[@]}")" ||
    fail "not started on every VM: see status, then stop --force and run again"
  say "run $run is alive on all VMs"
}

flags_sum() { quoted "${rest[@]}" | cksum | cut -d' ' -f1; }

cmd_status() {
  local found lines
  found=$(state)
  say "$name: $found"
  if [[ $found == ACTIVE || $dry_run ]]; then
    lines=$(collect)
    [[ $dry_run ]] || show "$lines"
  fi
}

cmd_logs() { on "$worker" "bash $script logs $lines_wanted $follow"; }

cmd_stop() {
  local lines alive deadline=$((SECONDS + timeout))
  on all "[ ! -e $script ] || bash $script stop TERM" || fail "not every VM could be reached"
  [[ ! $dry_run ]] || return 0
  while :; do
    lines=$(collect)
    alive=$(alive_on "$lines")
    [[ $alive ]] || break
    if ((SECONDS >= deadline)); then
      [[ $force ]] || fail "worker $alive still runs after $timeout s; --force ends it unsaved"
      on all "[ ! -e $script ] || bash $script stop KILL" || fail "not every VM could be reached"
      deadline=$((SECONDS + 60)) force=''
    fi
    sleep "$poll"
  done
  show "$lines"
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
timeout=${TPU_TIMEOUT-} worker=0 lines_wanted=50 follow='' force='' allow_dirty='' dry_run=${TPU_DRY_RUN-}
spot=() rest=() poll=${POLL_SECONDS:-30}
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
read -ra create_flags <<<"${TPU_CREATE_FLAGS-}"
read -ra ssh_flags <<<"${TPU_SSH_FLAGS-}"
# Only the alpha commands can tunnel (gcloud 528).
track=()
[[ " ${ssh_flags[*]} " != *" --tunnel-through-iap "* ]] || track=(alpha)
commit=${TPU_COMMIT-}  # babysit's own
[[ $commit ]] || commit=$(git -C "$here" rev-parse HEAD 2>/dev/null) || commit=none
[[ $commit != none || ! $command =~ ^(setup|run|babysit)$ ]] || usage "$command ships a commit, and this is no git clone"
exec 3>&1
if [[ $dry_run ]]; then
  scratch=${TMPDIR:-/tmp} errors=/dev/null
else
  scratch=$(mktemp -d) errors=$scratch/errors
  trap 'rm -rf "$scratch"' EXIT
fi
"cmd_$command"
