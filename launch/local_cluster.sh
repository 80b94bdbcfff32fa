#!/usr/bin/env bash
# Runs the program as N processes on this machine, as the hosts of a pod run it; for tests and demonstrations.
#   bash launch/local_cluster.sh N --mode=train --config=configs/smoke.py --workdir=DIR [--config.field=value ...]
#   DEVICES=4   fake CPU devices of each process
#   PORT=       of process 0; a free one by default
# Ends with 0 if all processes do, else with the first code that is not 0; a SIGTERM or Ctrl-C goes to all.
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
count=${1:-}
if ! [[ $count =~ ^[1-9][0-9]*$ ]]; then
  echo "error: say how many processes: bash launch/local_cluster.sh N [flags of dvd_gan.main]" >&2
  exit 2
fi
shift
cd "$here" || exit 2
if ! python -c 'import dvd_gan, jax' 2> /dev/null; then # an active environment is used as it is
  # shellcheck source=launch/environment.sh
  source launch/environment.sh
  environment ""
fi

port=${PORT:-$(python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')}
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-4}"
pids=()
for ((i = 0; i < count; i++)); do
  # Each line begins with its process's number. The shell's own child is python, so that signals reach it.
  python -m dvd_gan.main --coordinator="localhost:$port" --processes="$count" --process="$i" "$@" \
    > >(exec sed -u "s/^/[$i] /") 2> >(exec sed -u "s/^/[$i] /" >&2) &
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2> /dev/null' TERM INT

code=0
for pid in "${pids[@]}"; do
  ended=255
  while ((ended > 128)); do
    wait "$pid"
    ended=$?
    kill -0 "$pid" 2> /dev/null || break # otherwise a signal cut the wait short
  done
  if ((ended > 128)); then # a signal cut the wait short while the process ended; its own code comes now
    wait "$pid" 2> /dev/null
    late=$?
    ((late == 127)) || ended=$late
  fi
  ((code)) || code=$ended
done
exit "$code"
