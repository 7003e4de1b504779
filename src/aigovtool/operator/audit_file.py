r"""The audit log on disk: what `aigovtool audit export` writes and an outsider verifies without the custodian.

JSON lines. The first is a header; each further line is one entry beside its leaf hash:

```
{"format":"aigovtool-audit.v1","checkpoint":"aigovtool/…\n…","key_set":{…DSSE envelope signed by the root key…},
 "cosigned":["aigovtool/…\n…"]}
{"leaf":"<64 hex digits>","entry":{"index":0,"at_ms":…,"generation":0,"body":{"kind":"genesis",…}}}
```

(The header is one line; `cosigned` is there only where witnesses co-signed an earlier checkpoint.)

Every line is in its only encoding and the file ends with a line feed, so that no byte in it is without meaning. What
the lines say is judged by `ledger.audit`; here is only the framing.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal

from msgspec import Meta

from aigovtool.codec import Message, decode_signed, encode
from aigovtool.crypto.sign import Envelope, VerifyKey
from aigovtool.errors import ConfigurationError, ConflictError, InputError, LogError
from aigovtool.ledger.audit import MAX_ENTRY_BYTES, AuditReport, LoggedEntry, verify_log
from aigovtool.ledger.checkpoint import parse_checkpoint
from aigovtool.ledger.cosignature import WitnessKey
from aigovtool.ledger.merkle import leaf_hash
from aigovtool.protocol.trust import open_key_set
from aigovtool.protocol.views import CosignedNotes, LogHead
from aigovtool.regular_file import give_name, new_beside

FORMAT: Final = "aigovtool-audit.v1"
#: A key set of a MiB, which is the largest that any custodian makes, in base64: keys that are only rotated stay in it.
_MAX_HEADER_BYTES: Final = 2 << 20
_PREFIX: Final = b'{"leaf":"'
_MIDDLE: Final = b'","entry":'
_LEAF_CHARS: Final = 64
_LEAF_RE: Final = re.compile(rb"[0-9a-f]{64}")
_MAX_LINE_BYTES: Final = MAX_ENTRY_BYTES + 128
_NO_COPY: Final = "give a file that `aigovtool audit export` wrote, as it wrote it, or have it written again"


class AuditHeader(Message, omit_defaults=True):
    """The first line. `cosigned` holds earlier checkpoints with co-signatures of witnesses, where there are any."""

    format: Literal["aigovtool-audit.v1"]
    checkpoint: Annotated[str, Meta(max_length=4096)]
    key_set: Envelope
    cosigned: CosignedNotes = ()


def write_audit_file(path: Path, head: LogHead, entries: Iterable[bytes], *, replace: bool = False) -> int:
    """Write the log to `path`, whole or not at all, and return the number of entries.

    Raises:
        ConflictError: `audit_file_exists`, unless `replace`.
        ConfigurationError: `unwritable_audit_file`.
        LogError: `truncated` if there are fewer or more entries than the checkpoint in `head` says.
    """
    partial: Path | None = None
    count = 0
    try:
        if path.exists() and not replace:
            raise _exists(path)
        file, partial = new_beside(path)
        with file:
            header = AuditHeader(
                format=FORMAT, checkpoint=head.checkpoint, key_set=head.key_set, cosigned=head.cosigned
            )
            file.write(encode(header) + b"\n")
            for entry in entries:
                file.write(_PREFIX + leaf_hash(entry).hex().encode() + _MIDDLE + entry + b"}\n")
                count += 1
        _require_whole(count, parse_checkpoint(head.checkpoint).size)
        if replace:
            partial.replace(path)
        else:
            give_name(partial, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {str(path)[:100]}: {error.strerror}",
            reason="unwritable_audit_file",
            fix="choose another name or directory, and look whether the disk is full",
        ) from None
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    return count


def _exists(path: Path) -> ConflictError:
    return ConflictError(f"{path} exists already", reason="audit_file_exists", fix="choose another name")


def _require_whole(count: int, size: int) -> None:
    """Refuse what verifies nowhere before anybody takes it for a copy."""
    if count != size:
        raise LogError(
            f"the custodian sent {count} entries of a log of which it has signed that it has {size}; nothing was "
            "written",
            reason="truncated",
            fix="try again; if it stays so, the custodian has lost or withholds entries: ask its operators",
        )


def verify_audit_file(
    path: Path,
    root: VerifyKey,
    *,
    seen: Iterable[str] = (),
    names: Iterable[str] = (),
    witnesses: Sequence[WitnessKey] = (),
    key_set_at_least: int = 0,
    keep: Callable[[bytes], None] = lambda _: None,
) -> AuditReport:
    """Verify a copy of the log under the pinned root key of its custodian.

    Args:
        path: the copy.
        root: the custodian's root key.
        seen: older signed checkpoints that the reader holds.
        names: what a refusal calls them, in the same order.
        witnesses: those whose co-signatures the reader believes.
        key_set_at_least: the lowest version of the custodian's key set to accept: a key may have been revoked since.
        keep: is given each entry as it is read. What it was given is worth something only when this returns.

    Raises:
        ConfigurationError: the file cannot be read.
        SignatureInvalidError: the key set is not signed by `root`, or is too old (`key_set_rollback`).
        LogError: naming the first bad entry, or a checkpoint that the log does not extend.
    """
    try:
        with path.open("rb") as file:
            header = _header(file.readline(_MAX_HEADER_BYTES + 1))
            key_set = open_key_set(header.key_set, root, at_least=key_set_at_least)
            return verify_log(
                _kept(_entries(file), keep),
                header.checkpoint,
                key_set.log_keys(),
                root.key_id,
                seen=seen,
                names=names,
                cosigned=header.cosigned,
                witnesses=witnesses,
                revoked=key_set.revoked_log_keys(),
            )
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {str(path)[:100]}: {error.strerror}", reason="unreadable_audit_file", fix=_NO_COPY
        ) from None


def _kept(entries: Iterator[LoggedEntry], keep: Callable[[bytes], None]) -> Iterator[LoggedEntry]:
    for entry in entries:
        keep(entry.data)
        yield entry


def _header(line: bytes) -> AuditHeader:
    try:
        if not line.endswith(b"\n"):
            raise LogError("the first line is cut off or too long", reason="header", fix=_NO_COPY)
        return decode_signed(line[:-1], AuditHeader, max_bytes=_MAX_HEADER_BYTES)
    except InputError as error:
        raise LogError(
            f"the header of the audit file cannot be read: {error.message}", reason="header", fix=_NO_COPY
        ) from None


def _entries(file: BinaryIO) -> Iterator[LoggedEntry]:
    number = 0
    while line := file.readline(_MAX_LINE_BYTES + 1):
        yield _entry(line, number)
        number += 1


def _entry(line: bytes, number: int) -> LoggedEntry:
    start = len(_PREFIX) + _LEAF_CHARS
    leaf = line[len(_PREFIX) : start]
    framed = line.startswith(_PREFIX) and line[start:].startswith(_MIDDLE) and line.endswith(b"}\n")
    if not framed or len(line) > _MAX_LINE_BYTES or _LEAF_RE.fullmatch(leaf) is None:
        raise LogError(f"entry {number}: its line is cut off or not in the format of an audit file", reason="malformed")
    return LoggedEntry(data=line[start + len(_MIDDLE) : -2], leaf=bytes.fromhex(leaf.decode()))
