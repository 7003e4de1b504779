"""Keeps what this process holds to itself: no core file, no other process of its user looks in, nothing is swapped out.

Root on the host, and a debugger that was attached before, are not kept out: that is what a TEE is for.

All memory is locked, not only the pages that hold keys: OpenSSL and Python make copies of a key wherever they like.

Sources: Linux man pages core(5), prctl(2) PR_SET_DUMPABLE, ptrace(2), mlockall(2), getrlimit(2) RLIMIT_MEMLOCK,
capabilities(7) CAP_IPC_LOCK.
"""

import ctypes
import logging
import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from aigovtool.errors import ConfigurationError

_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
#: A page is locked when it is first used; without this, all that is reserved would be taken at once.
_MCL_ONFAULT: Final = 4
_UNLIMITED: Final = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
_CAP_IPC_LOCK: Final = 14
#: What to do about memory that is not locked.
LOCK_FIX: Final = "set LimitMEMLOCK=infinity (ulimit -l unlimited), or turn swap off"
_LOG: Final = logging.getLogger(__name__)


def keep_private() -> None:
    """Forbid core files and ptrace for this process; programs that it starts inherit the former.

    Both are needed: a core that is piped to a program (systemd-coredump) is not bound by the limit.

    Raises:
        ConfigurationError: `memory_not_private`.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_DUMPABLE, nothing, nothing, nothing, nothing) != 0:
        raise ConfigurationError(
            f"core files cannot be forbidden: {os.strerror(ctypes.get_errno())}", reason="memory_not_private"
        )


def keep_to_itself() -> None:
    """As `keep_private`, for a server, whose keys stay: nothing of its memory is swapped out either.

    It warns where memory cannot be locked. Programs that this process starts lock theirs themselves.

    Raises:
        ConfigurationError: `memory_not_private`.
    """
    keep_private()
    if not lock(with_capability=True):
        _LOG.warning("memory_not_locked", extra={"what": "this process", "fix": LOCK_FIX})


def lock(*, with_capability: bool) -> bool:
    """Lock all memory of this process, now and later, so that none of it is swapped out; return whether it is.

    Only where any amount may be locked: under a limit, later allocations would fail when it is reached. The limit does
    not bind a process that has and keeps CAP_IPC_LOCK, which `with_capability` says.
    """
    if sys.platform != "linux":
        return False
    with suppress(OSError, ValueError):  # whoever may raise the limit; what came of it is looked at below
        resource.setrlimit(resource.RLIMIT_MEMLOCK, _UNLIMITED)
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not (unlimited or (with_capability and _has_capability(_CAP_IPC_LOCK))):
        return False
    locked: int = ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)
    return locked == 0


def _has_capability(number: int) -> bool:
    try:
        status = Path("/proc/self/status").read_bytes()
    except OSError:
        return False
    held = re.search(rb"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return held is not None and bool(int(held[1], 16) >> number & 1)
