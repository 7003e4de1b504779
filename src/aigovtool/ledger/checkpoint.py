r"""Checkpoints of the audit log: C2SP signed notes (https://c2sp.org/tlog-checkpoint, /signed-note).

```
aigovtool/<custodian root key id>
<tree size, decimal>
<base64 of the root hash>
generation <decimal>          (an extension line, absent in generation 0)
<empty line>
— <key name> <base64 of 4-byte key hash and signature>
```

The note's text is what is signed. The key hash is SHA-256(name ‖ "\n" ‖ 0x01 ‖ public key)[:4].

There is one way to take a note apart, `split_note`, for whoever reads one: the signatures come after the *last* empty
line, each is in the standard's form and in one spelling, and there are at most 16. A checkpoint's text has no empty
line in it, so no note has two readings. Lines that nobody verified are never passed on: `plain_note`.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final

from aigovtool.codec import Message
from aigovtool.crypto.sign import SigningKey, VerifyKey
from aigovtool.errors import LogError, SignatureInvalidError
from aigovtool.ids import KeyId, Units
from aigovtool.limits import MAX_INTEGER, MAX_WITNESSES

_ED25519: Final = b"\x01"
_SIGNATURE_BYTES: Final = 64
MAX_CHECKPOINT_BYTES: Final = 4096
#: The log's own, and one of each witness.
_MAX_SIGNATURES: Final = MAX_WITNESSES + 1
_TEXT_RE: Final = re.compile(
    r"aigovtool/([0-9a-f]{64})\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n(?:generation ([1-9][0-9]{0,15})\n)?"
)
_LINE_RE: Final = re.compile(r"— ([^\s+\x00-\x1f\x7f]{1,128}) ([A-Za-z0-9+/]{8,512}={0,2})")


class Checkpoint(Message):
    """The state of the log of one custodian at one size.

    `generation` grows when a ledger that was restored from a backup goes back into service: what was signed in an
    earlier one need not be a prefix of what comes after.
    """

    custodian: KeyId
    size: Units
    root: bytes
    generation: Units = 0

    def origin(self) -> str:
        """Return the name of the log, which is also the name of its key."""
        return f"aigovtool/{self.custodian}"

    def text(self) -> str:
        """Return the signed text."""
        extension = f"generation {self.generation}\n" if self.generation else ""
        return f"{self.origin()}\n{self.size}\n{base64.b64encode(self.root).decode()}\n{extension}"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature of a note; nothing of it is verified."""

    name: str
    key_hash: bytes
    content: bytes
    #: The note's line, with its end.
    line: str


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> str:
    """Return the signed note."""
    text = checkpoint.text()
    blob = _key_hash(checkpoint.origin(), key.public) + key.sign(text.encode())
    return f"{text}\n— {checkpoint.origin()} {base64.b64encode(blob).decode()}\n"


def split_note(note: str) -> tuple[str, list[NoteSignature]]:
    """Return the text of a signed note, whatever it is about, and its signatures, none of them verified.

    Raises:
        LogError: with reason `checkpoint` when it is malformed.
    """
    text, separator, lines = note[: MAX_CHECKPOINT_BYTES + 1].rpartition("\n\n")
    if len(note) > MAX_CHECKPOINT_BYTES or not separator or not text or not lines.endswith("\n"):
        raise _malformed()
    # Not `splitlines`, to which a dozen other characters are line ends too.
    signatures = [_signature(line) for line in lines[:-1].split("\n")]
    if len(signatures) > _MAX_SIGNATURES:
        raise _malformed()
    return text + "\n", signatures


@lru_cache(maxsize=64)
def parse_checkpoint(note: str) -> Checkpoint:
    """Return what a note says, *without* verifying any signature: to look whether it is worth verifying.

    The last ones are remembered: all enclaves of a custodian show it the same few, each time twice.

    Raises:
        LogError: with reason `checkpoint` when it is malformed.
    """
    return _parsed(split_note(note)[0])


def open_checkpoint(note: str, keys: list[VerifyKey]) -> Checkpoint:
    """Parse a signed note and verify the log's own signature (further co-signatures are allowed).

    Raises:
        LogError: with reason `checkpoint` when it is malformed or no key of `keys` signed it.
    """
    checkpoint, _ = _verified(note, keys)
    return checkpoint


def plain_note(note: str, keys: list[VerifyKey]) -> str:
    """Return the note with nothing but the log's own signature, the first that verifies; raises as `open_checkpoint`.

    This is what may be stored, signed and sent on: in the log's name anybody can add lines that nobody signed.
    """
    checkpoint, own = _verified(note, keys)
    return f"{checkpoint.text()}\n{own.line}"


def _parsed(text: str) -> Checkpoint:
    match = _TEXT_RE.fullmatch(text)
    if match is None:
        raise _malformed()
    checkpoint = Checkpoint(
        custodian=KeyId(match[1]),
        size=int(match[2]),
        root=base64.b64decode(match[3], validate=True),
        generation=int(match[4] or 0),
    )
    # Base64 with unused bits set is a second spelling of the same root; numbers beyond 2**53 are none.
    if checkpoint.text() != text or max(checkpoint.size, checkpoint.generation) > MAX_INTEGER:
        raise _malformed()
    return checkpoint


def _signature(line: str) -> NoteSignature:
    match = _LINE_RE.fullmatch(line)
    try:
        blob = b"" if match is None else base64.b64decode(match[2], validate=True)
    except binascii.Error:
        blob = b""
    # Base64 with unused bits set is a second spelling of the same signature.
    if match is None or base64.b64encode(blob).decode() != match[2]:
        raise _malformed()
    return NoteSignature(name=match[1], key_hash=blob[:4], content=blob[4:], line=line + "\n")


def _verified(note: str, keys: list[VerifyKey]) -> tuple[Checkpoint, NoteSignature]:
    text, signatures = split_note(note)
    checkpoint = _parsed(text)
    for signature in signatures:
        if signature.name == checkpoint.origin() and _is_by(signature, text, keys):
            return checkpoint, signature
    raise LogError("a checkpoint is not signed by the log's key", reason="checkpoint")


def _is_by(signature: NoteSignature, text: str, keys: list[VerifyKey]) -> bool:
    if len(signature.content) != _SIGNATURE_BYTES:
        return False
    for key in keys:
        if signature.key_hash == _key_hash(signature.name, key):
            try:
                key.verify(signature.content, text.encode())
            except SignatureInvalidError:
                continue
            return True
    return False


def _key_hash(name: str, key: VerifyKey) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]


def _malformed() -> LogError:
    return LogError("a signed note is malformed", reason="checkpoint")
