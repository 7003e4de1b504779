"""What `aigovtool doctor` says of SQLite: which one is loaded, and whether a ledger in it is safe.

SQLite 3.7.0 to 3.51.2 has a defect in WAL mode: when one connection starts a checkpoint while another begins the log
anew, pages can be lost. It needs two connections. A ledger has one: the custodian holds the file exclusively from its
first statement on, so that a second one, of whatever program, is refused (`custodian.store.sqlite`). That is what makes
WAL mode safe on these versions, and it rests on file locks: on a network file system they may not hold.

A ledger that a custodian serves can be opened by nobody, so its journal mode is read from the first bytes of the file
(file format, section 1.3.3), and who holds it from the kernel. The file is only read, and never by SQLite. This is
for a process of its own: where a custodian runs in the same process, closing the file would release its locks.
"""

import fcntl
import os
import sqlite3
import struct
import sys
from pathlib import Path
from typing import Final

from aigovtool.cli.doctor.check import MISSING, NOTE, OK, WRONG, Check
from aigovtool.cli.words import plain, size

#: The first version that has the defect, and the first that has it no more.
_DEFECT_SINCE: Final = (3, 7, 0)
_DEFECT_UNTIL: Final = (3, 51, 3)
_DEFECT: Final = "the WAL-reset defect of SQLite 3.7.0 to 3.51.2"

_MAGIC: Final = b"SQLite format 3\0"
#: Bytes 18 and 19 of a database: the format that writers and readers need; 2 is WAL.
_FORMAT: Final = slice(18, 20)
_JOURNALS: Final = {b"\x01\x01": "rollback journal", b"\x02\x02": "WAL"}
#: Where SQLite's locks lie in the file (os_unix.c): whoever uses the file holds some of them.
_LOCKS_START: Final = 0x40000000
_LOCKS_BYTES: Final = 512
#: `struct flock` of Linux on 64-bit machines: type, whence, start, length, process.
_FLOCK: Final = struct.Struct("hhqqi4x")
_UNKNOWN: Final = "unknown"
#: Types of mounts that are another machine's disk.
_NETWORK: Final = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "gluster", "lustre", "fuse.", "virtiofs")


def has_defect(version: tuple[int, ...]) -> bool:
    """Return whether a version of SQLite can lose pages in WAL mode with two connections."""
    return _DEFECT_SINCE <= version < _DEFECT_UNTIL


def loaded() -> Check:
    """Return which SQLite this Python has really loaded, and from where."""
    connection = sqlite3.connect(":memory:")
    try:
        version, source = connection.execute("SELECT sqlite_version(), sqlite_source_id()").fetchone()
    finally:
        connection.close()
    defect = has_defect(sqlite3.sqlite_version_info)
    found = f"{version} of {str(source)[:10]}, {_library()}"
    if defect:
        found += f"; has {_DEFECT}, which needs two connections: a ledger has one, and that is enforced"
    return Check(name="sqlite", standing=NOTE if defect else OK, found=found)


def ledger(path: Path, version: tuple[int, ...] = sqlite3.sqlite_version_info) -> list[Check]:
    """Return what is to be said of a ledger's file; `version` is the SQLite that a custodian here would use."""
    try:
        with path.open("rb") as file:
            start = file.read(100)
            held = _holder(file.fileno())
    except OSError as error:
        return [Check(name="ledger", standing=MISSING, found=f"{path}: {error.strerror}")]
    if not start.startswith(_MAGIC):
        return [Check(name="ledger", standing=WRONG, found=f"{path} is no SQLite database")]
    journal = _JOURNALS.get(start[_FORMAT], "of a format that this program does not know")
    log = path.with_name(path.name + "-wal")
    kept = f" and {size(log.stat().st_size)} in {log.name}" if log.exists() else ""
    found = f"SQLite, {size(path.stat().st_size)}{kept}, {held or 'no custodian holds it'}"
    return [
        Check(name="ledger", standing=OK, found=found),
        _journal(journal, version),
        _file_system(path),
    ]


def _journal(journal: str, version: tuple[int, ...]) -> Check:
    shown = ".".join(str(part) for part in version)
    if journal != "WAL":
        return Check(name="journal", standing=NOTE, found=f"{journal}; a custodian that opens it turns WAL on")
    if has_defect(version):
        found = f"WAL, with SQLite {shown}: safe, because {_DEFECT} needs a second connection, which is refused"
    else:
        found = f"WAL, with SQLite {shown}: safe, and {_DEFECT} is not in it"
    return Check(name="journal", standing=OK, found=found)


def _file_system(path: Path) -> Check:
    """Say whether locks on the file can be relied on: they are what keeps a second connection out."""
    kind, where = _mount(path)
    if kind.startswith(_NETWORK):
        return Check(
            name="file system",
            standing=WRONG,
            found=f"{kind} at {where}: its locks may not keep a second custodian out; use a local disk or PostgreSQL",
        )
    if kind == _UNKNOWN:
        found = f"not known at {where}: make sure that it is a disk of this machine, for its locks keep others out"
        return Check(name="file system", standing=NOTE, found=found)
    return Check(name="file system", standing=OK, found=f"{kind} at {where}")


def _mount(path: Path) -> tuple[str, str]:
    """Return type and place of the mount that `path` lies on."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return _UNKNOWN, str(path.parent)
    for fields in (line.split(" ") for line in reversed(lines)):
        if fields[2] == number and "-" in fields:
            return plain(fields[fields.index("-") + 1]), plain(fields[4])
    return _UNKNOWN, str(path.parent)


def _holder(descriptor: int) -> str | None:
    """Return who holds the file, as the kernel says; nothing is locked. None also where it is asked differently."""
    if sys.platform != "linux":
        return None
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKS_START, _LOCKS_BYTES, 0)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, asked)
    except OSError:
        return None
    kind, _, _, _, process = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else f"held by process {process}"


def _library() -> str:
    """Return the file that SQLite's code was loaded from."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "from an unknown place"
    names = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6 and "sqlite3" in line}
    # The library itself, if there is one; else it is part of Python's own module.
    found = sorted(names, key=lambda name: ("libsqlite3" not in name, name))
    return plain(found[0]) if found else "built into Python"
