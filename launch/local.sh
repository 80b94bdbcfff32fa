#!/usr/bin/env bash
# Sets up and trains the smoke config on this machine; called again, it goes on from the newest checkpoint.
#   bash launch/local.sh [--config.field=value ...]
#   WORKDIR=DIR   where the run goes, in place of ~/dvd_gan_runs/smoke
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
environment ""
keep_freed_memory

workdir=${WORKDIR:-$HOME/dvd_gan_runs/smoke}
echo "training configs/smoke.py in $workdir; Ctrl-C saves and stops"
exec python -m dvd_gan.main --mode=train --config=configs/smoke.py --workdir="$workdir" "$@"
