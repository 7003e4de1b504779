"""How memory is shared on this machine, and that none of it is written to a disk in the clear.

The engine computes what consumers send with models that others made: a small input may ask for more memory than there
is (a product of an input with itself), and the kernel would end whatever process it likes. A bound turns that into an
error of that one run. The gateway's process holds what consumers send and have not taken, each within bounds that are
those of `aigovtool.limits` on a large machine. On a smaller one they are less, all by the same share, so that with the
engine and the rest of the machine they come to what there is:

    engine (three quarters)  +  bodies + answers not taken + answers kept + ids  +  the rest  <=  memory

They are never less than one request of the largest size takes; where a quarter is too little for that, the engine has
less. A machine on which it would have less than half serves small requests well, and is told so (`little_memory`).

Memory in a TEE is encrypted; what is swapped out of it is not. The disk is the borrower's.

Sources: Linux man pages getrlimit(2) RLIMIT_AS, proc_swaps(5), cgroups(7); Documentation/admin-guide/cgroup-v2.rst
`memory.max`; cgroup-v1/memory.rst `memory.limit_in_bytes`; Documentation/ABI/testing/sysfs-block-dm `uuid`;
admin-guide/blockdev/zram.rst `backing_dev`.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigovtool import limits
from aigovtool.enclave.control_groups import contents
from aigovtool.errors import ConfigurationError

#: What the engine's libraries reserve without using it counts against a bound of addresses: 280 MiB after the start,
#: and up to 64 MiB for each of three heaps.
_RESERVED_BYTES: Final = 512 << 20
#: Of the machine, for the engine; and the least where that leaves too little for the gateway.
_SHARE: Final = 0.75
_LEAST_ENGINE_SHARE: Final = 0.5
#: The system and the gateway itself (300 MiB), what two parsers make of JSON for a moment (130 MiB each were measured),
#: and what of the reserved is used after all.
_REST_BYTES: Final = 768 << 20
#: What an id takes that was used and whose answer is not kept (`spent_ids`).
_ID_BYTES: Final = 14
#: What the gateway holds at most for consumers, on a large machine.
_HELD_BYTES: Final = (
    limits.MAX_OPEN_BODY_BYTES
    + limits.MAX_UNREAD_BYTES
    + limits.MAX_RETAINED_RESULT_BYTES_IN_ALL
    + limits.MAX_REQUEST_IDS * _ID_BYTES
)
#: The least share of it: whoever asks takes no more than is left to others, so it is two of the largest bodies, and one
#: of the largest answers.
_LEAST_SHARE: Final = 2 * limits.MAX_INFER_BODY_BYTES / limits.MAX_OPEN_BODY_BYTES
_SWAPS: Final = Path("proc/swaps")
_ENCRYPTED: Final = "CRYPT-"
#: The largest has 19 digits: no bound.
_BYTES_RE: Final = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBounds:
    """What there is, and what an enclave may take of it: all in bytes, but for ids."""

    has: int
    engine_addresses: int
    bodies: int
    bodies_per_consumer: int
    unread: int
    unread_per_consumer: int
    kept: int
    kept_per_consumer: int
    ids: int
    ids_per_consumer: int

    @property
    def is_enough(self) -> bool:
        """Whether all of it together, with the engine and the rest, is not more than there is."""
        return self.has >= LEAST_BYTES

    @property
    def is_ample(self) -> bool:
        """Whether nothing is less than on the largest machine."""
        return self.has >= AMPLE_BYTES


#: With less than the first, bounds come to more than there is; from the second on they are those of any machine.
LEAST_BYTES: Final = int((_HELD_BYTES * _LEAST_SHARE + _REST_BYTES) / (1 - _LEAST_ENGINE_SHARE))
AMPLE_BYTES: Final = int((_HELD_BYTES + _REST_BYTES) / (1 - _SHARE))


def memory_bounds(root: Path = Path("/")) -> MemoryBounds:
    """Return how this machine's memory, or what this process may use of it, is shared."""
    has = _memory_bytes(root)
    share = min(1.0, max(_LEAST_SHARE, (has * (1 - _SHARE) - _REST_BYTES) / _HELD_BYTES))
    left = has - _REST_BYTES - int(_HELD_BYTES * share)
    engine = max(int(has * _LEAST_ENGINE_SHARE), min(int(has * _SHARE), left))
    largest = limits.MAX_INFER_BODY_BYTES
    return MemoryBounds(
        has=has,
        engine_addresses=engine + _RESERVED_BYTES,
        bodies=int(limits.MAX_OPEN_BODY_BYTES * share),
        bodies_per_consumer=max(largest, int(limits.MAX_OPEN_BODY_BYTES_PER_CONSUMER * share)),
        unread=int(limits.MAX_UNREAD_BYTES * share),
        unread_per_consumer=max(largest, int(limits.MAX_UNREAD_BYTES_PER_CONSUMER * share)),
        kept=int(limits.MAX_RETAINED_RESULT_BYTES_IN_ALL * share),
        kept_per_consumer=limits.MAX_RETAINED_RESULT_BYTES,
        ids=int(limits.MAX_REQUEST_IDS * share),
        ids_per_consumer=int(limits.MAX_REQUEST_IDS_PER_CONSUMER * share),
    )


def _memory_bytes(root: Path) -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_allowed(root)])


def _allowed(root: Path) -> Iterator[int]:
    """Yield what the control groups of this process allow, and all those that they are in."""
    for (allowed,) in contents(root, "memory", ("memory.max",), ("memory.limit_in_bytes",)):
        if _BYTES_RE.fullmatch(allowed):
            yield int(allowed)


def require_no_plain_swap(root: Path = Path("/")) -> None:
    """Refuse a machine that may write memory to a disk in the clear.

    Swap in compressed memory (zram) with no device behind it, and on a device that dm-crypt encrypts, is taken. A
    platform without such a list (Gramine) swaps nothing out by itself.

    Raises:
        ConfigurationError: `swap`.
    """
    try:
        # A file's name may be any bytes, and must not keep the list from being read.
        lines = (root / _SWAPS).read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    except OSError:
        return
    plain = [line.split()[0] for line in lines if line.strip() and not _is_safe(root, line.split()[0])]
    if plain:
        raise ConfigurationError(
            f"this machine may write the memory of the enclave to {plain[0]}",
            reason="swap",
            fix="turn it off with `swapoff -a`, or use swap that is encrypted with a key that nobody keeps",
        )


def _is_safe(root: Path, name: str) -> bool:
    try:
        device = Path(name).resolve().name if name.startswith("/dev/") else ""
    except (OSError, RuntimeError, ValueError):  # a loop of links, or no path at all
        return False
    if device.startswith("zram"):
        # What does not compress, or was not used for long, may be written to the device behind it, as it is.
        behind = _said(root / "sys/block" / device / "backing_dev")
        return behind in {None, "none"}
    return bool(device) and (_said(root / "sys/block" / device / "dm/uuid") or "").startswith(_ENCRYPTED)


def _said(path: Path) -> str | None:
    """Return what the kernel says there; None if there is nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError:
        return ""
