"""A package on its way into the enclave's cache: written and hashed as it comes, and now and then told of.

What an earlier process has left is hashed first, in a thread: it may be many gigabytes, and the enclave has to answer
signals meanwhile. The digest decides whether the download is kept; what the engine takes of it is verified there.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable
from typing import BinaryIO, Final, NamedTuple

from aigovtool.ids import Digest, ModelId

_LOG: Final = logging.getLogger(__name__)
#: Is called with the bytes that are there.
Told = Callable[[int], None]
#: How often a download is told of; one that is over sooner is not.
_TELL_EVERY_S: Final = 10.0
_PIECE_BYTES: Final = 1 << 20


def logged(model: ModelId, size: int, clock: Callable[[], float] = time.monotonic) -> Told:
    """Return what logs, every ten seconds, how far the package of a model has come."""
    told_s = clock()

    def tell(done: int) -> None:
        nonlocal told_s
        if clock() - told_s >= _TELL_EVERY_S:
            told_s = clock()
            _LOG.info("package_download", extra={"model": model, "mib": done >> 20, "of_mib": size >> 20})

    return tell


class Hashed(NamedTuple):
    """The digest of the first `done` bytes of a download, to which more can be added."""

    digest: "hashlib._Hash"
    done: int


class Incoming:
    """One download into an open file, of at most `size` bytes."""

    def __init__(self, file: BinaryIO, size: int, told: Told, before: Hashed | None = None) -> None:
        """Begin; `before` is what an earlier try of this process has hashed, whose file this is."""
        self._file: Final = file
        self._size: Final = size
        self._told: Final = told
        self._digest = hashlib.sha256()
        self._before: Final = before
        #: Bytes that are there.
        self.done = 0

    async def resume(self) -> int:
        """Take what an earlier try has left, unless it is more than may be; return how many bytes that is."""
        left = self._file.seek(0, os.SEEK_END)
        if self._before is not None and self._before.done == left:
            self._digest, self.done = self._before.digest.copy(), left
        elif left <= self._size:
            await asyncio.to_thread(self._hash, left)
        return self.done

    def begin_anew(self) -> None:
        """Forget what is there: all of it comes."""
        self._file.truncate(self._file.seek(0))
        self._digest, self.done = hashlib.sha256(), 0

    def add(self, chunk: bytes) -> bool:
        """Write what came next; return whether it is not more than there may be."""
        if self.done + len(chunk) > self._size:
            return False
        self._file.write(chunk)
        self._digest.update(chunk)
        self.done += len(chunk)
        self._told(self.done)
        return True

    def hashed(self) -> Hashed:
        """Return what another try can go on from."""
        return Hashed(self._digest.copy(), self.done)

    def is_package(self, package: Digest) -> bool:
        """Write what is still held, and return whether all of it has this digest."""
        self._file.flush()
        return package == f"sha256:{self._digest.hexdigest()}"

    def _hash(self, left: int) -> None:
        """Hash so many bytes of the file, though its host may make it longer meanwhile."""
        self._file.seek(0)
        while piece := self._file.read(min(_PIECE_BYTES, left - self.done)):
            self._digest.update(piece)
            self.done += len(piece)
            self._told(self.done)
