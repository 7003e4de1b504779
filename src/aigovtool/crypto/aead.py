"""Segmented AES-256-GCM for the files of a sealed package, and the commitment to their key.

Source: docs/spec/package.md section 3. The nonce is the STREAM construction (Hoang, Reyhanitabar, Rogaway,
Vizar, CRYPTO 2015): prefix, 32-bit counter, last flag. A segment opens only at its own place in its own file.

Rules:

1. One `FileSealer` seals one file: it counts by itself and stops after the last segment, so that no nonce
   is used twice under one key.
2. Key and nonce prefix of a file come from HKDF over the model key, the package's salt, a context (the
   manifest digest) and the file's index.
3. AES-GCM commits to no key; `key_commitment` does, and `check_key` is called before anything is opened.

It does not read or write files, and it does not check digests of plaintext: `aigovtool.package` does.
"""

import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.errors import InvalidValueError, PackageError
from aigovtool.limits import SEGMENT_BYTES

SALT_BYTES: Final = 32
CONTEXT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
TAG_BYTES: Final = 16
MAX_SEGMENTS: Final = 1 << 32

_COMMITMENT_INFO: Final = b"aigovtool package v1 commitment\x00"
_FILE_INFO: Final = b"aigovtool package v1 file\x00"
_KEY_BYTES: Final = 32
_PREFIX_BYTES: Final = 7

Buffer = bytes | bytearray | memoryview


def new_model_key() -> ModelKey:
    """Return a fresh key from the operating system's randomness, for one package."""
    return ModelKey(Secret.random(ModelKey.SIZE_BYTES))


def new_salt() -> bytes:
    """Return 32 fresh random bytes, for one package."""
    return os.urandom(SALT_BYTES)


def segment_count(size_bytes: int) -> int:
    """Return how many segments a file of `size_bytes` has: at least one, also when it is empty."""
    return max(1, -(-size_bytes // SEGMENT_BYTES))


def sealed_size_bytes(size_bytes: int) -> int:
    """Return the size of the ciphertext of a file of `size_bytes`: one tag more per segment."""
    return size_bytes + TAG_BYTES * segment_count(size_bytes)


def key_commitment(model_key: ModelKey, salt: bytes) -> bytes:
    """Return the 32 bytes that fix `model_key` without showing it (docs/spec/package.md section 3).

    Raises:
        InvalidValueError: `salt` does not have 32 bytes.
    """
    return _derive(model_key, salt, _COMMITMENT_INFO, COMMITMENT_BYTES)


def check_key(model_key: ModelKey, salt: bytes, commitment: bytes) -> None:
    """Raise unless `commitment` is that of `model_key`.

    Raises:
        PackageError: with reason `wrong_key`.
    """
    if not hmac.compare_digest(key_commitment(model_key, salt), commitment):
        raise PackageError(
            "the model key is not the key of this package",
            reason="wrong_key",
            fix="use the key that was made when this package was sealed; every sealing makes a new one",
        )


class FileSealer:
    """Seals the segments of file number `index` in their order, once."""

    __slots__ = ("_cipher", "_next", "_prefix")

    def __init__(self, model_key: ModelKey, salt: bytes, context: bytes, index: int) -> None:
        self._cipher, self._prefix = _file_cipher(model_key, salt, context, index)
        self._next: int | None = 0

    def seal_into(self, plaintext: Buffer, out: bytearray | memoryview, *, last: bool) -> int:
        """Write ciphertext and tag of the next segment to `out`; return their size in bytes.

        Raises:
            InvalidValueError: the last segment was sealed already, a segment that is not the last is not
                full, or there are too many segments.
        """
        if self._next is None or self._next >= MAX_SEGMENTS:
            raise InvalidValueError("no segment can follow", reason="file_complete")
        size = len(plaintext)
        if size > SEGMENT_BYTES or (size < SEGMENT_BYTES and not last):
            raise InvalidValueError(f"{size} bytes are not a segment", reason="segment_size")
        nonce = _nonce(self._prefix, self._next, last=last)
        self._next = None if last else self._next + 1
        return self._cipher.encrypt_into(nonce, plaintext, None, memoryview(out)[: size + TAG_BYTES])


class FileOpener:
    """Opens the segments of file number `index`, in any order; keeps no state between them."""

    __slots__ = ("_cipher", "_prefix")

    def __init__(self, model_key: ModelKey, salt: bytes, context: bytes, index: int) -> None:
        self._cipher, self._prefix = _file_cipher(model_key, salt, context, index)

    def open_into(self, number: int, sealed: Buffer, out: memoryview, *, last: bool) -> None:
        """Write the plaintext of segment `number` to `out`, which has exactly its size.

        Raises:
            PackageError: with reason `segment`, when the bytes are not that segment. `out` is then zero.
        """
        try:
            self._cipher.decrypt_into(_nonce(self._prefix, number, last=last), sealed, None, out)
        except (InvalidTag, ValueError):
            out[:] = bytes(len(out))
            raise PackageError(
                f"segment {number} is damaged, moved or of another package",
                reason="segment",
                fix="fetch the package again from where it was registered",
            ) from None


def _file_cipher(model_key: ModelKey, salt: bytes, context: bytes, index: int) -> tuple[AESGCM, bytes]:
    if len(context) != CONTEXT_BYTES or not 0 <= index < 1 << 32:
        raise InvalidValueError("a file is named by a 32-byte context and a 32-bit index", reason="bad_length")
    info = _FILE_INFO + context + index.to_bytes(4, "big")
    derived = _derive(model_key, salt, info, _KEY_BYTES + _PREFIX_BYTES)
    return AESGCM(derived[:_KEY_BYTES]), derived[_KEY_BYTES:]


def _derive(model_key: ModelKey, salt: bytes, info: bytes, size_bytes: int) -> bytes:
    if len(salt) != SALT_BYTES:
        raise InvalidValueError(f"a salt has {SALT_BYTES} bytes", reason="bad_length")
    return HKDF(algorithm=SHA256(), length=size_bytes, salt=salt, info=info).derive(model_key.secret.view())


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    if not 0 <= number < MAX_SEGMENTS:
        raise InvalidValueError(f"there is no segment {number}", reason="segment_number")
    return prefix + number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")
