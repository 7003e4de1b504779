"""A program that exchanges a file again and again: `python swapping.py PATH OWN STOLEN COUNT KIND`; for ever with 0.

In the place of PATH are by turns a copy of OWN that only this user can read, and: a link to STOLEN, a pipe, another
file that others can read (STOLEN backwards), a directory. They change places in one step (renameat2(2)), so that PATH
is never missing, unless somebody removes it. When all is done it prints how often it was exchanged. KIND is `any`, or
`link`: then it is a link nearly all the time, so that whoever opens it once meets one.
"""

import ctypes
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

_HERE, _EXCHANGE = -100, 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def restore(path: Path, own: Path) -> None:
    """Put the own file there, and take everything else away."""
    shutil.rmtree(path.with_name(path.name + ".others"), ignore_errors=True)
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    made = path.with_name(path.name + ".made")
    made.touch(0o600)
    made.write_bytes(own.read_bytes())
    made.rename(path)


def prepare(path: Path, own: Path, stolen: Path, kind: str) -> list[Path]:
    """Put the own file there, and make what will take its place."""
    restore(path, own)
    others = path.with_name(path.name + ".others")
    others.mkdir()
    made = [others / name for name in ("link", "pipe", "copy", "directory")]
    made[0].symlink_to(stolen)
    os.mkfifo(made[1], 0o600)
    made[2].write_bytes(stolen.read_bytes()[::-1])
    made[2].chmod(0o644)
    made[3].mkdir()
    return made if kind == "any" else made[:1]


def swap(path: Path, own: Path, stolen: Path, count: int, kind: str) -> int:
    """Exchange it so often, or until this process is ended."""
    others, number = prepare(path, own, stolen, kind), 0
    while not count or number < count:
        other = bytes(others[number // 2 % len(others)])
        if _LIBC.renameat2(_HERE, bytes(path), _HERE, other, _EXCHANGE) == 0:
            number += 1
        else:  # whoever opened it has removed it
            with suppress(OSError):
                others = prepare(path, own, stolen, kind)
        # With each of them in place by turns, or with the link after each exchange that puts it there.
        if number % 9 == 0 if kind == "any" else number % 2 == 1:
            time.sleep(0.0002)
    return number


if __name__ == "__main__":
    place, ours, theirs = (Path(one) for one in sys.argv[1:4])
    sys.stdout.write(f"{swap(place, ours, theirs, int(sys.argv[4]), sys.argv[5])}\n")
