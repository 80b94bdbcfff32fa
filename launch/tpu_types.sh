# Sourced by tpu_pod.sh: Cloud TPU's accelerator types, the runtime that each boots and how many VMs it has.
# shellcheck shell=bash disable=SC2034  # tpu_pod.sh reads what is set here

tpu_type() {  # tpu_type TYPE: sets the globals image and vms
  local kind=${1%-*} size=${1##*-} per_vm
  case ${1,,} in
    tpu7* | v7* | *ironwood*)
      usage "$1: the Cloud TPU API does not serve TPU7x; launch/README.md, XPK and GKE, has what does" ;;
  esac
  # v2 to v5p count cores, two on a chip; v5litepod and v6e count chips. A VM has four chips.
  case $kind in
    v2 | v3 | v4) image=tpu-ubuntu2204-base per_vm=8 ;;
    v5p) image=v2-alpha-tpuv5 per_vm=8 ;;
    v5litepod) image=v2-alpha-tpuv5-lite per_vm=4 ;;
    v6e) image=v2-alpha-tpuv6e per_vm=4 ;;
    v5e) usage "$1: gcloud calls it v5litepod-$size" ;;
    *) usage "--type=$1 is unknown: v2-N, v3-N, v4-N, v5p-N (cores) or v5litepod-N, v6e-N (chips)" ;;
  esac
  if [[ $per_vm == 4 && $size =~ ^[148]$ ]]; then
    vms=1
  elif [[ $size =~ ^[1-9][0-9]*$ ]] && ((size % per_vm == 0)); then
    vms=$((size / per_vm))
  else
    usage "--type=$1: a VM of $kind has $per_vm, so N must be a multiple of $per_vm"
  fi
}
