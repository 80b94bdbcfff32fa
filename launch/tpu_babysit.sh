# Sourced by tpu_pod.sh: a run kept going through preemptions, crashes and hangs.
# shellcheck shell=bash disable=SC2154  # the settings are tpu_pod.sh's

launcher=$here/tpu_pod.sh

report() { echo "$(date '+%F %T') $1"; }

again() {  # a process of its own, so that its errors end it and not this loop
  TPU_CREATE_FLAGS='' TPU_SSH_FLAGS='' "$BASH" "$launcher" "$1" \
    "${create_flags[@]/#/--create-flag=}" "${ssh_flags[@]/#/--ssh-flag=}" ${alpha[0]:+--alpha} \
    ${shared:+--shared-workdir} "${@:2}"
}

cmd_babysit() {
  local crashes=0 tries=0 best=0 before outcome why delay run broken
  ((${#rest[@]})) || usage "flags of dvd_gan.main are needed: babysit -- --mode=train --config=... --workdir=gs://..."
  check_workdir
  export TPU_NAME=$name TPU_ZONE=$zone TPU_PROJECT=$project TPU_TYPE=$type TPU_RUNTIME=$runtime
  export TPU_SPOT=${#spot[@]} TPU_DRY_RUN=$dry_run
  # A run lasts for days, and the clone changes: what it began with is shipped to every slice, and used here.
  refuse_dirty
  export TPU_COMMIT=$commit TPU_REPOSITORY=$repository TPU_STOPPER=babysit
  if [[ $dry_run ]]; then
    again create && again wait && again setup --allow-dirty && again run -- "${rest[@]}" && again status
    return
  fi
  cp -r "$here" "$scratch/launch"
  launcher=$scratch/launch/tpu_pod.sh
  # What fails at the first look does not pass by itself, but for a network.
  state >/dev/null || is_offline "$errors" || exit 1
  while :; do
    before=$best outcome='' why='' broken=''
    ! begin || watch
    case $outcome in
      finished) report "run $run is done on all VMs; the slice still costs: delete it"; return ;;
      usage) [[ ! $why ]] || usage "$why"; exit 2 ;;
      stopped) report "$why; the same command resumes. A slice that is there still costs: delete it"; exit 42 ;;
    esac
    if ((best > before)); then
      crashes=0 tries=0
    elif [[ $outcome == crashed ]]; then
      crashes=$((crashes + 1))
      ((crashes < ${MAX_CRASHES:-5})) || fail "$(date '+%F %T') $crashes crashes in a row without a new step (the newest is $best): $why. \
The slice still costs: delete it. The same command tries again"
    fi
    delay=$((${BACKOFF_SECONDS:-10} << (tries < 16 ? tries : 16)))
    ((delay <= ${BACKOFF_MAX:-600})) || delay=${BACKOFF_MAX:-600}
    [[ $outcome != stockout ]] || delay=${STOCKOUT_SECONDS:-1800}
    tries=$((tries + 1))
    report "$outcome: $why; ${broken:+the slice is deleted, and }again in $delay s"
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
  outcome=crashed why="$1 failed: $(tail -n 1 "$said")"
  # setup and run also pass on what the VMs say, of their own network too.
  if ! found=$(state 2>/dev/null) || { [[ $1 =~ ^(create|wait)$ ]] && is_offline "$said"; }; then
    outcome=offline why="gcloud cannot be used: $(head -n 1 "$said")"
  elif [[ $found == FAILED ]]; then
    why="the slice is FAILED: $(reason)"
    ! is_stockout <<<"$why" || outcome=stockout
  elif [[ $1 == create ]]; then
    ! is_stockout <"$said" || outcome=stockout why=$(tail -n 1 "$said")
  elif was_lost "$found"; then
    : # it has set both
  elif is_ill "$found"; then
    why="the slice is $found"
    [[ $1 != wait ]] || broken=1 # its patience is over
  fi
  return 1
}

was_lost() {  # was_lost STATE: where the slice is gone, outcome and why
  is_lost "$1" || return 1
  outcome=preempted why="the slice is $1"
  [[ $1 != NONE ]] || outcome=stopped why='somebody deleted the slice'
}

is_stockout() { grep -qiE 'no more capacity|stockout|out of capacity|insufficient capacity'; }

alive_run() { awk -F'|' '$3 == "running" { print $5; exit }' <<<"$1"; }

begin() {  # a slice with the run on it; a run with the same flags that is alive already is taken over
  local lines silent since
  try create || return 1
  # A run that is alive is watched, whatever the slice's health.
  lines=$(collect 2>/dev/null) || lines=''
  run=$(alive_run "$lines")
  if [[ ! $run ]]; then
    try wait --timeout="$timeout" || return 1
    since=$SECONDS
    while :; do  # VMs that have just been made do not answer at once
      lines=$(collect) || { outcome=offline why="the VMs cannot be asked: $(head -n 1 "$errors")"; return 1; }
      run=$(alive_run "$lines") silent=$(vms_that_are unreachable "$lines")
      [[ $silent && ! $run ]] || break
      if ((SECONDS - since >= $(patience ACTIVE "$lines"))); then
        outcome=crashed broken=1 why="worker $silent does not answer"
        return 1
      fi
      sleep "$poll"
    done
  fi
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
  local lines found silent alive newer news='' step='' away='' pause=0 sick=0 mixed=0
  local moved=$SECONDS looked=$SECONDS gap
  while [[ ! $outcome ]]; do
    sleep "$poll"
    gap=$((SECONDS - looked)) looked=$SECONDS
    # What passes while this machine sleeps, or gcloud cannot be used, is not counted as silence of the run.
    if [[ $away ]] || ((gap > 2 * ${poll%.*} + 1200)); then
      moved=$((moved + gap)) sick=$((sick ? sick + gap : 0)) mixed=$((mixed ? mixed + gap : 0))
    fi
    if ! found=$(state 2>/dev/null) || { ! is_lost "$found" && ! lines=$(collect 2>/dev/null); }; then
      [[ $away ]] || report "gcloud cannot be used, waiting (is the network up, the login valid?): $(head -n 1 "$errors")"
      away=1
      continue
    fi
    [[ ! $away ]] || report 'gcloud answers again'
    away=''
    ! was_lost "$found" || continue
    # A VM may still report an earlier run: then it has not started this one.
    lines=$(awk -F'|' -v run="$run" '$3 != "unreachable" && $5 != run { $0 = $1 "|" $2 "|never||||||" } 1' <<<"$lines")
    silent=$(vms_that_are unreachable "$lines") alive=$(vms_that_are running "$lines")
    newer=$(cut -d'|' -f7 <<<"$lines" | sort -n | tail -n 1)
    # Once there are steps, only a new one is news; until then, any line of worker 0's log.
    if [[ $newer ]] && ((newer > ${step:-0})); then
      [[ ! $step ]] || ((SECONDS - moved <= pause)) || pause=$((SECONDS - moved))
      step=$newer moved=$SECONDS sick=0
      ((step <= best)) || best=$step
    elif [[ ! $step && $(grep '^0|' <<<"$lines") != "$news" ]]; then
      news=$(grep '^0|' <<<"$lines" || true) moved=$SECONDS
    fi
    [[ $silent ]] || is_ill "$found" || sick=0
    if [[ ! $alive ]] && { [[ ! $silent ]] || was_asked "$lines"; }; then
      judge "$lines"
    elif [[ $alive && ,$silent, != *,0,* ]] && ! is_ill "$found" && # worker 0 prints the steps
      ! grep -qvE '\|(running|unreachable)\|' <<<"$lines" && hangs; then
      report "no new step for $((SECONDS - moved)) s: every thread's stack goes to the logs of run $run, which is then stopped"
      on all "bash $script stacks" 2>/dev/null || true
      sleep 2 # they write
      again stop --force --timeout="${GRACE_SECONDS:-300}" || broken=1
      outcome=crashed why="the run hung after step ${step:-0}"
      ! was_asked "$lines" || outcome=stopped why='a person stopped the run, which hung'
    elif [[ $silent ]] || is_ill "$found"; then # no matter as long as the run makes steps
      ((sick)) || sick=$SECONDS
      if ((SECONDS - sick >= $(patience "$found" "$lines"))); then
        outcome=crashed broken=1 why="the slice is $found${silent:+, worker $silent does not answer}, for $((SECONDS - sick)) s"
      fi
    elif grep -qv '|running|' <<<"$lines"; then
      # The others end by themselves, saved or by JAX's heartbeat; a signal now could cut a save short.
      ((mixed)) || mixed=$SECONDS
      if ((SECONDS - mixed >= ${GRACE_SECONDS:-300})) || grep -q '|exited|2|' <<<"$lines"; then
        again stop --force --timeout="${GRACE_SECONDS:-300}" || true
      fi
    fi
  done
}

was_asked() { awk -F'|' '$6 == 1 { asked = 1 } END { exit !asked }' <<<"$1"; }  # whether a person stopped the run

hangs() {  # whether the run has been silent for too long, by its own pace; compiling, saving and evaluating take a while
  local most=$((pause * 10 < 1800 ? 1800 : pause * 10 > 7200 ? 7200 : pause * 10))
  most=${STALL_SECONDS:-$most}
  [[ $step ]] || most=${START_SECONDS:-7200}
  ((SECONDS - moved >= most))
}

judge() {  # judge LINES: how a run ended that is alive on no VM
  local number state code asked text idle
  outcome=finished
  while IFS='|' read -r number _ state code _ asked _ text; do
    if [[ $state:$code == exited:2 ]]; then
      outcome=usage why=${text#error: }
      return
    elif [[ $state:$code == exited:0 || $state == unreachable || $outcome == stopped ]]; then
      continue
    elif [[ $asked == 1 ]]; then
      outcome=stopped why="a person stopped run $run"
    elif [[ $code == 42 ]]; then
      outcome=preempted why='the run ended with 42, saved, and no person stopped it'
    elif [[ $outcome == finished || ($state == exited && $text == error:* && $why != *error:*) ]]; then
      outcome=crashed why="worker $number: ${code:+exit code $code: }$text"
      [[ $state != died ]] || why="worker $number died without an exit code, killed or its VM restarted; its last line: $text"
    fi
  done <<<"$1"
  idle=$(vms_that_are never "$1")
  [[ ! $idle || $outcome == stopped ]] || outcome=crashed why="run $run was not started on worker $idle"
}
