"""One direction of a conversation in sealed frames, for bodies that pass somebody who must not read them.

```
frame = last (1 bit), length of what follows (31 bits, big-endian) ‖ AES-256-GCM ciphertext ‖ tag
```

Source: docs/spec/sealed.md. The nonce is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar, CRYPTO 2015), as
in `crypto.aead`: prefix, 32-bit counter, last flag. So a frame opens only at its own place and with its own flag, and
what is cut off is found. Key and prefix come from HKDF over a fresh secret; `info` names the direction, and what the
conversation is about.

Rules:

1. One `FrameSealer` seals one direction once: no nonce is used twice. Whoever may be made to answer twice under one
   secret, by somebody who repeats what was sent, draws a `salt` of its own for each answer.
2. A frame is opened whole before any of it is believed. Nothing follows the last one.
"""

from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aigovtool.errors import InvalidValueError, MalformedError, SignatureInvalidError

SECRET_BYTES: Final = 32
SALT_BYTES: Final = 32
#: Plaintext of one frame: large enough that the tag costs nothing, small enough to hold one for each connection.
FRAME_BYTES: Final = 256 << 10
TAG_BYTES: Final = 16
LENGTH_BYTES: Final = 4
_LAST: Final = 1 << 31
_KEY_BYTES: Final = 32
_PREFIX_BYTES: Final = 7
_MAX_FRAMES: Final = 1 << 32

Buffer = bytes | bytearray | memoryview


def sealed_size_bytes(size_bytes: int) -> int:
    """Return how long a text of `size_bytes` is in full frames: there is at least one, also of nothing."""
    frames = max(1, -(-size_bytes // FRAME_BYTES))
    return size_bytes + frames * (LENGTH_BYTES + TAG_BYTES)


class FrameSealer:
    """Seals frames in their order.

    Args:
        secret: 32 fresh random bytes that only the two ends know.
        salt: of whoever seals; empty where nobody can make it seal twice under this secret.
        info: the direction, and what the conversation is about.
    """

    __slots__ = ("_cipher", "_next", "_prefix")

    def __init__(self, secret: bytes, salt: bytes, info: bytes) -> None:
        self._cipher, self._prefix = _cipher(secret, salt, info)
        self._next: int | None = 0

    def seal(self, plaintext: Buffer, *, last: bool) -> bytes:
        """Return the next frame.

        Raises:
            InvalidValueError: the last one was sealed already (`frames_complete`), or it is too large (`frame_size`).
        """
        if self._next is None or self._next >= _MAX_FRAMES:
            raise InvalidValueError("no frame can follow", reason="frames_complete")
        if len(plaintext) > FRAME_BYTES:
            raise InvalidValueError(f"{len(plaintext)} bytes are no frame", reason="frame_size")
        sealed = self._cipher.encrypt(_nonce(self._prefix, self._next, last=last), plaintext, None)
        self._next = None if last else self._next + 1
        return (len(sealed) | (_LAST if last else 0)).to_bytes(LENGTH_BYTES, "big") + sealed

    def seal_all(self, plaintext: Buffer, *, last: bool = True) -> Iterator[bytes]:
        """Yield `plaintext` in full frames; the last of them ends the conversation, if it is the `last` of it."""
        view = memoryview(plaintext)
        for start in range(0, max(1, len(view)), FRAME_BYTES):
            end = start + FRAME_BYTES
            yield self.seal(view[start:end], last=last and end >= len(view))


class FrameOpener:
    """Opens frames as their bytes come in, in whatever pieces; arguments as for `FrameSealer`."""

    __slots__ = ("_cipher", "_held", "_next", "_prefix", "is_complete")

    def __init__(self, secret: bytes, salt: bytes, info: bytes) -> None:
        self._cipher, self._prefix = _cipher(secret, salt, info)
        self._held: Final = bytearray()
        self._next = 0
        #: Whether the last frame was opened.
        self.is_complete = False

    def feed(self, piece: Buffer) -> Iterator[bytes]:
        """Take more bytes, and yield the plaintext of each frame that is complete now.

        Raises:
            MalformedError: `frame_size`, or `after_last_frame`.
            SignatureInvalidError: `wrong_frame`: it is not what the other end has sealed at this place.
        """
        self._held.extend(piece)
        start = 0
        try:
            while len(self._held) - start >= LENGTH_BYTES or (self.is_complete and len(self._held) > start):
                if self.is_complete:
                    raise MalformedError("something follows the last frame", reason="after_last_frame")
                begin = start + LENGTH_BYTES
                head = int.from_bytes(self._held[start:begin], "big")
                end = begin + (head & ~_LAST)
                if not TAG_BYTES <= end - begin <= FRAME_BYTES + TAG_BYTES:
                    raise MalformedError(f"{end - begin} bytes are no frame", reason="frame_size")
                if len(self._held) < end:
                    return
                frame, start = bytes(self._held[begin:end]), end
                yield self._opened(frame, last=bool(head & _LAST))
        finally:
            del self._held[:start]  # once for all frames of a piece: what follows is moved

    def require_complete(self) -> None:
        """Raise `MalformedError` (`cut_off`) unless the last frame has come, and nothing after it."""
        if not self.is_complete or self._held:
            raise MalformedError("the last frame is missing", reason="cut_off")

    def _opened(self, frame: bytes, *, last: bool) -> bytes:
        try:
            plaintext = self._cipher.decrypt(_nonce(self._prefix, self._next, last=last), frame, None)
        except InvalidTag:
            raise SignatureInvalidError(
                "a sealed frame was changed, moved or is of another answer", reason="wrong_frame"
            ) from None
        self.is_complete = last
        self._next += 1
        return plaintext


def _cipher(secret: bytes, salt: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    if len(secret) != SECRET_BYTES or len(salt) not in {0, SALT_BYTES}:
        raise InvalidValueError("a secret has 32 bytes, and a salt 32 or none", reason="bad_length")
    derived = HKDF(algorithm=SHA256(), length=_KEY_BYTES + _PREFIX_BYTES, salt=salt or None, info=info).derive(secret)
    return AESGCM(derived[:_KEY_BYTES]), derived[_KEY_BYTES:]


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")
