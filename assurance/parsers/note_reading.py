"""Signed notes, checkpoints and co-signatures, read and verified by hand.

Sources: C2SP signed-note, tlog-checkpoint and tlog-cosignature. No regular expression, and nothing of the product:
lines are split, and each part is looked at.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from assurance.parsers.reading import unwrapped

_MOST: Final = 2**53 - 1


class NoNoteError(Exception):
    """It is no signed note, or its text no checkpoint."""


@dataclass(frozen=True)
class Line:
    """A signature: whose, its four bytes, and what follows them."""

    name: str
    key_hash: bytes
    content: bytes
    line: str


@dataclass(frozen=True)
class State:
    """What a checkpoint says."""

    custodian: str
    size: int
    root: bytes
    generation: int


@dataclass(frozen=True)
class Note:
    """A note: its text, and its signatures."""

    text: str
    lines: tuple[Line, ...]


def read_note(note: str) -> Note:
    """Return the parts of a note.

    Raises:
        NoNoteError: it is none.
    """
    at = note.rfind("\n\n")
    if len(note) > 4096 or at <= 0 or not note.endswith("\n"):
        raise NoNoteError("no text, no signature, or too long")
    lines = tuple(map(_line, note[at + 2 : -1].split("\n")))
    if len(lines) > 16:
        raise NoNoteError("too many signatures")
    return Note(note[: at + 1], lines)


def _line(line: str) -> Line:
    dash, _, rest = line.partition(" ")
    name, _, text = rest.partition(" ")
    blob = unwrapped(text)
    odd = any(sign.isspace() or sign == "+" or sign < " " or sign == "\x7f" for sign in name)
    if dash != "—" or odd or not 1 <= len(name) <= 128 or blob is None or b64encode(blob).decode() != text:
        raise NoNoteError("a line that is no signature")
    if not 8 <= len(text.rstrip("=")) <= 512:
        raise NoNoteError("a signature that is too short or too long")
    return Line(name, blob[:4], blob[4:], line + "\n")


def read_state(text: str) -> State:
    """Return what a checkpoint's text says.

    Raises:
        NoNoteError: it is none of this project.
    """
    lines = text.split("\n")
    if not 4 <= len(lines) <= 5 or lines[-1]:
        raise NoNoteError("another number of lines")
    origin, size, root, *more = lines[:-1]
    custodian = origin.removeprefix("aigovtool/")
    if len(custodian) != 64 or set(custodian) - set("0123456789abcdef") or custodian == origin:
        raise NoNoteError("another log")
    hashed = unwrapped(root)
    if hashed is None or len(hashed) != 32 or b64encode(hashed).decode() != root:
        raise NoNoteError("a root that is none")
    generation = 0
    if more:
        word, _, number = more[0].partition(" ")
        generation = _number(number)
        if word != "generation" or not generation:
            raise NoNoteError("another extension")
    return State(custodian, _number(size), hashed, generation)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16 or str(int(text)) != text or int(text) > _MOST:
        raise NoNoteError("a number that is none")
    return int(text)


def signed_by_log(note: Note, keys: Sequence[bytes]) -> Line | None:
    """Return the first line that one of the log's raw keys has made over this text."""
    name = note.text.partition("\n")[0]
    for line in note.lines:
        for raw in keys:
            mine = sha256(name.encode() + b"\n\1" + raw).digest()[:4] == line.key_hash and line.name == name
            if mine and _verifies(raw, line.content, note.text.encode()):
                return line
    return None


def cosigned_by(note: Note, name: str, raw: bytes) -> int | None:
    """Return when a witness co-signed a note, None when it did not.

    Raises:
        NoNoteError: it is said to have, and has not, or twice.
    """
    own = sha256(name.encode() + b"\n\4" + raw).digest()[:4]
    lines = [line for line in note.lines if (line.name, line.key_hash) == (name, own)]
    if len(lines) > 1:
        raise NoNoteError("co-signed twice")
    if not lines:
        return None
    content, time_s = lines[0].content, int.from_bytes(lines[0].content[:8])
    message = f"cosignature/v1\ntime {time_s}\n{note.text}".encode()
    if len(content) != 72 or time_s > _MOST or not _verifies(raw, content[8:], message):
        raise NoNoteError("a co-signature that does not verify")
    return time_s


def _verifies(raw: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
    except InvalidSignature:
        return False
    return True
