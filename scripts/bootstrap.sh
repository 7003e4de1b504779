#!/usr/bin/env bash
# Make the virtual environment VENV from the lock LOCK, and install this project into it.
#
#   scripts/bootstrap.sh VENV LOCK
#
# Every file that is installed was named by its hash in the lock; only wheels are taken, because building
# from source would run code and fetch build tools that the lock does not name. Honours $PYTHON.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1
lock=$2

fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit 1
}

is_new_enough() {
  "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python3.12 python3.13; do
    if is_new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed, and none was found (tried ${PYTHON:+$PYTHON, }python3.11, python3, ...)." \
    "Debian 12, Ubuntu 24.04 and newer: apt install python3 python3-venv" \
    "Elsewhere: install it, then run again with PYTHON=/path/to/python3.11"
}

# Debian keeps the part of Python that makes virtual environments in a package of its own.
has_venv() {
  "$1" -I -c 'import ensurepip, venv' >/dev/null 2>&1
}

ensure_venv_module() {
  local python=$1 package as_root=()
  has_venv "$python" && return
  package=$("$python" -I -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || as_root=(false)
  fi
  if command -v apt-get >/dev/null && [ "${as_root[0]:-root}" != false ]; then
    printf 'installing the Debian package %s, which %s lacks\n' "$package" "$python" >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update >&2 || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "$package" >&2 || true
  fi
  has_venv "$python" || fail "$python cannot make a virtual environment: its venv module is missing." \
    "On Debian and Ubuntu: sudo apt install $package"
}

if ! is_new_enough "$venv/bin/python"; then
  python=$(find_python)
  ensure_venv_module "$python"
  printf 'making %s with %s\n' "$venv" "$("$python" --version)" >&2
  "$python" -I -m venv --clear "$venv"
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input)
printf 'installing the packages that %s names: a minute or two, only this once\n' "$lock" >&2
"${pip[@]}" install --quiet --require-hashes --only-binary :all: -r "$lock" ||
  fail "the packages of $lock could not be installed (see above)." "A package index that pip can reach is needed once."
"${pip[@]}" install --quiet --no-build-isolation --no-deps --no-index --editable .
"${pip[@]}" check >/dev/null || fail "the installed packages do not fit together:" "$("${pip[@]}" check 2>&1)"
