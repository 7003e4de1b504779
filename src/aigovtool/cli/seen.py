"""The newest version of a document that was seen, in a file: an older one, however well signed, does not come back."""

from pathlib import Path
from typing import TYPE_CHECKING

from aigovtool.cli.document import read_document, write_document
from aigovtool.codec import Message
from aigovtool.errors import AppraisalError, ConfigurationError
from aigovtool.ids import Digest

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AppraisalPolicy
    from aigovtool.attestation.reference_values import ReferenceLibrary


class Seen(Message):
    """The newest version of one document; `what` is policy or library."""

    what: str
    version: int
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
    if file.exists():
        begin = "name another file, or remove it"
        seen = read_document(file, "seen.v1", Seen, None, what="what was seen of a document", begin=begin)
        if seen.what != what:
            raise ConfigurationError(f"{file} is about a {seen.what}, not a {what}", reason="bad_document", fix=begin)
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
    write_document(file, mark, replace=True)
