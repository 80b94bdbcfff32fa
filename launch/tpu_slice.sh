# Sourced by tpu_pod.sh: asks gcloud about a slice and its VMs.
# shellcheck shell=bash disable=SC2154  # the settings are tpu_pod.sh's

# A VM that is gone does not answer; without these a look at it takes 20 minutes, for gcloud tries ten times.
patient_ssh=(-oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=4)
script=dvd_gan_pod/current/launch/tpu_worker.sh  # on the VM

queued() { call gcloud "${alpha[@]}" compute tpus queued-resources "$1" "$name" "${@:2}" "${where[@]}"; }

tpu_vm() {  # tpu_vm ssh|scp ARGUMENTS: with the flags of gcloud itself, and those of ssh in the form that it takes
  local flag flags=() track=("${alpha[@]}")
  for flag in "${patient_ssh[@]}" "${ssh_flags[@]}"; do
    case $flag in
      --tunnel-through-iap) track=(alpha) flags+=("$flag") ;; # only the alpha commands can (gcloud 528)
      --ssh-flag=* | --scp-flag=*) flags+=("--$1-flag=${flag#*=}") ;;
      --*) flags+=("$flag") ;;
      *) flags+=("--$1-flag=$flag") ;;
    esac
  done
  call gcloud "${track[@]}" compute tpus tpu-vm "$@" "${where[@]}" "${flags[@]}"
}

node() { call gcloud compute tpus tpu-vm describe "$name" --format="value($1)" "${where[@]}"; }

# State of the queued resource, or NONE. Under an ACTIVE one the VMs may be in trouble: then their state (PREEMPTED,
# TERMINATED, REPAIRING, ...) or health (UNHEALTHY_MAINTENANCE, ...).
state() {
  local found vms health
  if found=$(queued describe --format='value(state.state)' 2>"$errors"); then
    found=${found:-NONE}
  elif grep -q NOT_FOUND "$errors"; then
    found=NONE
  else
    cat "$errors" >&2
    return 1
  fi
  if [[ $found == ACTIVE ]]; then
    if vms=$(node state,health 2>"$errors"); then
      read -r vms health <<<"$vms"
      [[ $vms == READY || ! $vms ]] || found=$vms
      [[ $vms != READY || ! $health =~ ^(UNHEALTHY_.*|TIMEOUT)$ ]] || found=UNHEALTHY_${health#UNHEALTHY_}
    elif grep -q NOT_FOUND "$errors"; then
      found=TERMINATED
    else
      cat "$errors" >&2
      return 1
    fi
  fi
  echo "$found"
}

is_lost() { [[ $1 =~ ^(NONE|SUSPENDING|SUSPENDED|DELETING|PREEMPTED|TERMINATED)$ ]]; }  # is_lost STATE
is_ill() { [[ $1 =~ ^(UNHEALTHY_.*|UNKNOWN|REPAIRING|RESTARTING|REIMAGING|STARTING|STOPPING|STOPPED)$ ]]; }

patience() {  # patience STATE [LINES]: seconds before a slice in that STATE is given up; LINES is the output of collect
  # Where no VM answers, it may well be this machine's ssh. Where one is silent and others run, the silent one runs too:
  # a process that is gone ends the others.
  if [[ $1 == UNHEALTHY_MAINTENANCE || $1 == REPAIRING ]] ||
    { ! is_ill "$1" && [[ ${2-} ]] && { [[ $2 == *'|running|'* ]] || ! grep -qv '|unreachable|' <<<"$2"; }; }; then
    echo "${MAINTENANCE_SECONDS:-7200}"
  else
    echo "${UNREACHABLE_SECONDS:-900}"
  fi
}

reason() { queued describe --format='value(state.failedData.error.message)' 2>/dev/null || true; }  # of a FAILED one

is_offline() {  # is_offline FILE: whether what gcloud said passes by itself or by a login: no network, an API that is down
  grep -qiE 'unable to find the server|resolve|name resolution|name or service|nodename nor servname|is unreachable|'\
'connection (reset|refused|aborted)|connectionerror|timed out|max retries|auth tokens|reauthentication|invalid_grant|'\
'do not currently have an active account|httperror (429|5..)|unavailable|internal error|deadline.exceeded' "$1"
}

on() {  # on WORKER COMMAND, a number or all; what gcloud and ssh say is only of interest where it failed
  # Never a list of workers, which can lose a failure, and no --output-directory, which is broken (gcloud 528).
  if ! tpu_vm ssh "$name" --worker="$1" --command="$2" </dev/null 2>"$errors"; then
    cat "$errors" >&2
    return 1
  fi
}

collect() {  # a line for each VM, as tpu_worker.sh's status says it; N|0|unreachable|||||| for one that does not answer
  local lines count number
  if lines=$(on all "if [ -e $script ]; then bash $script status $commit; \
else echo \"\${HOSTNAME##*-w-}|0|never||||||\"; fi" 2>"$said"); then
    sort -n <<<"$lines"
    return
  fi
  # Where gcloud cannot be asked at all, it is not the VMs that do not answer.
  if ! count=$(node 'networkEndpoints.len()' 2>"$errors") || [[ ! $count =~ ^[1-9][0-9]*$ ]]; then
    cat "$said" >&2
    return 1
  fi
  for ((number = 0; number < count; number++)); do
    grep "^$number|" <<<"$lines" || echo "$number|0|unreachable||||||"
  done
}

vms_that_are() {  # vms_that_are STATE LINES: their numbers in what collect said
  awk -F'|' -v state="$1" '$3 == state { printf "%s%s", sep, $1; sep = "," }' <<<"$2"
}

set_up() { ! grep -qv '^[^|]*|1|' <<<"$1"; }  # whether all VMs have this commit, in what collect said

show() {  # what collect said, for people
  local number state code run asked text
  while IFS='|' read -r number _ state code run asked _ text; do
    case $state in
      never) state='never started' ;;
      exited) state="exited with code $code" ;;
      died) state='died without an exit code' ;;
      unreachable) state='does not answer' ;;
    esac
    [[ $asked != 1 ]] || state+=' (stop asked for)'
    echo "worker $number: $state${run:+, run $run}${text:+: $text}"
  done <<<"$1"
}

check_zone() {  # refuses a type that does not exist, or not in this zone
  local list=(gcloud compute tpus accelerator-types)
  call "${list[@]}" describe "$type" "${where[@]}" >/dev/null 2>"$errors" || ! grep -q NOT_FOUND "$errors" ||
    usage "$zone has no $type, but $("${list[@]}" list --format='value(type)' "${where[@]}" 2>/dev/null |
      sort -V | tr '\n' ' ')"
}

check_same() {  # refuses a slice that is there and is another one than is asked for
  local there field wanted found
  there=$(queued describe --format=json 2>/dev/null) || return 0
  while read -r field wanted; do
    found=$(sed -n "s/.*\"$field\": \"\(.*\)\".*/\1/p" <<<"$there" | head -n 1)
    [[ ! $found || $found == "$wanted" ]] ||
      usage "$name exists with $field $found, not $wanted: ask for that, or take another --name"
  done <<<"acceleratorType $type
runtimeVersion $image"
  case $(grep -c '"spot":' <<<"$there"):${#spot[@]} in
    1:0) usage "$name exists and is spot: add --spot, or take another --name" ;;
    0:1) usage "$name exists and is not spot: leave --spot out, or take another --name" ;;
  esac
}
