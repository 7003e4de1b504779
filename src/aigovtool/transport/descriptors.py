"""Open files, of which each connection takes one: as many as a full server needs, or a warning that there are fewer.

Many systems start programs with a soft limit of 1,024 and a far higher hard one (getrlimit(2), systemd.exec(5)). A
server that runs out of descriptors cannot accept: whoever holds connections open would shut everybody else out, long
before any bound of ours is reached.
"""

import logging
import resource
from contextlib import suppress
from typing import Final

from aigovtool.limits import MAX_CONNECTIONS, MAX_HANDSHAKES, MAX_REFUSALS_TOLD

#: A connection may read a file while it is answered (a package), and there are those of the program itself.
NEEDED: Final = 2 * MAX_CONNECTIONS + MAX_HANDSHAKES + MAX_REFUSALS_TOLD + 256
_LOG: Final = logging.getLogger(__name__)


def provide(needed: int = NEEDED) -> None:
    """Raise the soft limit of open files to what a server needs; warn when the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    possible = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    with suppress(OSError, ValueError):  # a sandbox may forbid it; what came of it is looked at below
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft < needed:
        _LOG.warning(
            "few_open_files", extra={"limit": soft, "needed": needed, "fix": "raise LimitNOFILE, or ulimit -n"}
        )
