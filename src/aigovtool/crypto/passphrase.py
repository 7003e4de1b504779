"""A secret file that needs a passphrase beside the file: scrypt (RFC 7914) and AES-256-GCM.

The key is derived from the passphrase by scrypt with 128 MiB of memory, so that each guess costs a thief that much. A
file says its own cost; one that says more than a computer should spend, or less than protects, is refused unread. The
header is authenticated with the content. As in OpenSSH and age, whoever has the file can guess offline for as long as
they like: the passphrase must be long, and a thief's file is answered by revoking its key.
"""

import os
import unicodedata
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta, structs

from aigovtool.codec import Message, encode
from aigovtool.crypto.secret import Secret
from aigovtool.errors import ConfigurationError, InvalidValueError

#: The least that a passphrase has. NIST SP 800-63B-4 section 3.1.1.2 asks for 15 where it is the only factor; here the
#: file is the other one.
MIN_CHARACTERS: Final = 12
MAX_PASSPHRASE_BYTES: Final = 1024
#: OWASP's first recommendation for scrypt: N = 2^17, r = 8, p = 1, which is 128 MiB and some tenths of a second.
_LOG_N: Final = 17
_R: Final = 8
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_SALT_BYTES: Final = 16
_MAX_CONTENT_BYTES: Final = 1 << 20


class ProtectedFile(Message, tag_field="party", tag="protected"):
    """A party file under a passphrase. `log_n` is scrypt's cost: N is 2 to its power, r is 8 and p is 1."""

    kdf: Literal["scrypt"]
    log_n: Annotated[int, Meta(ge=15, le=20)]
    salt: Annotated[bytes, Meta(min_length=_SALT_BYTES, max_length=_SALT_BYTES)]
    nonce: Annotated[bytes, Meta(min_length=_NONCE_BYTES, max_length=_NONCE_BYTES)]
    ciphertext: Annotated[bytes, Meta(min_length=16, max_length=_MAX_CONTENT_BYTES + 16)]


def require_strong(passphrase: Secret) -> None:
    """Refuse a passphrase that is short, or longer than anybody types.

    Raises:
        InvalidValueError: `weak_passphrase`, `bad_passphrase`.
    """
    words = _text(passphrase)
    if len(words) < MIN_CHARACTERS or len(set(words)) < MIN_CHARACTERS // 2:
        raise InvalidValueError(
            f"a passphrase has at least {MIN_CHARACTERS} characters, and not always the same",
            reason="weak_passphrase",
            fix="use five or six words that nobody else would put together",
        )


def protect(content: Secret, passphrase: Secret, *, log_n: int = _LOG_N) -> ProtectedFile:
    """Return `content` under a passphrase; each call uses a new salt and a new nonce.

    Raises:
        InvalidValueError: as `require_strong`.
    """
    require_strong(passphrase)
    empty = ProtectedFile(
        kdf="scrypt",
        log_n=log_n,
        salt=os.urandom(_SALT_BYTES),
        nonce=os.urandom(_NONCE_BYTES),
        ciphertext=bytes(16),
    )
    with _derived(empty, passphrase) as key:
        sealed = AESGCM(key.reveal()).encrypt(empty.nonce, content.reveal(), _header(empty))
    return structs.replace(empty, ciphertext=sealed)


def unprotect(file: ProtectedFile, passphrase: Secret) -> Secret:
    """Return the content.

    Raises:
        ConfigurationError: `wrong_passphrase`: it is another one, or the file was changed.
        InvalidValueError: `bad_passphrase`.
    """
    with _derived(file, passphrase) as key:
        try:
            return Secret(AESGCM(key.reveal()).decrypt(file.nonce, file.ciphertext, _header(file)))
        except InvalidTag:
            raise ConfigurationError(
                "this is not the passphrase of this file, or the file was changed",
                reason="wrong_passphrase",
                fix="try again; without it the file is lost: another operator revokes it, and a new one is enrolled",
            ) from None


def _derived(file: ProtectedFile, passphrase: Secret) -> Secret:
    kdf = Scrypt(salt=file.salt, length=_KEY_BYTES, n=1 << file.log_n, r=_R, p=1)
    return Secret(kdf.derive(_text(passphrase).encode()))


def _header(file: ProtectedFile) -> bytes:
    """Return what is authenticated beside the content: everything else in the file."""
    return encode(structs.replace(file, ciphertext=bytes(16)))


def _text(passphrase: Secret) -> str:
    """Return the passphrase as it means the same on every keyboard (RFC 8265, OpaqueString: NFC)."""
    if not 0 < len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise InvalidValueError(f"a passphrase has 1 to {MAX_PASSPHRASE_BYTES} bytes", reason="bad_passphrase")
    try:
        return unicodedata.normalize("NFC", passphrase.reveal().decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidValueError("a passphrase is text in UTF-8", reason="bad_passphrase") from None
