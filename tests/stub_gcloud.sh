#!/usr/bin/env bash
# A gcloud for tests, in the folder $CLOUD: calls holds its arguments, states what describe will say (the last line stays),
# homes/N is VM N. A command for a VM runs there as a real process; with the file broken-connections it runs twice, as
# where ssh ends with 255 and gcloud tries again.
set -euo pipefail
cd "$CLOUD"
printf '%q ' "$@" >>calls
echo >>calls
[[ $1 != alpha ]] || shift
name=${5-} worker=0 command=''
for word; do
  case $word in
    --worker=*) worker=${word#*=} ;;
    --command=*) command=${word#*=} ;;
    *:) name=${word%:} ;;
  esac
done

on_vm() {
  env -i -C "homes/$1" HOME="$CLOUD/homes/$1" DEVICE_ROOT="$CLOUD/homes/$1" HOSTNAME="t1v-n-0a1b2c3d-w-$1" \
    PATH="$CLOUD/bin:/usr/bin:/bin" FAKE="$CLOUD/fake" bash -c "$2"
}

case "$3 $4" in
  "queued-resources describe")
    state=$(head -n 1 states)
    [[ $(wc -l <states) == 1 ]] || sed -i 1d states
    if [[ $state == NONE ]]; then
      echo "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource '$name' was not found" >&2
      exit 1
    fi
    echo "WARNING: something of no interest" >&2
    echo "$state"
    ;;
  "queued-resources create") echo ACTIVE >states ;;
  "queued-resources delete")
    echo NONE >states
    rm -rf homes/*/{,.[!.]}*
    ;;
  "tpu-vm scp" | "tpu-vm ssh")
    [[ $worker != all ]] || worker=$(ls homes)
    failed=0
    for number in $worker; do
      if [[ $4 == scp ]]; then
        cp "$5" "homes/$number/"
        continue
      fi
      echo "SSH: Attempting to connect to worker $number..." >&2
      [[ ! -e broken-connections ]] || on_vm "$number" "$command" >/dev/null 2>&1 || true
      on_vm "$number" "$command" || { failed=$?; echo "##### worker $number failed with $failed" >&2; }
    done
    exit "$failed"
    ;;
  *) exit 2 ;;
esac
