r"""Co-signatures of witnesses: C2SP tlog-cosignature (`cosignature/v1`, Ed25519), and their keys as texts.

A witness signs that, at a time, this was the largest checkpoint of the log that it had seen, and that all which it
signed before is a prefix of it. Its signature is one more line of the note:

```
— <witness name> <base64 of 4-byte key hash, 8-byte big-endian time in seconds, 64-byte signature>
```

Signed is `cosignature/v1\ntime <seconds>\n` and the note's text. The key hash is SHA-256(name ‖ "\n" ‖ 0x04 ‖ public
key)[:4]. A witness is known by `<name>+<key hash, hexadecimal>+<base64 of 0x04 ‖ public key>` (signed-note, "verifier
keys"). Sources: https://c2sp.org/tlog-cosignature, https://c2sp.org/signed-note.

Rules beside the standard's: a note has at most 16 signatures, as many as every reader must take; each text has one
spelling; no witness signs a note twice. A line of somebody who is not known is ignored or refused, as the caller
needs; one of a known witness that does not verify always refuses the whole note.
"""

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from aigovtool.crypto.sign import SigningKey, VerifyKey
from aigovtool.errors import InvalidValueError, LogError, SignatureInvalidError
from aigovtool.ledger.checkpoint import Checkpoint, NoteSignature, open_checkpoint, split_note
from aigovtool.limits import MAX_INTEGER, MAX_WITNESS_KEY_CHARS

#: Printable ASCII without `+` and spaces: the standard's names, less those that two people may read differently.
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._:/@-]{0,98}[A-Za-z0-9])?"
_NAME_RE: Final = re.compile(_NAME)
_KEY_RE: Final = re.compile(rf"({_NAME})\+([0-9a-f]{{8}})\+([A-Za-z0-9+/]{{44}})")
_TIMESTAMPED_ED25519: Final = b"\x04"
_TIME_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """Whose co-signature is believed: a name and a key, which belong together."""

    name: str
    key: VerifyKey

    def key_hash(self) -> bytes:
        """Return the four bytes that stand before each of its signatures."""
        return sha256(self.name.encode() + b"\n" + _TIMESTAMPED_ED25519 + self.key.raw).digest()[:4]

    def text(self) -> str:
        """Return the verifier key."""
        public = base64.b64encode(_TIMESTAMPED_ED25519 + self.key.raw).decode()
        return f"{self.name}+{self.key_hash().hex()}+{public}"


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A co-signature that verified."""

    witness: WitnessKey
    time_s: int
    #: The note's line, with its end.
    line: str


def parse_witness_name(name: str) -> str:
    """Return `name` if a witness may be called so.

    Raises:
        InvalidValueError: `bad_witness_name`.
    """
    if _NAME_RE.fullmatch(name) is None:
        raise InvalidValueError(
            f"{name[:100]!r} is not a name for a witness",
            reason="bad_witness_name",
            fix="use 1 to 100 of letters, digits and . _ : / @ -, such as witness.example.com/w1",
        )
    return name


def parse_witness_key(text: str) -> WitnessKey:
    """Return the witness behind a verifier key.

    Raises:
        InvalidValueError: `bad_witness_key`: malformed, of another type than 0x04, or its hash is not of name and key.
    """
    match = _KEY_RE.fullmatch(text) if len(text) <= MAX_WITNESS_KEY_CHARS else None
    if match is None:
        raise _bad_key("it is not name+hash+key")
    content = base64.b64decode(match[3], validate=True)
    if content[:1] != _TIMESTAMPED_ED25519:
        raise _bad_key(f"its type is {content[0]}, that of a witness's Ed25519 key is 4")
    try:
        witness = WitnessKey(name=match[1], key=VerifyKey(content[1:]))
    except SignatureInvalidError as error:
        raise _bad_key(error.message) from None
    if witness.key_hash().hex() != match[2]:
        raise _bad_key("its hash is not that of its name and key: something of it was changed")
    return witness


def cosign(text: str, witness: str, key: SigningKey, time_s: int) -> str:
    """Return the line that a witness adds to the note with this text."""
    who = WitnessKey(name=parse_witness_name(witness), key=key.public)
    blob = who.key_hash() + time_s.to_bytes(_TIME_BYTES, "big") + key.sign(_message(text, time_s))
    return f"— {who.name} {base64.b64encode(blob).decode()}\n"


def with_cosignatures(note: str, lines: Collection[str]) -> str:
    """Return a note with these lines after its own signatures, in the order of their bytes."""
    return note + "".join(sorted(lines))


def cosigner_name(note: str, log: str) -> str:
    """Return who co-signed a note that has two signatures: the log's, and then one of somebody else.

    Nothing is verified: it is for finding the key to verify with.

    Raises:
        LogError: `checkpoint` when it is malformed, `cosignature` when it has other signatures.
    """
    _, signatures = split_note(note)
    names = [signature.name for signature in signatures]
    if len(names) != 2 or names[0] != log or names[1] == log:
        raise LogError("it does not carry the log's signature and one co-signature", reason="cosignature")
    return names[1]


def witnessed(note: str, witnesses: Sequence[WitnessKey]) -> tuple[Witnessed, ...]:
    """Return which of `witnesses` co-signed a note, whatever log it is of; other lines mean nothing here.

    Raises:
        LogError: `checkpoint` when it is malformed; `cosignature` when a line in the name and with the key hash of one
            of them does not verify, or there are two.
    """
    text, signatures = split_note(note)
    found = []
    for witness in witnesses:
        lines = [signature for signature in signatures if _is_by(signature, witness)]
        if len(lines) > 1:
            raise LogError(f"{witness.name} co-signed a checkpoint twice", reason="cosignature")
        found += [_verified(witness, line, text) for line in lines]
    return tuple(found)


def open_cosigned(
    note: str, keys: list[VerifyKey], witnesses: Sequence[WitnessKey]
) -> tuple[Checkpoint, tuple[Witnessed, ...]]:
    """Return what a note of this project's logs says and who co-signed it; no line may be without meaning.

    Raises:
        LogError: `checkpoint` when it is malformed or no key of `keys` signed it; `cosignature` when it has a signature
            of anybody else than the log and `witnesses`, or one that does not verify.
    """
    checkpoint = open_checkpoint(note, keys)
    _, signatures = split_note(note)
    by = witnessed(note, witnesses)
    if len(signatures) != len(by) + 1:  # the log's own
        raise LogError(
            "a checkpoint carries a signature of somebody whom the custodian did not enrol as a witness",
            reason="cosignature",
        )
    return checkpoint, by


def _message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _is_by(signature: NoteSignature, witness: WitnessKey) -> bool:
    return signature.name == witness.name and signature.key_hash == witness.key_hash()


def _verified(witness: WitnessKey, signature: NoteSignature, text: str) -> Witnessed:
    time_s = int.from_bytes(signature.content[:_TIME_BYTES], "big")
    if len(signature.content) != _TIME_BYTES + _SIGNATURE_BYTES or time_s > MAX_INTEGER:
        raise _not_by(witness)
    try:
        witness.key.verify(signature.content[_TIME_BYTES:], _message(text, time_s))
    except SignatureInvalidError:
        raise _not_by(witness) from None
    return Witnessed(witness=witness, time_s=time_s, line=signature.line)


def _not_by(witness: WitnessKey) -> LogError:
    return LogError(
        f"a co-signature in the name of {witness.name} is not by its key, or over another checkpoint",
        reason="cosignature",
    )


def _bad_key(what: str) -> InvalidValueError:
    return InvalidValueError(
        f"this is not the verifier key of a witness: {what}",
        reason="bad_witness_key",
        fix="give it whole, as `aigovtool audit witness init` prints it: name+hash+key, between quotes",
    )
