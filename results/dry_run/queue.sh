#!/usr/bin/env bash
# Compiles the paper's settings at full width, one row a file: bash results/dry_run/queue.sh
# Rows that are there are skipped, so it can be stopped at any time. 5 to 20 minutes a row on two cores, 10 GB of memory.
set -uo pipefail
cd "$(dirname "$0")/../.."

row() {  # row CONFIG TYPE [flags ...]
  local config=$1 type=$2 out
  shift 2
  out=results/dry_run/$config-$type.json
  [ -e "$out" ] && return
  if python -m dvd_gan.main --mode=dry_run --config="configs/$config.py" --config.dry_run.topology="$type" "$@" > "$out.log" 2> "$out.err"; then
    tail -1 "$out.log" > "$out"
    rm -f "$out.log" "$out.err"
  fi
}

# One row for each setting first, then the paper's largest slice, then the rest.
for config in kinetics600_64x12 kinetics600_128x12 kinetics600_256x12 kinetics600_64x48 kinetics600_128x48 kinetics600_64x16 ucf101_128x16; do
  row "$config" v5litepod-256
done
for config in kinetics600_64x12 kinetics600_128x12 kinetics600_256x12 kinetics600_64x48 kinetics600_128x48 kinetics600_64x16 ucf101_128x16; do
  row "$config" v3-512
done
row kinetics600_64x12 v6e-32
row kinetics600_64x12 v5p-64
for type in v5litepod-32 v5litepod-64 v5litepod-128; do
  for config in kinetics600_64x12 kinetics600_128x12 kinetics600_256x12 kinetics600_64x48 kinetics600_128x48 kinetics600_64x16 ucf101_128x16; do
    row "$config" "$type"
  done
done
