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
"""

import base64
import binascii
import re
from hashlib import sha256
from typing import Final

from aigovtool.codec import Message
from aigovtool.crypto.sign import SigningKey, VerifyKey
from aigovtool.errors import LogError, SignatureInvalidError
from aigovtool.ids import KeyId, Units
from aigovtool.limits import MAX_INTEGER

_ED25519: Final = b"\x01"
MAX_CHECKPOINT_BYTES: Final = 4096
_TEXT_RE: Final = re.compile(
    r"aigovtool/([0-9a-f]{64})\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n(?:generation ([1-9][0-9]{0,15})\n)?"
)
_SIGNATURE_RE: Final = re.compile(r"— (\S{1,128}) ([A-Za-z0-9+/]{91}=)\n")


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


def _key_hash(name: str, key: VerifyKey) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> str:
    """Return the signed note."""
    text = checkpoint.text()
    blob = _key_hash(checkpoint.origin(), key.public) + key.sign(text.encode())
    return f"{text}\n— {checkpoint.origin()} {base64.b64encode(blob).decode()}\n"


def parse_checkpoint(note: str) -> Checkpoint:
    """Return what a note says, *without* verifying any signature: to look whether it is worth verifying.

    Raises:
        LogError: with reason `checkpoint` when it is malformed.
    """
    text, separator, _ = note[:MAX_CHECKPOINT_BYTES].partition("\n\n")
    match = _TEXT_RE.fullmatch(text + "\n")
    if match is None or not separator or len(note) > MAX_CHECKPOINT_BYTES:
        raise _failure()
    checkpoint = Checkpoint(
        custodian=KeyId(match[1]),
        size=int(match[2]),
        root=base64.b64decode(match[3], validate=True),
        generation=int(match[4] or 0),
    )
    # Base64 with unused bits set is a second spelling of the same root; numbers beyond 2**53 are none.
    if checkpoint.text() != text + "\n" or max(checkpoint.size, checkpoint.generation) > MAX_INTEGER:
        raise _failure()
    return checkpoint


def open_checkpoint(note: str, keys: list[VerifyKey]) -> Checkpoint:
    """Parse a signed note and verify the log's own signature (further co-signatures are allowed).

    Raises:
        LogError: with reason `checkpoint` when it is malformed or no key of `keys` signed it.
    """
    checkpoint = parse_checkpoint(note)
    _, _, signatures = note.partition("\n\n")
    for line in signatures.splitlines(keepends=True):
        if _signed_by(checkpoint, line, keys):
            return checkpoint
    raise _failure()


def _failure() -> LogError:
    return LogError("a checkpoint is malformed or not signed by the log's key", reason="checkpoint")


def _signed_by(checkpoint: Checkpoint, line: str, keys: list[VerifyKey]) -> bool:
    match = _SIGNATURE_RE.fullmatch(line)
    if match is None or match[1] != checkpoint.origin():
        return False
    try:
        blob = base64.b64decode(match[2], validate=True)
    except binascii.Error:
        return False
    if base64.b64encode(blob).decode() != match[2]:
        return False
    for key in keys:
        if blob[:4] == _key_hash(checkpoint.origin(), key):
            try:
                key.verify(blob[4:], checkpoint.text().encode())
            except SignatureInvalidError:
                continue
            return True
    return False
