#!/usr/bin/env bash
# Measures the input on natural footage: bash results/input/measure.sh FOLDER > rates.jsonl
# FOLDER holds the clips of results/scripts/natural_clips.py; they are prepared in FOLDER.prepared.
set -euo pipefail
cd "$(dirname "$0")/../.."
for resolution in 64 128; do
  for frames in 12 48; do
    for stride in 1 2; do
      python -m dvd_gan.datasets.benchmark --config=configs/video_folder.py --config.data.source="$1" --seconds=20 \
        --config.data.dir="$1.prepared" --config.data.num_classes=4 --config.data.jpeg_quality=90 \
        --config.data.resolution="$resolution" --config.data.frames="$frames" --config.data.stride="$stride" | tail -1
    done
  done
done
