#!/usr/bin/env bash
# Sets up and runs every test.   bash launch/test.sh [pytest arguments ...]
#   WORKERS=2   processes that run them, 4 GB each
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
environment "[test,beam,tpu,metrics]"

ruff check .
ruff format --check .
shellcheck -x launch/*.sh .ci/run
exec python -m pytest -q -n "${WORKERS:-2}" --dist worksteal --durations=10 "$@"
