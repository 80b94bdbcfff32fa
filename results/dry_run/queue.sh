#!/usr/bin/env bash
# Compiles the paper's settings at full width, one row a file: bash results/dry_run/queue.sh
# Existing rows are skipped, so the script can be stopped at any time. It takes 10 GB of memory, and on two cores 3 to 8
# minutes a row at optimisation level O1 or O0, 10 to 20 at the compiler's default level, whose rows replace O1's.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
export JAX_PLATFORMS=cpu
settings=(kinetics600_64x12 kinetics600_128x48 kinetics600_256x12 kinetics600_64x48 kinetics600_128x12 kinetics600_64x16 ucf101_128x16 kinetics600_fp_64x16 bair_fp_64x16)
small=(--config.mesh.shard=8 --config.gen.remat=True --config.disc.remat=True)
parts=--config.train.microbatches

row() { # row LEVEL CONFIG TYPE [flags ...]
  local level=$1 config=$2 type=$3 out
  shift 3
  out=results/dry_run/$config-$type${suffix:-}.json
  [ -e "$out" ] && { [ "$level" = O1 ] || grep -q '"optimization": "UNKNOWN"' "$out"; } && return
  echo "$(date +%T) $level $config $type"
  if JAX_OPTIMIZATION_LEVEL=$level python -m dvd_gan.main --mode=dry_run --config="configs/$config.py" \
    --config.dry_run.topology="$type" "$@" > "$out.log" 2> "$out.err"; then
    tail -1 "$out.log" > "$out"
    rm -f "$out.log" "$out.err"
  fi
}

for level in O1 UNKNOWN; do
  # One row for each setting first, then the paper's largest slice, then the smallest ones that may do.
  for config in "${settings[@]}"; do row $level "$config" v5litepod-256; done
  for config in "${settings[@]}"; do row $level "$config" v3-512; done
  # Enough videos a chip that arithmetic takes four fifths of the roofline or more.
  for config in kinetics600_64x12 kinetics600_128x12; do
    row $level "$config" v5litepod-128
    row $level "$config" v6e-64
  done
  # Overlap of gradient all-reduces with the backward pass, which only the compiler's default level does.
  [ $level = UNKNOWN ] && suffix=-overlap row $level kinetics600_64x12 v5litepod-256 --config.mesh.overlap=True
  row $level kinetics600_64x12 v5p-64
  row $level kinetics600_64x12 v6e-32 "${small[@]}"
  row $level kinetics600_64x12 v5litepod-32 "${small[@]}"
  row $level kinetics600_64x16 v5litepod-32 "${small[@]}"
  row $level kinetics600_fp_64x16 v5litepod-32 "${small[@]}"
  row $level bair_fp_64x16 v5litepod-32 "${small[@]}"
  row $level kinetics600_64x48 v5litepod-64 "${small[@]}"
  row $level kinetics600_128x12 v5litepod-32 "${small[@]}" $parts=2
  row $level ucf101_128x16 v5litepod-32 "${small[@]}" $parts=2
  row $level kinetics600_64x48 v5litepod-32 "${small[@]}" $parts=4
  row $level kinetics600_256x12 v5litepod-64 "${small[@]}" $parts=2
  row $level kinetics600_256x12 v5litepod-32 "${small[@]}" $parts=4
  row $level kinetics600_128x48 v5litepod-128 "${small[@]}" $parts=2
  row $level kinetics600_128x48 v5litepod-64 "${small[@]}" $parts=4
done
