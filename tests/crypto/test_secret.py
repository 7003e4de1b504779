"""Secrets are never printed, compared, hashed or copied to another process by accident."""

import copy
import json
import logging
import pickle
from collections.abc import Callable

import pytest

from aigovtool import codec
from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.errors import InvalidValueError

CANARY = b"canary-9b1d41c7-not-to-be-seen!!"


@pytest.mark.parametrize("holder", [Secret(CANARY), ModelKey(Secret(CANARY))], ids=["Secret", "ModelKey"])
def test_no_way_of_printing_shows_the_bytes(holder: Secret | ModelKey, caplog: pytest.LogCaptureFixture) -> None:
    """Representation, formatting, logging and exceptions are redacted."""
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").error("key %s %r", holder, holder)
    shown = [repr(holder), str(holder), f"{holder}", f"{holder!r:>80}", str([holder]), str({"k": holder}), caplog.text]
    shown.append(str(ValueError(holder)))
    for text in shown:
        assert "canary" not in text
        assert CANARY.hex() not in text


def test_secrets_are_not_compared() -> None:
    """`==` takes a time that depends on the bytes, and is refused instead of being slow or wrong."""
    with pytest.raises(TypeError, match="compare_digest"):
        bool(Secret(b"a") == Secret(b"a"))
    with pytest.raises(TypeError, match="compare_digest"):
        bool(Secret(b"a") != Secret(b"b"))
    with pytest.raises(TypeError):
        hash(Secret(b"a"))


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_secrets_are_not_pickled_or_copied(copier: Callable[[object], object]) -> None:
    """A copy could not be wiped."""
    with pytest.raises(TypeError, match="pickled"):
        copier(Secret(CANARY))


@pytest.mark.parametrize("copier", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_secrets_inside_other_objects_are_not_pickled_or_copied(copier: Callable[[object], object]) -> None:
    """What holds a secret cannot be copied with it."""
    for holder in ({"key": Secret(CANARY)}, ModelKey(Secret(CANARY))):
        with pytest.raises(TypeError, match="pickled"):
            copier(holder)


def test_a_secret_does_not_slip_into_a_message() -> None:
    """Neither encoder knows how to write a secret."""
    with pytest.raises(TypeError):
        json.dumps({"k": Secret(CANARY)})
    with pytest.raises(TypeError):
        codec.encode({"k": Secret(CANARY)})


def test_wiping_overwrites_the_bytes_in_place() -> None:
    """After the block, the buffer that held the secret holds zeros."""
    with Secret(CANARY) as secret:
        buffer = secret._data
        assert secret.reveal() == CANARY
    assert buffer == bytes(len(CANARY))
    assert secret.reveal() == bytes(len(CANARY))
    assert len(secret) == len(CANARY)


def test_wiping_happens_also_when_the_block_fails() -> None:
    """An exception does not leave the secret behind."""
    secret = Secret(CANARY)
    with pytest.raises(RuntimeError), secret:
        raise RuntimeError
    assert secret.reveal() == bytes(len(CANARY))


def test_a_secret_owns_its_bytes() -> None:
    """Changing the source or the revealed copy does not change the secret, and wiping keeps the source."""
    source = bytearray(CANARY)
    secret = Secret(source)
    source[0] ^= 1
    assert secret.reveal() == CANARY
    secret.wipe()
    assert bytes(source[1:]) == CANARY[1:]


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_model_key_has_32_bytes(length: int) -> None:
    """A shorter key would be a weaker cipher; an unwrapped key comes from outside."""
    with pytest.raises(InvalidValueError) as caught:
        ModelKey(Secret(bytes(length)))
    assert caught.value.reason == "bad_length"
