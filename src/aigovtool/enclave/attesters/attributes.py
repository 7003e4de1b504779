"""Files that are no storage: a driver answers each read and takes each write as a command.

That is how Linux (configfs, section 7 of its ABI text for `configfs-tsm`) and Gramine (`/dev/attestation`) let a
guest ask for reports. Such files want a value in one write, and give an answer to one open; what is written counts
when the file is closed, and an error at that moment is lost.
"""

import errno
import os
from pathlib import Path
from typing import Protocol

from aigovtool.errors import ConfigurationError, EvidenceError

#: What may be asked for again: another quote is in flight, or a signal came in between.
PASSING: frozenset[int] = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR})

_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})
_CHUNK_BYTES = 64 << 10


class Attributes(Protocol):
    """Such files. Every method raises `OSError` as the driver says."""

    def exists(self, path: Path) -> bool:
        """Return whether there is something at `path`."""
        ...

    def make(self, path: Path) -> None:
        """Make the directory `path`; the driver fills it."""
        ...

    def remove(self, path: Path) -> None:
        """Remove the directory `path` with what the driver has put into it."""
        ...

    def read(self, path: Path, most: int) -> bytes:
        """Return all of `path`, read with one open; `OSError(EFBIG)` if it is more than `most` bytes."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Give `data` to `path` in one write."""
        ...


class KernelAttributes:
    """The files of the running kernel."""

    def exists(self, path: Path) -> bool:
        """Return whether there is something at `path` that this process may see."""
        try:
            path.stat()
        except OSError:
            return False
        return True

    def make(self, path: Path) -> None:
        """Make the directory `path`."""
        path.mkdir()

    def remove(self, path: Path) -> None:
        """Remove the directory `path`; what is in it belongs to the driver."""
        path.rmdir()

    def read(self, path: Path, most: int) -> bytes:
        """Return all of `path`, read with one open; `OSError(EFBIG)` if it is more than `most` bytes."""
        found = bytearray()
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while chunk := os.read(file, _CHUNK_BYTES):
                found += chunk
                if len(found) > most:
                    raise OSError(errno.EFBIG, f"more than {most} bytes", str(path))
        finally:
            os.close(file)
        return bytes(found)

    def write(self, path: Path, data: bytes) -> None:
        """Give `data` to `path` in one write."""
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(file, data) != len(data):
                raise OSError(errno.EIO, "the value was not taken in one write", str(path))
        finally:
            os.close(file)


def failure(error: OSError, what: str) -> ConfigurationError | EvidenceError:
    """Return the typed error for what a driver answered; `what` was to be done.

    Reasons: `attester_absent`, `attester_no_provider`, `attester_permission` (of configuration); `attester_too_large`,
    `attester_busy`, `attester_failed` (of evidence).
    """
    said = f"{what}: {error.strerror or 'error'} ({error.filename or 'no file'})"
    if error.errno in _ABSENT:
        return ConfigurationError(said, reason="attester_absent", fix="run this in a guest of the platform it is for")
    if error.errno == errno.ENXIO:
        return ConfigurationError(
            said, reason="attester_no_provider", fix="load the driver of the platform: sev-guest or tdx-guest"
        )
    if error.errno in _FORBIDDEN:
        return ConfigurationError(said, reason="attester_permission", fix="give this process the right to these files")
    if error.errno == errno.EFBIG:
        return EvidenceError(said, reason="attester_too_large")
    return EvidenceError(said, reason="attester_busy" if error.errno in PASSING else "attester_failed")
