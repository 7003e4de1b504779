"""Segmented AES-256-GCM: what opens, where, and under which key."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.crypto.aead import (
    MAX_SEGMENTS,
    TAG_BYTES,
    FileOpener,
    FileSealer,
    check_key,
    key_commitment,
    new_model_key,
    new_salt,
    sealed_size_bytes,
    segment_count,
)
from aigovtool.crypto.secret import ModelKey, Secret
from aigovtool.errors import InvalidValueError, PackageError
from aigovtool.limits import SEGMENT_BYTES

KEY = ModelKey(Secret(b"\x01" * 32))
SALT = b"\x02" * 32
CONTEXT = b"\x03" * 32
OTHERS = {
    "key": (ModelKey(Secret(b"\x09" * 32)), SALT, CONTEXT, 0),
    "salt": (KEY, b"\x09" * 32, CONTEXT, 0),
    "context": (KEY, SALT, b"\x09" * 32, 0),
    "index": (KEY, SALT, CONTEXT, 1),
}


def sealed(data: bytes, *, last: bool = True) -> bytes:
    out = bytearray(len(data) + TAG_BYTES)
    assert FileSealer(KEY, SALT, CONTEXT, 0).seal_into(data, out, last=last) == len(out)
    return bytes(out)


def opened(opener: FileOpener, number: int, data: bytes, *, last: bool) -> bytes:
    out = bytearray(b"\xff" * (len(data) - TAG_BYTES))
    opener.open_into(number, data, memoryview(out), last=last)
    return bytes(out)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.binary(max_size=300))
def test_what_was_sealed_opens(data: bytes) -> None:
    """Any last segment comes back as it was."""
    assert opened(FileOpener(KEY, SALT, CONTEXT, 0), 0, sealed(data), last=True) == data


@pytest.mark.parametrize("what", OTHERS)
def test_a_segment_opens_in_no_other_context(what: str) -> None:
    """Another key, salt, manifest or file index does not open a segment."""
    with pytest.raises(PackageError) as caught:
        opened(FileOpener(*OTHERS[what]), 0, sealed(b"weights"), last=True)
    assert caught.value.reason == "segment"


@pytest.mark.parametrize(("number", "last"), [(1, True), (0, False), (MAX_SEGMENTS - 1, True)])
def test_a_segment_opens_only_at_its_place(number: int, *, last: bool) -> None:
    """Neither at another number, nor with another last flag."""
    with pytest.raises(PackageError):
        opened(FileOpener(KEY, SALT, CONTEXT, 0), number, sealed(b"weights"), last=last)


def test_every_flipped_bit_is_found_and_the_target_is_zeroed() -> None:
    """No bit of ciphertext or tag can change, and no unauthenticated plaintext stays behind."""
    data = sealed(b"weights")
    opener = FileOpener(KEY, SALT, CONTEXT, 0)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        out = bytearray(b"\xff" * 7)
        with pytest.raises(PackageError):
            opener.open_into(0, flipped, memoryview(out), last=True)
        assert bytes(out) == bytes(7)


def test_a_target_of_the_wrong_size_is_refused() -> None:
    """A shorter target does not give a shorter segment."""
    with pytest.raises(PackageError):
        FileOpener(KEY, SALT, CONTEXT, 0).open_into(0, sealed(b"weights"), memoryview(bytearray(6)), last=True)


def test_nothing_follows_the_last_segment() -> None:
    """A sealer that sealed the last segment seals no other: its nonces are never used twice."""
    sealer = FileSealer(KEY, SALT, CONTEXT, 0)
    out = bytearray(100)
    sealer.seal_into(b"a", out, last=True)
    with pytest.raises(InvalidValueError) as caught:
        sealer.seal_into(b"a", out, last=True)
    assert caught.value.reason == "file_complete"


def test_equal_segments_have_different_ciphertext() -> None:
    """The counter is part of the nonce."""
    sealer = FileSealer(KEY, SALT, CONTEXT, 0)
    first, second = bytearray(SEGMENT_BYTES + TAG_BYTES), bytearray(SEGMENT_BYTES + TAG_BYTES)
    sealer.seal_into(bytes(SEGMENT_BYTES), first, last=False)
    sealer.seal_into(bytes(SEGMENT_BYTES), second, last=False)
    assert first != second


@pytest.mark.parametrize("size", [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES + 1])
def test_only_full_segments_are_followed_by_another(size: int) -> None:
    """A short segment in the middle would make two cuts of one file possible."""
    with pytest.raises(InvalidValueError) as caught:
        FileSealer(KEY, SALT, CONTEXT, 0).seal_into(bytes(size), bytearray(size + TAG_BYTES), last=False)
    assert caught.value.reason == "segment_size"


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 1), (1, 1), (SEGMENT_BYTES, 1), (SEGMENT_BYTES + 1, 2), (3 * SEGMENT_BYTES, 3)],
)
def test_sizes_are_those_of_the_specification(size: int, count: int) -> None:
    """N(n) = max(1, ceil(n / segment)) and S(n) = n + 16 N(n)."""
    assert segment_count(size) == count
    assert sealed_size_bytes(size) == size + 16 * count


def test_the_commitment_fixes_the_key() -> None:
    """The right key passes; another key, or another salt, is refused as the wrong key."""
    commitment = key_commitment(KEY, SALT)
    check_key(KEY, SALT, commitment)
    for key, salt in ((new_model_key(), SALT), (KEY, new_salt())):
        with pytest.raises(PackageError) as caught:
            check_key(key, salt, commitment)
        assert caught.value.reason == "wrong_key"
        assert caught.value.fix


def test_lengths_are_exact() -> None:
    """Salt and context have 32 bytes, an index 32 bits: otherwise two inputs could share a derivation."""
    for bad in (b"", b"\x02" * 31, b"\x02" * 33):
        with pytest.raises(InvalidValueError):
            key_commitment(KEY, bad)
        with pytest.raises(InvalidValueError):
            FileOpener(KEY, SALT, bad, 0)
    for index in (-1, 1 << 32):
        with pytest.raises(InvalidValueError):
            FileSealer(KEY, SALT, CONTEXT, index)
    with pytest.raises(InvalidValueError):
        FileOpener(KEY, SALT, CONTEXT, 0).open_into(MAX_SEGMENTS, os.urandom(20), memoryview(bytearray(4)), last=True)


def test_fresh_values_are_fresh() -> None:
    """Two keys and two salts differ."""
    assert new_salt() != new_salt()
    assert new_model_key().secret.reveal() != new_model_key().secret.reveal()
