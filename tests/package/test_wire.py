"""The bounded protobuf reader by itself."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from aigovtool.errors import FaultError, ModelError
from aigovtool.package.onnx_schema import ATTRIBUTE
from aigovtool.package.wire import LEN, VARINT, Rule, WireReader

SCHEMA = {1: Rule((VARINT,), repeated=True), 2: Rule((LEN,), repeated=True)}


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def reader(data: bytes, max_fields: int = 1_000) -> WireReader:
    return WireReader(io.BytesIO(data), len(data), max_fields)


@given(st.lists(st.integers(0, 2**64 - 1) | st.binary(max_size=200), max_size=20))
def test_what_was_encoded_is_read(values: list[int | bytes]) -> None:
    """Integers up to 64 bits and contents of any length, in their order."""
    data = b"".join(
        b"\x08" + varint(value) if isinstance(value, int) else b"\x12" + varint(len(value)) + value for value in values
    )
    wire = reader(data)
    read = [f.value if f.number == 1 else wire.content(f, 200, "it") for f in wire.fields(0, len(data), SCHEMA)]
    assert read == values


@given(st.binary(max_size=60))
def test_any_bytes_give_fields_or_a_refusal(data: bytes) -> None:
    """Nothing but our error leaves, and no field reaches past the end."""
    try:
        fields = list(reader(data).fields(0, len(data), SCHEMA))
    except ModelError:
        return
    assert all(0 <= field.start <= field.end <= len(data) for field in fields)


def test_the_number_of_fields_is_bounded() -> None:
    """Also over several messages."""
    data = b"\x08\x01" * 600
    wire = reader(data)
    assert len(list(wire.fields(0, len(data), SCHEMA))) == 600
    with pytest.raises(ModelError) as caught:
        list(wire.fields(0, len(data), SCHEMA))
    assert caught.value.reason == "too_many_fields"


def test_runs_of_numbers_and_strings_count_as_one() -> None:
    """A tree ensemble has millions of them in one attribute; the fields before and after are still seen."""
    for values in ([0.5] * 50_000, list(range(-25_000, 25_000)), [b"BRANCH_LEQ", b"LEAF"] * 25_000):
        attribute = helper.make_attribute("a", values)
        attribute.ref_attr_name = "after"
        data = attribute.SerializeToString()
        assert {1, 20, 21} < {field.number for field in reader(data).fields(0, len(data), ATTRIBUTE)}


@pytest.mark.parametrize("integer", [b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01", b"\xff" * 9 + b"\x7f"])
def test_an_integer_has_64_bits(integer: bytes) -> None:
    """Protobuf cuts longer ones off: another reader would see another number."""
    data = b"\x08" + integer
    with pytest.raises(ModelError):
        list(reader(data).fields(0, len(data), SCHEMA))


def test_a_run_ends_where_its_message_ends() -> None:
    """Numbers of the next message are not taken for this one's."""
    data = b"\x40\x01" * 10
    assert [field.end for field in reader(data).fields(0, 2, ATTRIBUTE)] == [2]
    with pytest.raises(ModelError):
        list(reader(data).fields(0, 3, ATTRIBUTE))


def test_contents_over_the_bound_are_not_read() -> None:
    """The bound is the caller's and is checked first."""
    data = b"\x12\x05hello"
    wire = reader(data)
    (field,) = wire.fields(0, len(data), SCHEMA)
    with pytest.raises(ModelError) as caught:
        wire.content(field, 4, "it")
    assert caught.value.reason == "name_too_long"


def test_text_is_utf_8() -> None:
    """Other bytes are refused, not replaced."""
    data = b"\x12\x01\xff"
    wire = reader(data)
    (field,) = wire.fields(0, len(data), SCHEMA)
    with pytest.raises(ModelError):
        wire.text(field, 4, "it")


def test_a_file_that_shrinks_or_fails_is_a_typed_error() -> None:
    """The size is known before; what is missing later is not invented."""

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, f"no {size} bytes")

    with pytest.raises(ModelError):
        list(WireReader(io.BytesIO(b"\x08"), 100).fields(0, 100, SCHEMA))
    with pytest.raises(FaultError) as caught:
        list(WireReader(Failing(), 100).fields(0, 100, SCHEMA))
    assert caught.value.reason == "io_failed"
