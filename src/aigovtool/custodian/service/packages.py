"""Sealed packages on the custodian's disk: ciphertext only, named by their digest.

An upload is written beside them, under a name of its own and under a lock, which ends with the process that holds it.
So a custodian that starts can tell what a killed one left behind from what another one, which shares the directory, is
writing at this moment.

Uploads leave room on the disk: the ledger lies there too, as a rule, and a stop must be written when an operator, or
the thief of an operator's key, has uploaded all that there was room for.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from aigovtool.crypto.sign import VerifyKey
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service.key_sets import require_not_behind, to_present
from aigovtool.custodian.store import parties
from aigovtool.custodian.store.records import Model
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import InvalidValueError, NotFoundError, PackageError, StorageError, TooLargeError
from aigovtool.ids import Digest
from aigovtool.ledger.entry import PartyRole
from aigovtool.limits import MAX_PACKAGE_BYTES
from aigovtool.package.sealing import PackageReader
from aigovtool.protocol.commands import AddModel, Command
from aigovtool.protocol.views import PackageStored
from aigovtool.regular_file import open_regular, read_regular

_CHUNK: Final = 1 << 20
_UPLOAD: Final = ".upload-"
#: What uploads leave free, of bytes and of files: a twentieth, or this if that is less.
_LEFT_BYTES: Final = 1 << 30
_LEFT_FILES: Final = 10_000
_RANGE_RE: Final = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})?")


def path_of(custodian: Custodian, package: Digest) -> Path:
    """Return where a package lies, or would lie."""
    return custodian.packages / f"{package.removeprefix('sha256:')}.aigov"


async def store(custodian: Custodian, package: Digest, chunks: AsyncIterator[bytes]) -> PackageStored:
    """Write an upload while hashing it; it appears under its name only when whole and right, and durably.

    Raises:
        PackageError: the bytes have another digest.
        TooLargeError: more than a package may have.
        StorageError: the disk did not take it (`package_not_stored`), or would be nearly full (`no_room_for_package`).
    """
    target = path_of(custodian, package)
    partial = custodian.packages / f"{_UPLOAD}{secrets.token_hex(8)}"
    digest, size = hashlib.sha256(), 0
    try:
        with partial.open("xb") as file:
            _hold(file)
            async for chunk in chunks:
                size += len(chunk)
                if size > MAX_PACKAGE_BYTES:
                    raise TooLargeError("the package is too large", reason="package_too_large")
                _require_room(file, len(chunk))
                digest.update(chunk)
                file.write(chunk)
            # In a thread: syncing gigabytes takes seconds, in which renewals must still be answered.
            await asyncio.to_thread(_sync, file)
        if f"sha256:{digest.hexdigest()}" != package:
            raise PackageError("the upload does not have the digest that it was announced with", reason="upload_digest")
        partial.rename(target)
        await asyncio.to_thread(_sync_directory, target.parent)
    except OSError as error:
        raise StorageError(
            f"the package could not be written: {error.strerror}",
            reason="package_not_stored",
            fix="free some space on the custodian's disk",
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return PackageStored(package=package, package_bytes=size)


def _require_room(file: BinaryIO, more: int) -> None:
    disk = os.fstatvfs(file.fileno())
    left = disk.f_bavail * disk.f_frsize - more
    # Some file systems have no number of files.
    many = disk.f_files and disk.f_favail < min(_LEFT_FILES, disk.f_files // 20)
    if many or left < min(_LEFT_BYTES, disk.f_blocks * disk.f_frsize // 20):
        raise StorageError(
            "the disk of the custodian's packages would be nearly full, and the ledger needs room",
            reason="no_room_for_package",
            fix="free some space on the custodian's disk: packages that no model is of can be removed",
        )


def _hold(file: BinaryIO) -> None:
    # Some network file systems have no locks: there nothing that was left behind is removed either.
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make a new name durable: a power cut must not take a package that an operator was told is stored."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_left(directory: Path) -> None:
    """Remove what is left of uploads that nobody is writing any more."""
    for left in directory.glob(f"{_UPLOAD}*"):
        with suppress(OSError):  # it is being written, or gone, or not ours to open
            _remove_unheld(left)


def _remove_unheld(left: Path) -> None:
    descriptor = open_regular(left, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left.unlink()
    finally:
        os.close(descriptor)


def registered_model(custodian: Custodian, transaction: Transaction, command: Command, act: AddModel) -> Model:
    """Check an uploaded package and its deposited key, and return the model to register.

    The sealer must be the operator who adds it, and the deposited key must open here.

    Raises:
        ConfigurationError: another custodian of this ledger has newer keys (`key_set_rollback`): a key that is kept
            under those of before may open nowhere soon.
    """
    require_not_behind(transaction, custodian.keys)
    operator = parties.require(transaction, PartyRole.OPERATOR, command.operator)
    with _opened(custodian, act.package, "upload it, then add the model") as file:
        package_bytes = os.fstat(file.fileno()).st_size
        reader = PackageReader(file, VerifyKey(operator.key))
    if reader.manifest_digest != act.manifest or reader.manifest.model != act.model:
        raise InvalidValueError("the package holds another model than the command names", reason="wrong_manifest")
    wrapped = to_present(custodian.keys, act.wrapped_key, act.manifest)
    return Model(
        model=act.model,
        manifest_digest=act.manifest,
        manifest=reader.manifest,
        package=act.package,
        package_bytes=package_bytes,
        sealer=operator.key,
        wrapped_key=wrapped,
        policy=act.policy,
        borrowers=act.borrowers,
    )


@dataclass(slots=True)
class PackageRange:
    """A package that is open for reading, and which bytes of it are wanted; whoever asked for it closes it."""

    file: BinaryIO
    start: int
    count: int
    total: int
    _first: bytes = b""

    def begin(self) -> None:
        """Read the first of it. What cannot be read is said here: an answer that has begun can only be cut off.

        Raises:
            StorageError: `package_unreadable`.
        """
        try:
            self.file.seek(self.start)
            self._first = self.file.read(min(_CHUNK, self.count))
        except OSError as error:
            raise _unreadable(error) from None

    def chunks(self) -> Iterator[bytes]:
        """Yield the wanted bytes, once it has begun."""
        left, chunk, self._first = self.count, self._first, b""
        while chunk:
            left -= len(chunk)
            yield chunk
            chunk = self.file.read(min(_CHUNK, left))

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _opened(custodian: Custodian, package: Digest, fix: str | None = None) -> BinaryIO:
    """Open a package; several custodians may share the directory, and something else may lie there in its place."""
    try:
        return read_regular(path_of(custodian, package))
    except FileNotFoundError:
        raise NotFoundError("there is no such package", reason="no_package", fix=fix) from None
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> StorageError:
    return StorageError(
        f"a package cannot be read: {error.strerror}",
        reason="package_unreadable",
        fix="look into the custodian's packages directory",
    )


def open_range(custodian: Custodian, package: Digest, range_header: str | None) -> PackageRange:
    """Open a package, or one range of it, which is to be begun then.

    Raises:
        NotFoundError: no such package.
        InvalidValueError: a range that does not lie in it (`bad_range`).
    """
    file = _opened(custodian, package)
    try:
        total = os.fstat(file.fileno()).st_size
        start, end = (0, total - 1) if range_header is None else _bounds(range_header, total)
    except BaseException:
        file.close()
        raise
    return PackageRange(file, start, end - start + 1, total)


def _bounds(range_header: str, total: int) -> tuple[int, int]:
    """Return the first and the last byte of a range."""
    match = _RANGE_RE.fullmatch(range_header)
    if match is None:
        raise InvalidValueError("only one simple byte range is served", reason="bad_range")
    start, end = int(match[1]), min(int(match[2] or total - 1), total - 1)
    if start > end:
        raise InvalidValueError("the range does not lie in the package", reason="bad_range")
    return start, end
