"""A package on its way into the enclave's cache: written and hashed as it comes, and now and then told of.

What is there of an earlier try is hashed first, in a thread: it may be many gigabytes, and the enclave has to answer
signals meanwhile. The digest decides whether the download is kept; what the engine takes of it is verified there.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable
from typing import BinaryIO, Final

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


class Incoming:
    """One download into an open file, of at most `size` bytes."""

    def __init__(self, file: BinaryIO, size: int, told: Told) -> None:
        self._file: Final = file
        self._size: Final = size
        self._told: Final = told
        self._digest = hashlib.sha256()
        #: Bytes that are there.
        self.done = 0

    async def resume(self) -> int:
        """Take what an earlier try has left, unless it is all or more; return how many bytes that is."""
        left = self._file.seek(0, os.SEEK_END)
        if left < self._size:
            await asyncio.to_thread(self._hash_left)
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

    def is_package(self, package: Digest) -> bool:
        """Write what is still held, and return whether all of it has this digest."""
        self._file.flush()
        return package == f"sha256:{self._digest.hexdigest()}"

    def _hash_left(self) -> None:
        self._file.seek(0)
        while piece := self._file.read(_PIECE_BYTES):
            self._digest.update(piece)
            self.done += len(piece)
            self._told(self.done)
