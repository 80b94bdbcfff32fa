# Sourced by tpu_pod.sh: a run kept going through preemptions and crashes.
# shellcheck shell=bash disable=SC2154  # the settings are tpu_pod.sh's

tell() { echo "$(date '+%F %T') $1"; }

# A process of its own, so that its errors end it and not this loop.
again() { "$BASH" "$here/tpu_pod.sh" "$@"; }

cmd_babysit() {
  local crashes=0 tries=0 best=0 before outcome why delay
  ((${#rest[@]})) || usage "flags of dvd_gan.main are needed: babysit -- --mode=train --config=... --workdir=gs://..."
  export TPU_NAME=$name TPU_ZONE=$zone TPU_PROJECT=$project TPU_TYPE=$type TPU_RUNTIME=$runtime
  export TPU_SPOT=${#spot[@]} TPU_DRY_RUN=$dry_run
  # A run lasts for days, and the clone changes: what it began with is shipped to every slice.
  refuse_dirty
  export TPU_COMMIT=$commit
  allow_dirty=1
  if [[ $dry_run ]]; then
    again create && again wait && again setup ${allow_dirty:+--allow-dirty} && again run -- "${rest[@]}" && again status
    return
  fi
  while :; do
    before=$best outcome='' why=''
    ! begin || watch
    case $outcome in
      finished) tell "done on all VMs; the slice still costs: delete it"; return ;;
      usage) [[ ! $why ]] || usage "$why"; exit 2 ;;
      stopped) tell "somebody stopped the run"; exit 42 ;;
    esac
    if ((best > before)); then
      crashes=0 tries=0
    elif [[ $outcome == crashed ]]; then
      crashes=$((crashes + 1))
      ((crashes < ${MAX_CRASHES:-5})) || fail "$crashes crashes in a row without a new step: $why"
    fi
    delay=$((${BACKOFF_SECONDS:-10} << (tries < 16 ? tries : 16)))
    ((delay <= ${BACKOFF_MAX:-600})) || delay=${BACKOFF_MAX:-600}
    tries=$((tries + 1))
    tell "$outcome: $why; again in $delay s"
    sleep "$delay"
  done
}

gone() {  # whether the slice was taken away
  local found
  found=$(state) && [[ $found == NONE || $found == SUSPEND* || $found == DELETING ]]
}

try() {  # a command of tpu_pod.sh; where it fails, outcome and why
  local code=0
  again "$@" || code=$?
  case $code in
    0) return ;;
    2) outcome=usage ;;
    *)
      outcome=crashed why="$1 failed"
      # A slice that cannot even be asked for was not taken away.
      [[ $1 == create ]] || ! gone || outcome=preempted why='the slice is gone'
      ;;
  esac
  return 1
}

begin() {  # a slice with the run on it; a run with the same flags that is alive already is taken over
  local lines run
  try create && try wait --timeout="$timeout" || return 1
  lines=$(collect) || { outcome=unreachable why='not every VM could be reached'; return 1; }
  run=$(awk -F'|' '$3 == "running" { print $5; exit }' <<<"$lines")
  case $run in
    '') try setup ${allow_dirty:+--allow-dirty} && try run -- "${rest[@]}" ;;
    *-"$(flags_sum)") tell "run $run is alive already: watching it" ;;
    *) outcome=usage why="run $run with other flags is alive; stop it first"; return 1 ;;
  esac
}

watch() {  # until the run has ended on all VMs; sets outcome and why
  local lines silent=0 mixed=0 ours=''
  while [[ ! $outcome ]]; do
    sleep "$poll"
    if gone; then
      outcome=preempted why='the slice is gone'
    elif ! lines=$(collect); then
      silent=$((silent + 1))
      ((silent < 10)) || outcome=unreachable why='not every VM could be reached'
    elif silent=0 && [[ ! $(alive_on "$lines") ]]; then
      judge "$lines"
    elif note "$lines" && grep -qv '|running|' <<<"$lines"; then
      # The others end by themselves, saved or by JAX's heartbeat; a signal now could cut a save short.
      ((mixed)) || mixed=$SECONDS
      if ((SECONDS - mixed >= ${GRACE_SECONDS:-300})) || grep -q '|exited|2|' <<<"$lines"; then
        ours=1
        again stop --force --timeout="${GRACE_SECONDS:-300}" || true
      fi
    fi
  done
}

note() {  # note LINES: the newest step
  local step
  step=$(cut -d'|' -f7 <<<"$1" | sort -n | tail -n 1)
  ((${step:-0} <= best)) || best=${step:-0}
}

judge() {  # judge LINES: how a run ended that is alive on no VM
  local state code asked text
  note "$1"
  outcome=finished
  while IFS='|' read -r _ _ state code _ asked _ text; do
    if [[ $state:$code == exited:2 ]]; then
      outcome=usage why=${text#error: }
      return
    elif [[ $state:$code == exited:0 || $outcome == stopped ]]; then
      continue
    elif [[ $asked == 1 && ! $ours ]]; then
      outcome=stopped
    elif [[ $code == 42 ]]; then
      outcome=preempted why='the run was stopped and has saved'
    elif [[ $outcome == finished ]]; then
      outcome=crashed why="${code:+exit code $code: }$text"
    fi
  done <<<"$1"
}
