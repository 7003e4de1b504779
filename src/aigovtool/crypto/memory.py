"""Keeps what this process holds to itself: no core file, and no other process of the same user may look into it.

Root on the host, and a debugger that was attached before, are not kept out: that is what a TEE is for.

Sources: Linux man pages core(5), prctl(2) PR_SET_DUMPABLE, ptrace(2).
"""

import ctypes
import os
import resource
import sys
from typing import Final

from aigovtool.errors import ConfigurationError

_PR_SET_DUMPABLE: Final = 4


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
