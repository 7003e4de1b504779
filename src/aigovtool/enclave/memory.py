"""How much memory the engine may take on this machine, and that none of it is written to a disk in the clear.

The engine computes what consumers send with models that others made: a small input may ask for more memory than there
is (a product of an input with itself), and the kernel would end whatever process it likes. A bound turns that into an
error of that one run.

Memory in a TEE is encrypted; what is swapped out of it is not. The disk is the borrower's.

Sources: Linux man pages getrlimit(2) RLIMIT_AS, proc_swaps(5); Documentation/admin-guide/cgroup-v2.rst `memory.max`;
Documentation/ABI/testing/sysfs-block-dm `uuid`.
"""

import os
from pathlib import Path
from typing import Final

from aigovtool.errors import ConfigurationError

#: What the libraries reserve without using it (stacks and heaps of threads) counts against a bound of addresses.
_RESERVED_BYTES: Final = 2 << 30
#: The rest of the machine: the gateway, which holds up to 1 GiB of bodies and 1 GiB of answers, and the system.
_SHARE: Final = 0.75
_CGROUP: Final = Path("sys/fs/cgroup/memory.max")
_SWAPS: Final = Path("proc/swaps")
_ENCRYPTED: Final = "CRYPT-"


def engine_address_bytes(root: Path = Path("/")) -> int:
    """Return the bound of the engine child's address space: three quarters of the memory that there is, and 2 GiB."""
    return int(_memory_bytes(root) * _SHARE) + _RESERVED_BYTES


def _memory_bytes(root: Path) -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = (root / _CGROUP).read_text(encoding="ascii").strip()
    except OSError:
        return machine
    return min(machine, int(allowed)) if allowed.isdecimal() else machine


def require_no_plain_swap(root: Path = Path("/")) -> None:
    """Refuse a machine that may write memory to a disk in the clear.

    Swap in compressed memory (zram), and on a device that dm-crypt encrypts, is taken. A platform without such a list
    (Gramine) swaps nothing out by itself.

    Raises:
        ConfigurationError: `swap`.
    """
    try:
        _, *lines = (root / _SWAPS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    plain = [line.split()[0] for line in lines if line.strip() and not _is_safe(root, line.split()[0])]
    if plain:
        raise ConfigurationError(
            f"this machine may write the memory of the enclave to {plain[0]}",
            reason="swap",
            fix="turn it off with `swapoff -a`, or use swap that is encrypted with a key that nobody keeps",
        )


def _is_safe(root: Path, name: str) -> bool:
    device = Path(name).resolve().name if name.startswith("/dev/") else ""
    if device.startswith("zram"):
        return True
    try:
        kind = (root / "sys/block" / device / "dm/uuid").read_text(encoding="ascii")
    except OSError:
        return False
    return bool(device) and kind.startswith(_ENCRYPTED)
