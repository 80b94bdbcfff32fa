# Sourced by tpu_pod.sh, and on the VM by tpu_worker.sh.
# shellcheck shell=bash

workdir_in() {  # workdir_in FLAGS...: the program's --workdir, in each form that absl reads; nothing where there is none
  local flag before='' workdir=''
  for flag; do
    [[ ! $flag =~ ^--?workdir=(.*) ]] || workdir=${BASH_REMATCH[1]}
    [[ ! $before =~ ^--?workdir$ ]] || workdir=$flag
    before=$flag
  done
  echo "$workdir"
}
