#!/usr/bin/env bash
# A gcloud for tests, in the folder $CLOUD. calls holds its arguments; states what the queued resource will be and nodes
# what its VMs will be, one word after the other (the last line stays); homes/N is VM N. A command for a VM runs there as a
# real process. Files that change what happens:
#   broken-connections   a command runs twice, as where ssh ends with 255 and gcloud tries again
#   offline              what gcloud says when it cannot be used from here
#   N-is-dead            VM N does not answer
#   reason               why a queued resource is FAILED
#   types                accelerator types of the zone; where it is missing, all are
#   made.json            the queued resource as it was made
set -euo pipefail
cd "$CLOUD"
printf '%q ' "$@" >>calls
echo >>calls
[[ $1 != alpha ]] || shift
name=${5-} worker=0 command='' format=''
for word; do
  case $word in
    --worker=*) worker=${word#*=} ;;
    --command=*) command=${word#*=} ;;
    --format=*) format=${word#*=} ;;
    *:) name=${word%:} ;;
  esac
done

on_vm() {
  env -i -C "homes/$1" HOME="$CLOUD/homes/$1" DEVICE_ROOT="$CLOUD/homes/$1" HOSTNAME="t1v-n-0a1b2c3d-w-$1" \
    PATH="$CLOUD/bin:/usr/bin:/bin" FAKE="$CLOUD/fake" LOG_SECONDS=1 bash -c "$2"
}

next() {  # the first line of a file, which goes unless it is the last
  head -n 1 "$1"
  [[ $(wc -l <"$1") == 1 ]] || sed -i 1d "$1"
}

failed() {  # failed MESSAGE
  echo "ERROR: (gcloud.compute.tpus.x) $1" >&2
  exit 1
}

[[ ! -e offline ]] || failed "$(<offline)"
case "$3 $4" in
  "queued-resources describe")
    case $format in
      json) [[ ! -e made.json ]] || cat made.json ;;
      *failedData*) cat reason 2>/dev/null || true ;;
      *)
        state=$(next states)
        [[ $state != NONE ]] || failed "NOT_FOUND: Resource '$name' was not found"
        echo "WARNING: something of no interest" >&2
        echo "$state"
        ;;
    esac
    ;;
  "queued-resources create") echo ACTIVE >states; printf 'READY\tHEALTHY\n' >nodes ;;
  "queued-resources delete")
    echo NONE >states
    rm -rf homes/*/{,.[!.]}* ./*-is-dead
    ;;
  "tpu-vm describe")
    case $format in
      *networkEndpoints*) find homes -mindepth 1 -maxdepth 1 | wc -l ;;
      *) next nodes ;;
    esac
    ;;
  "accelerator-types describe")
    [[ ! -e types ]] || grep -qx "$5" types || failed "NOT_FOUND: Resource '$5' was not found" ;;
  "accelerator-types list") cat types ;;
  "tpu-vm scp" | "tpu-vm ssh")
    [[ $worker != all ]] || worker=$(ls homes)
    failed=0
    for number in $worker; do
      if [[ -e $number-is-dead ]]; then
        echo "ssh: connect to host 10.0.0.$number port 22: Connection timed out" >&2
        failed=255
      elif [[ $4 == scp ]]; then
        cp "$5" "homes/$number/"
      else
        echo "SSH: Attempting to connect to worker $number..." >&2
        [[ ! -e broken-connections ]] || on_vm "$number" "$command" >/dev/null 2>&1 || true
        on_vm "$number" "$command" || { failed=$?; echo "##### worker $number failed with $failed" >&2; }
      fi
    done
    exit "$failed"
    ;;
  *) exit 2 ;;
esac
