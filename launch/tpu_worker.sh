#!/usr/bin/env bash
# Runs on each VM of a TPU slice; tpu_pod.sh calls it over ssh and may, where a connection breaks, call it twice.
#   setup COMMIT DATE     code and environment from ~/dvd_gan-COMMIT.tar.gz; packages as they were on DATE
#   start RUN FLAGS...    python -m dvd_gan.main FLAGS, detached
#   status COMMIT         number|set up|state|exit code|run|stop asked for|step|text
#   logs LINES [follow]   of the newest run
#   stacks                makes the run write the stack of each of its threads to its log
#   stop TERM|KILL [WHO]  sends the signal to the run; WHO is babysit, or nothing for a person
# Everything is in ~/dvd_gan_pod: code/COMMIT, current, environments/HASH, newest, runs/RUN/{flags,log,pid,exit_code}.
set -euo pipefail
pod=$(cd && pwd -P)/dvd_gan_pod
worker=${HOSTNAME##*-w-}
root=${DEVICE_ROOT-}  # what /dev, /sys and /tmp are under
huge_pages=$root/sys/kernel/mm/transparent_hugepage/enabled

environment() {  # environment FOLDER: where the packages of the code in FOLDER are
  echo "$pod/environments/$(sha256sum <"$1/setup.py" | cut -c1-16)"
}

newest() { cat "$pod/newest" 2>/dev/null || true; }

# A run holds run.lock from before its first process to after its last one, so no process id is ever mistaken.
alive() {
  local run
  run=$(newest)
  [[ $run && ! -e $pod/runs/$run/exit_code ]] && ! flock --shared --nonblock "$pod/run.lock" true
}

setup() {
  local code=$pod/code/$1 date=$2 made
  mkdir -p "$pod/code" "$pod/environments" "$pod/runs"
  exec 8>"$pod/setup.lock"
  flock 8
  # Under a temporary name until they are whole.
  if [[ ! -d $code ]]; then
    rm -rf "$code.new"
    mkdir "$code.new"
    tar -xzf "$HOME/dvd_gan-$1.tar.gz" -C "$code.new"
    echo "$1" >"$code.new/COMMIT"
    mv "$code.new" "$code"
  fi
  made=$(environment "$code")
  if [[ ! -d $made ]]; then
    rm -rf "$made.new"
    # The images' Python may be 3.10, too old for JAX; uv brings its own.
    if [[ ! -d $pod/uv ]]; then
      rm -rf "$pod/uv.new"
      python3 -m pip install --quiet --target "$pod/uv.new" uv
      mv "$pod/uv.new" "$pod/uv"
    fi
    "$pod/uv/bin/uv" venv --quiet --relocatable --python 3.12 "$made.new"
    # Without the project itself: the code that runs is the one in the current folder. The date gives VMs that are made
    # in the middle of a run the packages that the first ones had.
    "$pod/uv/bin/uv" pip install --quiet --python "$made.new/bin/python" --exclude-newer "$date" \
      --requirement "$code/setup.py" --extra tpu
    mv "$made.new" "$made"
  fi
  ln -sfn "code/$1" "$pod/current"
  find "$HOME" -maxdepth 1 -name 'dvd_gan-*.tar.gz' ! -name "dvd_gan-$1.tar.gz" -delete
}

start() {
  local run=$1 folder=$pod/runs/$1
  shift
  exec 8>"$pod/start.lock"
  flock 8
  if alive; then
    [[ $(newest) != "$run" ]] || return 0
    echo "worker $worker: run $(newest) is alive"
    return 1
  fi
  [[ ! -e $folder/exit_code ]] || return 0
  release
  # A TPU starts and stops faster with large pages, says JAX.
  grep -qs '\[always\]' "$huge_pages" || as_root tee "$huge_pages" <<<always >/dev/null 2>&1 || true
  mkdir -p "$folder"
  rm -f "$folder/pid"
  exec 9>"$pod/run.lock"
  flock --timeout 10 9 || { echo "worker $worker: processes of run $(newest) do not end: delete and create the slice"; return 1; }
  printf '%q ' "$@" >"$folder/flags"
  echo "$run" >"$pod/newest.new"
  mv "$pod/newest.new" "$pod/newest"
  DVD_GAN_RUN=$run setsid nohup bash "$0" supervise "$folder" "$@" </dev/null >>"$folder/log" 2>&1 8>&- &
  for _ in {1..200}; do
    [[ ! -s $folder/pid ]] || return 0
    sleep 0.05
  done
  echo "worker $worker: the run did not start: see its log"
  return 1
}

supervise() {
  local folder=$1 code=0 made copier
  shift
  # A handler, for children inherit an ignored signal: this process stays to record how the program ended.
  trap : TERM
  cd -P "$pod/current"
  # shellcheck source=launch/tpu_workdir.sh
  source launch/tpu_workdir.sh
  made=$(environment .)
  # With a platform named, JAX does not fall back to the CPU where the TPU does not start.
  export PATH=$made/bin:$PATH PYTHONUNBUFFERED=1 JAX_PLATFORMS=${JAX_PLATFORMS-tpu,cpu}
  # Not with the lock: what it waits for may outlive the run.
  (while sleep "${LOG_SECONDS:-300}"; do copy_log "$folder" "$made" "$@"; done) 9>&- &
  copier=$!
  (
    echo "$BASHPID" >"$folder/pid"
    exec "$made/bin/python" -m dvd_gan.main "$@"
  ) || code=$?
  kill "$copier" || true
  echo "$code" >"$folder/exit_code.new"
  mv "$folder/exit_code.new" "$folder/exit_code"
  exec 9>&-
  copy_log "$folder" "$made" "$@"
}

copy_log() {  # copy_log RUN_FOLDER ENVIRONMENT FLAGS...: to the workdir, where that is a bucket; the VM's disk goes with it
  local to
  to=$(workdir_in "${@:3}")
  [[ $to != gs://* ]] || timeout 200 "$2/bin/python" -c 'import sys; from google.cloud import storage
storage.Blob.from_uri(sys.argv[2], storage.Client()).upload_from_filename(sys.argv[1])' \
    "$1/log" "${to%/}/logs/${1##*/}/worker-$worker.log" 2>/dev/null || true
}

as_root() { if sudo -n true 2>/dev/null; then sudo -n "$@"; else "$@"; fi; }

holders() {  # processes with a TPU open, also other users', and what is left of an earlier run
  { as_root find /proc/[0-9]*/fd \( -lname "$root/dev/accel*" -o -lname "$root/dev/vfio/*" -o -lname "$pod/run.lock" \) \
    2>/dev/null || true; } | cut -d/ -f3 | sort -un
}

release() {  # ends what an earlier run left behind on the device; a process that is no run of ours is left alone
  local pid held
  held=$(holders)
  for pid in $held; do
    if grep -qz '^DVD_GAN_RUN=' "/proc/$pid/environ"; then
      kill -KILL "$pid" || true
    elif [[ -e /proc/$pid ]]; then
      echo "worker $worker: process $pid, not ours, holds the TPU (sudo kill $pid): $(tr '\0' ' ' <"/proc/$pid/cmdline")"
      return 1
    fi
  done 2>/dev/null
  for _ in {1..100}; do
    held=$(holders)
    [[ $held ]] || break
    sleep 0.1
  done
  # Another user's, in a folder where only its owner may delete it.
  rm -f "$root/tmp/libtpu_lockfile" 2>/dev/null || as_root rm -f "$root/tmp/libtpu_lockfile" ||
    { echo "worker $worker: another user owns $root/tmp/libtpu_lockfile: remove it"; return 1; }
}

status() {
  local run folder set_up=0 state=never code='' asked=0 step='' text='' error
  if [[ $(readlink "$pod/current") == "code/$1" && -d $(environment "$pod/current") ]]; then set_up=1; fi
  run=$(newest)
  folder=$pod/runs/$run
  if [[ $run ]]; then
    if alive; then
      state=running
    elif [[ -e $folder/exit_code ]]; then
      state=exited
      code=$(<"$folder/exit_code")
    else
      state=died  # killed with its supervisor, or the VM was started anew
    fi
    [[ ! -s $folder/stopping ]] || asked=1
    text=$(tail -c 65536 "$folder/log" | tr '\r' '\n' | sed 's/[[:space:]]*$//' | grep -a . || true)
    step=$(grep -a '^step [0-9]' <<<"$text" | tail -n 1 || true)
    # A run that failed says why in its last error line, or in its last line.
    if [[ $state == died || ($state == exited && $code != 0) ]]; then
      error=$(grep -a '^error: ' <<<"$text" | tail -n 1 || true)
      text=${error:-$(tail -n 1 <<<"$text")}
    else
      text=${step:-$(tail -n 1 <<<"$text")}
    fi
    step=${step#step }
    step=${step%%[!0-9]*}
  fi
  echo "$worker|$set_up|$state|$code|$run|$asked|$step|${text:0:400}"
}

logs() {
  local folder
  folder=$pod/runs/$(newest)
  [[ -e $folder/log ]] || { echo "worker $worker: nothing was ever started" >&2; return 1; }
  # Following ends with the run.
  tail -n "$1" ${2:+--follow --sleep-interval=0.5 --pid="$(<"$folder/pid")"} "$folder/log"
}

stacks() { ! alive || kill -USR1 "$(<"$pod/runs/$(newest)/pid")"; }

stop() {
  local folder
  exec 8>"$pod/start.lock"
  flock 8
  alive || return 0
  folder=$pod/runs/$(newest)
  # The program takes a second SIGTERM as an order to end unsaved, and ssh may repeat this one.
  if [[ $1 == KILL || ! -e $folder/stopping ]]; then
    kill "-$1" "$(<"$folder/pid")" || true
    touch "$folder/stopping"
  fi
  [[ ${2-} == babysit ]] || echo "a person" >"$folder/stopping"
}

"$@"
