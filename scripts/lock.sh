#!/usr/bin/env bash
# Resolve pyproject.toml into requirements/*.txt with hashes.
#
#   scripts/lock.sh UV [--upgrade]
#
# Existing pins are kept unless --upgrade is given. A lock serves every platform and every Python from 3.11
# on, and names no package index: where packages come from is the reader's choice, what they are is not.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$1
shift

compile() {
  local out=requirements/$1
  shift
  "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
    --no-header --no-emit-index-url --no-annotate --output-file "$out" "$@" >/dev/null
  printf '%s: %s packages\n' "$out" "$(grep -c '==' "$out")"
}

compile dev.txt --extra all --group dev "$@"
# One environment holds all of these, and the enclave runs what was tested: the same versions everywhere.
compile enclave.txt --extra enclave --constraints requirements/dev.txt "$@"
# Whoever installs the product: all roles, as they were tested, and what builds it from a checkout.
compile product.txt --extra all --group install --constraints requirements/dev.txt "$@"
compile docs.txt --group docs --constraints requirements/dev.txt "$@"
# Installed only where tpm2-tss is (scripts/tpm-library.sh); tpm2-pytss itself has no wheels.
compile tpm_build.txt --group tpm-build --constraints requirements/dev.txt "$@"
compile tpm.txt --extra tpm --constraints requirements/dev.txt "$@"
compile fuzz.txt --group fuzz --constraints requirements/dev.txt "$@"
compile lock.txt --group lock --constraints requirements/dev.txt "$@"
