# Sourced by tpu_pod.sh: a run kept going through preemptions, crashes and hangs.
# shellcheck shell=bash disable=SC2154  # the settings are tpu_pod.sh's

report() { echo "$(date '+%F %T') $1"; }

again() {  # a process of its own, so that its errors end it and not this loop
  TPU_CREATE_FLAGS='' TPU_SSH_FLAGS='' "$BASH" "$here/tpu_pod.sh" "$1" "${create_flags[@]/#/--create-flag=}" \
    "${ssh_flags[@]/#/--ssh-flag=}" ${alpha[0]:+--alpha} ${shared:+--shared-workdir} "${@:2}"
}

cmd_babysit() {
  local crashes=0 tries=0 best=0 before outcome why delay run broken
  ((${#rest[@]})) || usage "flags of dvd_gan.main are needed: babysit -- --mode=train --config=... --workdir=gs://..."
  check_workdir
  export TPU_NAME=$name TPU_ZONE=$zone TPU_PROJECT=$project TPU_TYPE=$type TPU_RUNTIME=$runtime
  export TPU_SPOT=${#spot[@]} TPU_DRY_RUN=$dry_run
  # A run lasts for days, and the clone changes: what it began with is shipped to every slice.
  refuse_dirty
  export TPU_COMMIT=$commit
  if [[ $dry_run ]]; then
    again create && again wait && again setup --allow-dirty && again run -- "${rest[@]}" && again status
    return
  fi
  while :; do
    before=$best outcome='' why='' broken=''
    ! begin || watch
    case $outcome in
      finished) report "done on all VMs; the slice still costs: delete it"; return ;;
      usage) [[ ! $why ]] || usage "$why"; exit 2 ;;
      stopped) report "somebody stopped the run"; exit 42 ;;
    esac
    if ((best > before)); then
      crashes=0 tries=0
    elif [[ $outcome == crashed ]]; then
      crashes=$((crashes + 1))
      ((crashes < ${MAX_CRASHES:-5})) || fail "$crashes crashes in a row without a new step: $why"
    fi
    delay=$((${BACKOFF_SECONDS:-10} << (tries < 16 ? tries : 16)))
    ((delay <= ${BACKOFF_MAX:-600})) || delay=${BACKOFF_MAX:-600}
    [[ $outcome != stockout ]] || delay=${STOCKOUT_SECONDS:-1800}
    tries=$((tries + 1))
    report "$outcome: $why; again in $delay s"
    [[ ! $broken ]] || again delete || true
    sleep "$delay"
  done
}

try() {  # a command of tpu_pod.sh; where it fails, outcome and why
  local code=0 found
  again "$@" 2>"$said" || code=$?
  cat "$said" >&2
  case $code in
    0) return ;;
    2) outcome=usage; return 1 ;;
  esac
  outcome=crashed why="$1 failed"
  if is_offline "$said"; then
    outcome=offline why="gcloud cannot be used: $(head -n 1 "$said")"
  elif ! found=$(state 2>/dev/null); then
    ! is_offline "$errors" || outcome=offline why="gcloud cannot be used: $(head -n 1 "$errors")"
  elif [[ $found == FAILED ]]; then
    why="the slice is FAILED: $(reason)"
    ! grep -qiE 'capacity|stockout|resource_exhausted' <<<"$why" || outcome=stockout
  elif [[ $1 != create ]] && is_lost "$found"; then
    outcome=preempted why="the slice is $found"
  elif is_ill "$found"; then
    broken=1 why="the slice is $found"
  fi
  return 1
}

begin() {  # a slice with the run on it; a run with the same flags that is alive already is taken over
  local lines silent since=$SECONDS
  try create && try wait --timeout="$timeout" || return 1
  while :; do  # VMs that have just been made do not answer at once
    lines=$(collect) || { outcome=offline why="the VMs cannot be asked: $(head -n 1 "$errors")"; return 1; }
    run=$(awk -F'|' '$3 == "running" { print $5; exit }' <<<"$lines")
    silent=$(vms_that_are unreachable "$lines")
    [[ $silent && ! $run ]] || break
    if ((SECONDS - since >= $(patience ACTIVE))); then
      outcome=crashed broken=1 why="worker $silent does not answer"
      return 1
    fi
    sleep "$poll"
  done
  case $run in
    '')
      run=$(new_run)
      try setup --allow-dirty || return 1
      TPU_RUN=$run try run -- "${rest[@]}"
      ;;
    *-"$(flags_sum)") report "run $run is alive already: watching it" ;;
    *) outcome=usage why="run $run with other flags is alive; stop it first"; return 1 ;;
  esac
}

watch() {  # until the run has ended on all VMs; sets outcome and why
  local lines found silent news='' before step='' moved=$SECONDS pause=0 sick=0 mixed=0 ours='' away=''
  while [[ ! $outcome ]]; do
    sleep "$poll"
    if ! found=$(state 2>/dev/null) || { ! is_lost "$found" && ! lines=$(collect 2>/dev/null); }; then
      [[ $away ]] || report "gcloud cannot be used, waiting: $(head -n 1 "$errors")"
      away=1 moved=$SECONDS sick=0 mixed=0
      continue
    fi
    away=''
    if is_lost "$found"; then
      outcome=preempted why="the slice is $found"
      continue
    fi
    # What a VM says of an earlier run is no news of this one.
    lines=$(awk -F'|' -v run="$run" '$3 != "unreachable" && $5 != run { $0 = $1 "|" $2 "|never||||||" } 1' <<<"$lines")
    before=$news news=$(grep -v '|unreachable|' <<<"$lines" | cut -d'|' -f1,3,7- || true)
    if [[ $news != "$before" ]]; then
      [[ ! $step ]] || ((SECONDS - moved <= pause)) || pause=$((SECONDS - moved)) # compiling is no pause of the run's
      moved=$SECONDS sick=0
    fi
    step=$(cut -d'|' -f7 <<<"$lines" | sort -n | tail -n 1)
    ((${step:-0} <= best)) || best=$step
    silent=$(vms_that_are unreachable "$lines")
    if ! grep -qvE '\|(running|unreachable)\|' <<<"$lines" && hangs; then
      report "no news from the run for $((SECONDS - moved)) s: its processes write to their logs where they are"
      on all "bash $script stacks" 2>/dev/null || true
      sleep 2 # they write
      again stop --force --timeout="${GRACE_SECONDS:-300}" || true
      outcome=crashed why="the run hung after step ${step:-0}"
    elif [[ $silent ]] || is_ill "$found"; then # no matter as long as there is news from the run
      ((sick)) || sick=$SECONDS
      if ((SECONDS - sick >= $(patience "$found"))); then
        outcome=crashed broken=1 why="the slice is $found${silent:+, worker $silent does not answer}"
      fi
    elif [[ ! $(vms_that_are running "$lines") ]]; then
      judge "$lines"
    elif grep -qv '|running|' <<<"$lines"; then
      # The others end by themselves, saved or by JAX's heartbeat; a signal now could cut a save short.
      ((mixed)) || mixed=$SECONDS
      if ((SECONDS - mixed >= ${GRACE_SECONDS:-300})) || grep -q '|exited|2|' <<<"$lines"; then
        ours=1
        again stop --force --timeout="${GRACE_SECONDS:-300}" || true
      fi
    fi
  done
}

hangs() {  # whether the run has been silent for too long, by its own pace; compiling, saving and evaluating take a while
  local most=${STALL_SECONDS:-$((pause * 10 > 1800 ? pause * 10 : 1800))}
  [[ $step ]] || most=${START_SECONDS:-7200}
  ((SECONDS - moved >= most))
}

judge() {  # judge LINES: how a run ended that is alive on no VM
  local state code asked text idle
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
  idle=$(vms_that_are never "$1")
  [[ ! $idle || $outcome == stopped ]] || outcome=crashed why="worker $idle has not started it"
}
