#!/usr/bin/env bash
# Install the servers that ours is compared with, each with its own locked packages, in an environment of its own.
#
#   scripts/bench-peers.sh DIRECTORY [NAME...]
#
# Debian's interpreter where there is one: pytriton ends with an error under others of the same version.
set -euo pipefail
cd "$(dirname "$0")/.."

where=$1
shift
interpreter=python3
[ -x /usr/bin/python3.11 ] && interpreter=/usr/bin/python3.11
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(fastapi mlserver kserve bentoml pytriton predecessor)
for name in "${names[@]}"; do
  lock=requirements/peers/$name.txt
  if [ "$where/$name/.ready" -nt "$lock" ]; then continue; fi
  "$interpreter" -m venv --clear "$where/$name"
  "$where/$name/bin/python" -m pip install --quiet --require-hashes --only-binary :all: -r "$lock"
  touch "$where/$name/.ready"
  printf '%s: ready\n' "$name"
done
