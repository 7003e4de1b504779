"""Whether engines have files of their own here: `python -I -m aigovtool.enclave.engines.files_trial`, which tries it.

It is tried as units run enclaves (docs/deploy.md): root keeps one capability, which maps it into a user namespace, and
another user none. And then with all that whoever runs this has, which may be more. One word is printed:

- `yes`: as units run them.
- `here`: with all that this user has.
- `no`.

Sources: Linux man pages capget(2), capabilities(7) CAP_SETFCAP, user_namespaces(7).
"""

import ctypes
import os
import struct
import sys
from typing import Final

from aigovtool.enclave.engines import private_files

_CAPABILITY_VERSION_3: Final = 0x20080522
#: The first half of each set of capabilities has it.
_CAP_SETFCAP: Final = 1 << 31
#: Effective, permitted, inheritable; and the second halves.
_SETS: Final = 6

_libc: Final = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Try, and say what came of it."""
    if _as_a_unit():
        sys.stdout.write("yes")
    else:
        sys.stdout.write("here" if private_files.enter(None) else "no")


def _as_a_unit() -> bool:
    """Try it in a process that has given up what units take; there is no way back from either."""
    child = os.fork()
    if not child:
        try:
            _keep_setfcap()
            os._exit(not private_files.enter(None))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _keep_setfcap() -> None:
    """Give up all capabilities but one, which is kept if it is there."""
    header, held = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * _SETS)()
    if _libc.capget(ctypes.c_char_p(header), held) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for index in range(_SETS):
        held[index] &= _CAP_SETFCAP if index < _SETS // 2 else 0
    if _libc.capset(ctypes.c_char_p(header), held) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    main()
