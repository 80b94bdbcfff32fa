# Sourced by the scripts beside it: makes .venv once for each setup.py and puts it on PATH.
# shellcheck shell=bash
#   PYTHON=python3.12   the interpreter to build it with, 3.11 to 3.13
#   VENV=DIR            where to make it, in place of .venv

environment() {  # environment EXTRAS, e.g. "[test]"
  local venv=${VENV:-.venv} python=${PYTHON:-} candidate stamp
  if [ -z "$python" ]; then
    for candidate in python3 python3.13 python3.12 python3.11; do
      if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python=$candidate
        break
      fi
    done
  fi
  if [ -z "$python" ]; then
    echo "error: no Python 3.11, 3.12 or 3.13 found; name one with PYTHON=..." >&2
    exit 2
  fi
  # The stamp is written last: an interrupted installation is done again.
  stamp=$venv/.installed-$1-$(cksum < setup.py | tr ' ' '-')
  if [ ! -e "$stamp" ]; then
    echo "installing into $venv (about two minutes)"
    "$python" -m venv "$venv" || { echo "error: $python cannot make environments (on Debian: apt install python3-venv)" >&2; exit 2; }
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$1" || { echo "error: pip cannot install the packages into $venv" >&2; exit 1; }
    touch "$stamp"
  fi
  PATH=$(cd "$venv/bin" && pwd):$PATH
  export PATH
}

# Preloads tcmalloc where it is installed (on Debian: apt install libtcmalloc-minimal4). XLA frees its temporaries after
# every step; glibc returns their pages to the system, tcmalloc keeps them: results/performance/README.md, Allocators.
keep_freed_memory() {
  local library
  # ldconfig is missing on some systems. awk reads to the end, since a broken pipe would end a script with `pipefail`.
  library=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | awk '/libtcmalloc(_minimal)?\.so/ && !n++ { print $NF }') || true
  if [ -n "$library" ] && [ -z "${LD_PRELOAD:-}" ]; then
    export LD_PRELOAD=$library
  fi
}
