#!/usr/bin/env bash
# Install the Debian packages that the tests use, where that is possible without asking; else say what is left out.
#
#   scripts/debian-packages.sh
#
# Not needed to run the product. Tests that need a missing package are left out, and the test run says so.
set -euo pipefail

missing=()
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
command -v strace >/dev/null || missing+=(strace)
# A software TPM, and what scripts/tpm-library.sh builds the library against.
command -v swtpm >/dev/null || missing+=(swtpm)
command -v swtpm_setup >/dev/null && command -v swtpm_localca >/dev/null || missing+=(swtpm-tools)
command -v pkg-config >/dev/null || missing+=(pkg-config)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
# A browser, for what pages show and what other pages may not do.
command -v chromium >/dev/null || missing+=(chromium)
command -v curl >/dev/null || missing+=(curl)
pkg-config --exists tss2-esys 2>/dev/null || missing+=(libtss2-dev)
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo -n)
  sudo -n true 2>/dev/null || as_root=(false)
fi
if ! command -v apt-get >/dev/null || [ "${as_root[0]:-root}" = false ]; then
  printf 'not installed, so the tests that need it are left out: %s\n' "${missing[*]}" >&2
  printf '       on Debian and Ubuntu: sudo apt install %s\n' "${missing[*]}" >&2
  exit 0
fi
printf 'installing the Debian packages that tests use: %s\n' "${missing[*]}" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
"${apt[@]}" update >&2 || true
if [[ " ${missing[*]} " == *' postgresql '* ]]; then
  # The tests start servers of their own: the package shall not make a cluster and run one for the whole machine.
  "${apt[@]}" install --no-install-recommends -y postgresql-common >&2
  "${as_root[@]}" sh -c 'grep -q "^create_main_cluster" /etc/postgresql-common/createcluster.conf 2>/dev/null ||
    echo "create_main_cluster = false" >> /etc/postgresql-common/createcluster.conf'
fi
"${apt[@]}" install --no-install-recommends -y "${missing[@]}" >&2 ||
  printf 'could not be installed, so the tests that need it are left out: %s\n' "${missing[*]}" >&2
