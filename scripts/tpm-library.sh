#!/usr/bin/env bash
# Install tpm2-pytss into the virtual environment VENV where the libraries of tpm2-tss are; else say what is left out.
#
#   scripts/tpm-library.sh VENV
#
# It has no wheels. It is built from the source that requirements/tpm.txt names by its hash, with build tools that
# requirements/tpm_build.txt names by theirs, so that building fetches nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1
needed=(tss2-esys tss2-mu tss2-rc tss2-tctildr)

left_out() {
  printf 'what needs a TPM is left out: %s\n' "$1" >&2
  exit 0
}

"$venv/bin/python" -I -c 'import tpm2_pytss' 2>/dev/null && exit 0
command -v pkg-config >/dev/null || left_out "there is no pkg-config (on Debian and Ubuntu: apt install pkg-config)"
command -v cc >/dev/null || left_out "there is no C compiler (on Debian and Ubuntu: apt install gcc libc6-dev)"
pkg-config --exists "${needed[@]}" || left_out "there is no tpm2-tss (on Debian and Ubuntu: apt install libtss2-dev)"
headers=$("$venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$headers/Python.h" ] || left_out "there are no headers of Python in $headers (apt install python3-dev)"

printf 'building tpm2-pytss for TPMs: about a minute, only this once\n' >&2
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --require-hashes)
"${pip[@]}" --only-binary :all: -r requirements/tpm_build.txt &&
  "${pip[@]}" --only-binary :all: --no-binary tpm2-pytss --no-build-isolation -r requirements/tpm.txt ||
  left_out "tpm2-pytss could not be built (see above)"
