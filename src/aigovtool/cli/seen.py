"""The newest version of a document that was seen, in a file: an older one, however well signed, does not come back.

Several programs may use one file at once: each compares and writes while no other does, or one that has seen less would
write over what another has just seen. What keeps them apart is a lock on a file beside it, which stays there, empty.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aigovtool.cli.document import read_document, write_document
from aigovtool.codec import Message
from aigovtool.errors import AppraisalError, ConfigurationError, SignatureInvalidError
from aigovtool.ids import Digest, KeyId, Units

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AppraisalPolicy
    from aigovtool.attestation.reference_values import ReferenceLibrary
    from aigovtool.protocol.trust import KeySet

_BEGIN: Final = "name another file, or remove it"
#: Comparing and writing takes milliseconds: who waits longer waits for somebody who does not mean to end.
_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 0.02


class Seen(Message):
    """The newest version of one document; `what` is policy or library."""

    what: str
    version: int
    digest: Digest


class SeenKeys(Message):
    """The newest key set of one custodian."""

    custodian: KeyId
    version: Units
    digest: Digest


def require_newest(document: "AppraisalPolicy | ReferenceLibrary", file: Path) -> None:
    """Refuse a document older than the newest that `file` remembers, and remember this one.

    Raises:
        AppraisalError: it is older (`policy_rollback`, `library_rollback`), or another one of the same version
            (`policy_fork`, `library_fork`).
        ConfigurationError: the file cannot be read or written, or is of another document (`bad_document`).
    """
    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.ids import digest_of  # noqa: PLC0415

    what = "policy" if hasattr(document, "accepted") else "library"
    mark = Seen(what=what, version=document.version, digest=digest_of(encode(document)))
    if _newest(mark, file) != mark:
        with _alone(file):
            if _newest(mark, file) != mark:
                write_document(file, mark, replace=True)


def _newest(mark: Seen, file: Path) -> Seen | None:
    """Return what a file remembers, unless `mark` must not follow it."""
    if not _is_there(file):
        return None
    seen = read_document(file, "seen.v1", Seen, None, what="what was seen of a document", begin=_BEGIN)
    what = mark.what
    if seen.what != what:
        raise ConfigurationError(f"{file} is about a {seen.what}, not a {what}", reason="bad_document", fix=_BEGIN)
    if mark.version < seen.version:
        raise AppraisalError(
            f"this {what} has version {mark.version}; version {seen.version} was seen already",
            reason=f"{what}_rollback",
            fix=f"ask its publisher for the newest {what}",
        )
    if mark.version == seen.version and mark != seen:
        raise AppraisalError(
            f"two different documents have version {mark.version}",
            reason=f"{what}_fork",
            fix="ask its publisher which one is meant; each change raises the version",
        )
    return seen


def require_newest_keys(key_set: "KeySet", file: Path) -> None:
    """Refuse a custodian's key set older than the newest that `file` remembers, and remember this one.

    A file that remembers it already is not written, so that it may be one that this user can only read.

    Raises:
        SignatureInvalidError: it is older (`key_set_rollback`), or another one of the same version (`key_set_fork`).
        ConfigurationError: the file cannot be read or written, or is about another custodian (`bad_document`).
    """
    from aigovtool.codec import encode  # noqa: PLC0415
    from aigovtool.ids import digest_of  # noqa: PLC0415

    mark = SeenKeys(custodian=key_set.custodian, version=key_set.version, digest=digest_of(encode(key_set)))
    if _newest_keys(mark, file) != mark:
        with _alone(file):
            if _newest_keys(mark, file) != mark:
                write_document(file, mark, replace=True)


def _newest_keys(mark: SeenKeys, file: Path) -> SeenKeys | None:
    """Return what a file remembers, unless `mark` must not follow it."""
    if not _is_there(file):
        return None
    seen = read_document(file, "seen.v1", SeenKeys, None, what="what was seen of a key set", begin=_BEGIN)
    if seen.custodian != mark.custodian:
        raise ConfigurationError(f"{file} is about another custodian", reason="bad_document", fix=_BEGIN)
    if mark.version < seen.version:
        raise SignatureInvalidError(
            f"the enclave goes by version {mark.version} of the custodian's keys; version {seen.version} was seen "
            f"already, and a key may have been revoked in between",
            reason="key_set_rollback",
            fix="ask the custodian's operator whether this enclave hears from the custodian",
        )
    if mark.version == seen.version and mark != seen:
        raise SignatureInvalidError(
            f"two different key sets of the custodian have version {mark.version}",
            reason="key_set_fork",
            fix="tell the custodian's operator: whoever signed the second one has the root key",
        )
    return seen


def _is_there(file: Path) -> bool:
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise ConfigurationError(f"{file} is not a regular file", reason="bad_document", fix=_BEGIN)
    return file.exists()


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other programs of ours from changing a file meanwhile."""
    try:
        descriptor = _open_lock(file.with_name(f".{file.name}.lock"))
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}", reason="unwritable_file") from None
    try:
        _lock(descriptor, file)
        yield
    finally:
        os.close(descriptor)


def _open_lock(lock: Path) -> int:
    from aigovtool.regular_file import open_regular  # noqa: PLC0415

    try:
        return open_regular(lock, os.O_RDWR | os.O_CREAT, mode=0o644)
    except PermissionError:  # another user has made it, with whom this file is shared
        return open_regular(lock)


def _lock(descriptor: int, file: Path) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise ConfigurationError(
                    f"another program holds {file}", reason="unwritable_file", fix="try again when it has ended"
                ) from None
            time.sleep(_PAUSE_S)
        except OSError as error:
            raise ConfigurationError(f"cannot lock {file}: {error.strerror}", reason="unwritable_file") from None
        else:
            return
