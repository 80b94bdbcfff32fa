#!/usr/bin/env bash
# Sets up and runs every test.   bash launch/test.sh [pytest arguments ...]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
environment "[test,beam]"

ruff check .
ruff format --check .
shellcheck -x launch/*.sh .ci/run
exec python -m pytest -q --durations=10 "$@"
