"""The strict part of CBOR that Nitro uses, beside a library and against whoever writes something else."""

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigovtool.attestation.tee.nitro.cbor import MAX_DEPTH, Item, read, write
from aigovtool.errors import MalformedError

ITEMS = st.recursive(
    st.none() | st.integers(0, 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.dictionaries(st.integers(0, 2**64 - 1) | st.text(max_size=30), inner, max_size=30)
    ),
    max_leaves=20,
)
small = settings(derandomize=True, max_examples=200, deadline=None)


def depth(item: Any) -> int:
    if isinstance(item, list | dict):
        return 1 + max(map(depth, item.values() if isinstance(item, dict) else item), default=0)
    return 0


@small
@given(item=ITEMS)
def test_what_is_written_is_what_a_library_writes_and_reads(item: Item) -> None:
    """Writer and reader agree with cbor2 on everything that Nitro's part of CBOR has."""
    encoded = write(item)
    assert encoded == cbor2.dumps(item)
    if depth(item) <= MAX_DEPTH:
        assert read(encoded) == item
    else:
        with pytest.raises(MalformedError):
            read(encoded)


@small
@given(data=st.binary(max_size=40))
def test_what_is_read_has_one_encoding(data: bytes) -> None:
    """Whatever bytes are accepted are exactly those that the writer makes: no second encoding exists."""
    try:
        item = read(data)
    except MalformedError as error:
        assert error.reason == "cbor"
    else:
        assert write(item) == data


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        ("", "ends within"),
        ("18", "ends within"),
        ("4201", "ends within"),
        ("820101" + "01", "bytes follow"),
        ("1817", "longer than necessary"),
        ("1900ff", "longer than necessary"),
        ("1a0000ffff", "longer than necessary"),
        ("1b00000000ffffffff", "longer than necessary"),
        ("580101", "longer than necessary"),
        ("780161", "longer than necessary"),
        ("980101", "longer than necessary"),
        ("b8010101", "longer than necessary"),
        ("5f4101ff", "indefinite"),
        ("7f6161ff", "indefinite"),
        ("9f01ff", "indefinite"),
        ("bf0101ff", "indefinite"),
        ("1c", "reserved"),
        ("5e", "reserved"),
        ("a201010102", "twice"),
        ("a2616101616102", "twice"),
        ("a1410101", "a key"),
        ("a1f601", "a key"),
        ("a18001", "within too many"),
        ("61ff", "UTF-8"),
        ("62eda0", "UTF-8"),
        ("20", "does not belong"),
        ("3822", "does not belong"),
        ("c101", "does not belong"),
        ("c24101", "does not belong"),
        ("d2" + "8440a04040", "does not belong"),
        ("d9d9f701", "does not belong"),
        ("f4", "does not belong"),
        ("f5", "does not belong"),
        ("f7", "does not belong"),
        ("f90000", "does not belong"),
        ("fb3ff0000000000000", "does not belong"),
        ("f8f6", "does not belong"),
        ("ff", "does not belong"),
        ("81818180", "within too many"),
        ("9bffffffffffffffff", "ends within"),
        ("5bffffffffffffffff", "ends within"),
        ("bbffffffffffffffff", "ends within"),
    ],
)
def test_everything_else_is_refused(encoded: str, why: str) -> None:
    """Longer heads, indefinite lengths, tags, floats, booleans, repeated keys, depth and trailing bytes."""
    with pytest.raises(MalformedError, match=why) as caught:
        read(bytes.fromhex(encoded))
    assert caught.value.reason == "cbor"


@pytest.mark.parametrize("number", [-1, 2**64])
def test_integers_without_a_head_are_not_written(number: int) -> None:
    """The writer never cuts a number."""
    with pytest.raises(MalformedError):
        write(number)


def test_the_library_is_not_strict_enough() -> None:
    """The reason for a reader of our own: what its strictest mode takes. If this fails, think again."""
    for loose in ("0101", "1800", "f5", "d9d9f701", "c11a00000000"):
        cbor2.loads(bytes.fromhex(loose), allow_indefinite=False, allow_duplicate_keys=False, max_depth=3)
