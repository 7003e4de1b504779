"""Which user of this machine is at the other end of a connection over loopback.

Loopback is open to all users of a machine, and a gateway asks in the name of one of them. Linux says in `/proc/net/tcp`
(proc(5)) which user each socket belongs to; there the socket at the other end is looked up by its two addresses.
"""

import os
import socket
from pathlib import Path
from typing import Final

_TABLES: Final = {socket.AF_INET: Path("/proc/net/tcp"), socket.AF_INET6: Path("/proc/net/tcp6")}
#: Columns of a line: local address, remote address, state, queues, timer, retransmits, user.
_LOCAL, _REMOTE, _USER = 1, 2, 7
_ROOT: Final = 0


def can_tell() -> bool:
    """Return whether this system says whose a socket is."""
    return all(os.access(table, os.R_OK) for table in _TABLES.values())


def is_ours(peer: tuple[str, int], own: tuple[str, int]) -> bool:
    """Return whether a program of this user, or of root, has the socket that is connected from `peer` to `own`."""
    user = user_of(peer, own)
    return user is not None and user in {os.getuid(), _ROOT}


def user_of(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Return the id of the user whose socket is connected from `peer` to `own`; None if there is no such socket here.

    A socket of the second family may hold a connection of the first (`::ffff:127.0.0.1`), so both tables are looked at.
    """
    for family, table in _TABLES.items():
        wanted = [(_hexadecimal(family, *one)) for one in (peer, own)]
        if None in wanted:
            continue
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[_LOCAL : _REMOTE + 1] == wanted:
                return int(fields[_USER])
    return None


def _hexadecimal(family: socket.AddressFamily, host: str, port: int) -> str | None:
    """Return an address as the tables have it: words of 32 bits in the machine's order, which here is little-endian."""
    if family is socket.AF_INET6 and ":" not in host:
        host = f"::ffff:{host}"
    try:
        packed = socket.inet_pton(family, host)
    except OSError:
        return None
    words = [packed[start : start + 4][::-1].hex().upper() for start in range(0, len(packed), 4)]
    return f"{''.join(words)}:{port:04X}"
