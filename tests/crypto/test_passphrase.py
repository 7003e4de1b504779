"""A file under a passphrase opens with that passphrase alone, and as it was written alone."""

import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aigovtool.codec import decode, encode
from aigovtool.crypto.passphrase import MAX_PASSPHRASE_BYTES, ProtectedFile, protect, require_strong, unprotect
from aigovtool.crypto.secret import Secret
from aigovtool.errors import ConfigurationError, InputError, InvalidValueError

CONTENT = b"TEST-ONLY the content of a file"
WORDS = "pelican under seven bridges"
#: The least that is taken: these tests are not about how much a guess costs.
LOG_N = 15
#: By OWASP's Password Storage Cheat Sheet.
RECOMMENDED = 17


def under(passphrase: str = WORDS) -> ProtectedFile:
    return protect(Secret(CONTENT), Secret(passphrase.encode()), log_n=LOG_N)


def test_the_passphrase_opens_the_file() -> None:
    """And what is written says nothing of the content."""
    file = under()
    assert unprotect(decode(encode(file), ProtectedFile), Secret(WORDS.encode())).reveal() == CONTENT
    assert CONTENT not in file.ciphertext
    assert under().salt != file.salt
    assert under().nonce != file.nonce


def test_the_usual_cost_is_what_is_recommended() -> None:
    """It is scrypt with N = 2^17, r = 8: 128 MiB for each guess."""
    file = protect(Secret(CONTENT), Secret(WORDS.encode()))
    assert file.log_n == RECOMMENDED
    assert unprotect(file, Secret(WORDS.encode())).reveal() == CONTENT


def test_a_file_is_as_the_specification_says() -> None:
    """Whoever reads docs/spec/credentials.md section 3 opens it without this program, header authenticated and all."""
    file = under()
    key = hashlib.scrypt(WORDS.encode(), salt=file.salt, n=1 << LOG_N, r=8, p=1, maxmem=1 << 27, dklen=32)
    header = encode(msgspec.structs.replace(file, ciphertext=bytes(16)))
    assert AESGCM(key).decrypt(file.nonce, file.ciphertext, header) == CONTENT


@pytest.mark.parametrize("wrong", ["pelican under seven bridge", "Pelican under seven bridges", "x"])
def test_another_passphrase_opens_nothing(wrong: str) -> None:
    """However near it is."""
    with pytest.raises(ConfigurationError) as refused:
        unprotect(under(), Secret(wrong.encode()))
    assert refused.value.reason == "wrong_passphrase"


@pytest.mark.parametrize(
    "change",
    [
        {"salt": bytes(16)},
        {"nonce": bytes(12)},
        {"log_n": LOG_N + 1},
        {"ciphertext": bytes(60)},
    ],
    ids=["salt", "nonce", "log_n", "ciphertext"],
)
def test_a_changed_file_is_refused(change: dict[str, object]) -> None:
    """Header and content are authenticated together."""
    with pytest.raises(ConfigurationError) as refused:
        unprotect(msgspec.structs.replace(under(), **change), Secret(WORDS.encode()))
    assert refused.value.reason == "wrong_passphrase"


@pytest.mark.parametrize("log_n", [0, 14, 21, 40])
def test_a_file_that_costs_too_much_or_too_little_is_not_read(log_n: int) -> None:
    """One that asks for a terabyte of memory is no file of ours, and neither is one that is cheap to guess."""
    text = encode(under()).replace(f'"log_n":{LOG_N}'.encode(), f'"log_n":{log_n}'.encode())
    with pytest.raises(InputError):
        decode(text, ProtectedFile)


def test_one_text_is_one_passphrase_on_every_keyboard() -> None:
    """A letter with an accent is one character or two, by keyboard; both mean the same."""
    composed, decomposed = "caf\u00e9 under seven bridges", "cafe\u0301 under seven bridges"
    assert unprotect(under(composed), Secret(decomposed.encode())).reveal() == CONTENT


@pytest.mark.parametrize(
    ("passphrase", "reason"),
    [
        (b"short", "weak_passphrase"),
        (b"aaaaaaaaaaaaaaaaaaaaa", "weak_passphrase"),
        (b"", "bad_passphrase"),
        (b"\xff" * 20, "bad_passphrase"),
        (b"abcdefgh" * (MAX_PASSPHRASE_BYTES // 8 + 1), "bad_passphrase"),
    ],
)
def test_a_passphrase_that_protects_nothing_is_refused(passphrase: bytes, reason: str) -> None:
    """Too short, always the same, no text, or longer than anybody types."""
    with pytest.raises(InvalidValueError) as refused:
        protect(Secret(CONTENT), Secret(passphrase), log_n=LOG_N)
    assert refused.value.reason == reason


def test_twelve_characters_are_enough() -> None:
    """The least."""
    require_strong(Secret(b"abcdefghijkl"))
