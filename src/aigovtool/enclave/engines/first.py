"""The child's first lines: `python -I -m aigovtool.enclave.engines.first`. Nothing of weight is imported before them.

While libraries are imported nobody of the same user looks in, and whoever lacks memory has this process ended before
any other: the gateway lives, and with it what it has counted.

Who opened this process's memory before its first line, where the kernel lets the same user do so, still has it open:
the interpreter's own start comes before that.

Sources: Linux man pages prctl(2) PR_SET_DUMPABLE, proc(5) `oom_score_adj`.
"""

import ctypes
import os

# Without `typing`, which takes longer to import than all the rest.
_PR_SET_DUMPABLE = 4
_OOM_SCORE = "/proc/self/oom_score_adj"


def begin() -> None:
    """Do what comes before all else.

    Raises:
        OSError: this process can be looked into.
    """
    try:
        with open(_OOM_SCORE, "wb", buffering=0) as file:  # noqa: PTH123 - pathlib takes long to import
            file.write(b"1000")
    except OSError:
        pass  # the kernel's own choice has to do
    nothing = ctypes.c_ulong(0)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, nothing, nothing, nothing, nothing) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    """Begin, and run the child."""
    begin()
    from aigovtool.enclave.engines import worker  # noqa: PLC0415 - only now

    worker.main()


if __name__ == "__main__":
    main()
