"""A process of the demo that does not outlive it: `python -m aigovtool.cli.demo.child PARENT WORDS...`.

The kernel is asked to end this process when the demo ends, however it ends (PR_SET_PDEATHSIG, Linux). That is asked
for here, in the new process, because code between fork and exec is unsafe in a program that may have threads.
"""

import ctypes
import os
import signal
import sys
from typing import Final

from aigovtool.cli import main

_PR_SET_PDEATHSIG: Final = 1


def live_no_longer_than(parent: int) -> None:
    """Have this process terminated when `parent` ends; end at once if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    live_no_longer_than(int(sys.argv[1]))
    del sys.argv[1]
    main()
