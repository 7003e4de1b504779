"""The records of all answers that went through the gateway, in a directory of its own.

```
receipts/2026-11-27.jsonl        one line for each answer of that day (UTC), the newest last
receipts/sessions/SHA256.json    what all answers of one attestation have in common: evidence and key set
```

Together, a line and its session are what `SavedReceipt` is, with which a receipt is verified without anybody's help. An
answer has been charged when it comes here, so what cannot be written never holds it back: it is counted, and said.
"""

import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence
from aigovtool.codec import Message, decode, encode
from aigovtool.consumer.clock import Clock
from aigovtool.consumer.receipts import SavedReceipt
from aigovtool.crypto.keyfile import make_private_directory, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import Envelope
from aigovtool.errors import AIGovToolError, ConfigurationError, InputError, NotFoundError
from aigovtool.ids import Digest, Millis, Nonce, RequestKey, digest_of
from aigovtool.ledger.receipt import MAX_SALT_BYTES, SignedReceipt
from aigovtool.limits import MAX_RECEIPT_BYTES, MAX_SAVED_RECEIPT_BYTES
from aigovtool.protocol.session import Share

_LOG: Final = logging.getLogger(__name__)
#: A receipt, a salt and three digests.
_MAX_LINE_BYTES: Final = 2 * MAX_RECEIPT_BYTES + 4096
_DAYS: Final = "????-??-??.jsonl"


class AttestedBy(Message):
    """What all records of one attestation have in common; see `SavedReceipt`."""

    identity_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    claims: Binding
    evidence: Evidence
    key_set: Envelope
    attested_at_ms: Millis
    nonce: Nonce | None = None
    share: Share | None = None


class KeptReceipt(Message):
    """One line: what is an answer's own; `session` names the file with the rest."""

    signed: SignedReceipt
    salt: Annotated[bytes, Meta(max_length=MAX_SALT_BYTES)]
    request: Digest
    response: Digest
    session: Digest


class KeptReceipts:
    """Appends to the records in one directory, which is made if need be."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Use a directory that only this user can open.

        Raises:
            ConfigurationError: it cannot be made, or others may write there.
        """
        self._directory: Final = directory
        self._clock: Final = clock
        make_private_directory(directory)
        make_private_directory(directory / "sessions")
        #: Answers whose records were kept, and whose could not be, since the gateway began.
        self.count = 0
        self.lost = 0
        self._day = ""
        self._file: int | None = None
        self._session: tuple[AttestedBy, Digest] | None = None

    def keep(self, saved: SavedReceipt) -> None:
        """Append the record of an answer; raises nothing."""
        try:
            line = encode(
                KeptReceipt(
                    signed=saved.signed,
                    salt=saved.salt,
                    request=saved.request,
                    response=saved.response,
                    session=self._kept_session(saved),
                )
            )
            _write_all(self._open_file(), line + b"\n")
        except (OSError, AIGovToolError) as error:
            self.lost += 1
            why = error.reason if isinstance(error, AIGovToolError) else error.strerror
            _LOG.error("receipt_not_kept request=%s reason=%s", saved.signed.receipt.request_key, why)
        else:
            self.count += 1

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open_file(self) -> int:
        day = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).strftime("%Y-%m-%d")
        if self._file is None or day != self._day:
            self.close()
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file, self._day = os.open(self._directory / f"{day}.jsonl", flags, 0o600), day
        return self._file

    def _kept_session(self, saved: SavedReceipt) -> Digest:
        attested = _attested(saved)
        if self._session is None or self._session[0] != attested:
            content = encode(attested)
            digest = digest_of(content)
            path = self._directory / "sessions" / f"{digest.removeprefix('sha256:')}.json"
            if not path.exists():
                with Secret(content) as secret:
                    write_secret_file(path, secret)
            self._session = attested, digest
        return self._session[1]


def find_receipt(directory: Path, request_key: RequestKey) -> SavedReceipt:
    """Return the newest record of a request.

    Raises:
        NotFoundError: there is none.
        ConfigurationError: the records cannot be read.
    """
    found = None
    for kept in read_receipts(directory):
        if kept.signed.receipt.request_key == request_key:
            found = kept
    if found is None:
        raise NotFoundError(f"no answer to the request {request_key} was kept in {directory}", reason="no_such_receipt")
    return _joined(directory, found)


def read_receipts(directory: Path) -> Iterator[KeptReceipt]:
    """Yield all lines, the oldest first; a last line that was cut off by a crash is left out.

    Raises:
        ConfigurationError: a file cannot be read, or is not what was written there.
    """
    for path in sorted(directory.glob(_DAYS)):
        try:
            with path.open("rb") as file:
                while line := file.readline(_MAX_LINE_BYTES + 1):
                    if line.endswith(b"\n"):
                        yield decode(line[:-1], KeptReceipt, max_bytes=_MAX_LINE_BYTES)
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_receipt") from None
        except InputError as error:
            raise ConfigurationError(
                f"{path} has a line that is no record: {error.message}", reason="bad_receipts"
            ) from None


def _joined(directory: Path, kept: KeptReceipt) -> SavedReceipt:
    path = directory / "sessions" / f"{kept.session.removeprefix('sha256:')}.json"
    try:
        content = path.read_bytes()
        attested = decode(content, AttestedBy, max_bytes=MAX_SAVED_RECEIPT_BYTES)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", reason="unreadable_receipt") from None
    except InputError as error:
        raise ConfigurationError(f"{path} is no session: {error.message}", reason="bad_receipts") from None
    return SavedReceipt(
        signed=kept.signed,
        identity_key=attested.identity_key,
        claims=attested.claims,
        evidence=attested.evidence,
        key_set=attested.key_set,
        salt=kept.salt,
        request=kept.request,
        response=kept.response,
        attested_at_ms=attested.attested_at_ms,
        nonce=attested.nonce,
        share=attested.share,
    )


def _attested(saved: SavedReceipt) -> AttestedBy:
    return AttestedBy(
        identity_key=saved.identity_key,
        claims=saved.claims,
        evidence=saved.evidence,
        key_set=saved.key_set,
        attested_at_ms=saved.attested_at_ms,
        nonce=saved.nonce,
        share=saved.share,
    )


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
