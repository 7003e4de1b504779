"""Documents that AWS would not make: each member, each bound, each part of the structure around it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.attestation.tee.nitro import maker

from aigovtool.attestation.tee.nitro.cbor import write
from aigovtool.attestation.tee.nitro.document import MAX_DOCUMENT_BYTES, read_document, read_signed, require_headers
from aigovtool.errors import EvidenceError

P, S = maker.PROTECTED, bytes(96)


def refusal(action: Callable[[], object]) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        action()
    return caught.value.reason


def envelope(data: bytes) -> str | None:
    """Return why the structure around a document is refused."""
    return refusal(lambda: require_headers(read_signed(data)))


def document(**other: Any) -> str | None:
    """Return why a document with these members is refused."""
    return refusal(lambda: read_document(write(maker.members(**other))))


def test_a_genuine_document_is_read_as_it_was_made() -> None:
    """Every member comes back under its name; absent and null members are None."""
    signed = read_signed(maker.document())
    require_headers(signed)
    found = read_document(signed.payload)
    assert found.module_id == "i-0123456789abcdef0-enc0123456789abcdef"
    assert found.timestamp_ms == maker.NOW_MS
    assert found.pcrs == tuple(sorted(maker.PCRS.items()))
    assert (*found.cabundle, found.certificate) == maker.chain()
    assert (found.public_key, found.user_data, found.nonce) == (maker.HPKE_KEY, maker.REPORT_DATA, maker.NONCE)
    absent = read_document(write(maker.members(public_key=None, user_data=None, nonce=None)))
    assert (absent.public_key, absent.user_data, absent.nonce) == (None, None, None)
    without = {name: value for name, value in maker.members().items() if name not in {"nonce", "user_data"}}
    assert read_document(write(without)).nonce is None


def test_members_may_come_in_any_order() -> None:
    """The signature covers the received bytes, so their order carries no meaning."""
    turned = dict(reversed(maker.members(pcrs=dict(reversed(maker.PCRS.items()))).items()))
    assert read_document(write(turned)) == read_document(write(maker.members()))


@pytest.mark.parametrize("missing", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_a_missing_member_is_refused(missing: str) -> None:
    """Six members are mandatory."""
    left = {name: value for name, value in maker.members().items() if name != missing}
    assert refusal(lambda: read_document(write(left))) == "document_members"


@pytest.mark.parametrize("extra", [{"version": 2}, {0: b""}, {"Nonce": b""}], ids=str)
def test_an_unknown_member_is_refused(extra: dict[Any, Any]) -> None:
    """What nobody here understands is not ignored."""
    assert refusal(lambda: read_document(write(maker.members() | extra))) == "document_members"


@pytest.mark.parametrize("item", [None, 1, "SHA384", [], [{}]], ids=str)
def test_a_payload_that_is_no_map_is_refused(item: Any) -> None:
    """Another item is no document."""
    assert refusal(lambda: read_document(write(item))) == "document_members"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("module_id", ""),
        ("module_id", None),
        ("module_id", b"i-0"),
        ("module_id", "i 0"),
        ("module_id", "i-0\n"),
        ("module_id", "i-é"),
        ("module_id", "i" * 201),
        ("digest", "SHA256"),
        ("digest", "sha384"),
        ("digest", b"SHA384"),
        ("digest", None),
        ("timestamp", 0),
        ("timestamp", None),
        ("timestamp", "1"),
        ("pcrs", None),
        ("pcrs", []),
        ("pcrs", {}),
        ("pcrs", {1: bytes(48), 2: bytes(48)}),
        ("pcrs", {0: bytes(48), 2: bytes(48)}),
        ("pcrs", {0: bytes(48), 1: bytes(48)}),
        ("pcrs", maker.PCRS | {32: bytes(48)}),
        ("pcrs", maker.PCRS | {"3": bytes(48)}),
        ("pcrs", maker.PCRS | {3: bytes(32)}),
        ("pcrs", maker.PCRS | {3: bytes(47)}),
        ("pcrs", maker.PCRS | {3: bytes(49)}),
        ("pcrs", maker.PCRS | {3: bytes(64)}),
        ("pcrs", maker.PCRS | {3: "0" * 48}),
        ("pcrs", maker.PCRS | {3: None}),
        ("certificate", b""),
        ("certificate", None),
        ("certificate", "0"),
        ("certificate", b"\x30" * 1025),
        ("cabundle", None),
        ("cabundle", []),
        ("cabundle", {}),
        ("cabundle", [b""]),
        ("cabundle", [None]),
        ("cabundle", ["0"]),
        ("cabundle", [b"\x30" * 1025]),
        ("cabundle", [b"\x30"] * 17),
        ("public_key", b""),
        ("public_key", b"\x01" * 1025),
        ("public_key", "key"),
        ("public_key", 1),
        ("user_data", b"\x01" * 1025),
        ("user_data", "data"),
        ("user_data", []),
        ("nonce", b"\x01" * 1025),
        ("nonce", 7),
        ("nonce", {}),
    ],
)
def test_a_member_out_of_its_type_or_bounds_is_refused_by_its_name(name: str, value: Any) -> None:
    """Each member has the type and the bounds of AWS' specification, and a reason of its own."""
    assert document(**{name: value}) == f"document_{name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("module_id", "i" * 200),
        ("timestamp", 1),
        ("timestamp", 2**64 - 1),
        ("pcrs", {index: bytes(48) for index in range(32)}),
        ("certificate", b"\x30" * 1024),
        ("cabundle", [b"\x30"] * 16),
        ("public_key", b"\x01" * 1024),
        ("user_data", b""),
        ("user_data", b"\x01" * 1024),
        ("nonce", b""),
        ("nonce", b"\x01" * 1024),
    ],
)
def test_a_member_at_its_bound_is_read(name: str, value: Any) -> None:
    """Bounds are included."""
    read_document(write(maker.members(**{name: value})))


def test_a_member_twice_is_refused() -> None:
    """Of two values one reader could take the first and another the second."""
    once = write({"nonce": maker.NONCE})[1:]
    whole = write(maker.members())
    assert refusal(lambda: read_document(bytes([whole[0] + 1]) + whole[1:] + once)) == "document_encoding"
    pcrs = write(maker.PCRS)
    twice = bytes([pcrs[0] + 1]) + pcrs[1:] + write({0: bytes(48)})[1:]
    assert refusal(lambda: read_document(whole.replace(pcrs, twice))) == "document_encoding"


@pytest.mark.parametrize(
    ("genuine", "twisted"),
    [
        (b"\x66digest", b"\x78\x06digest"),
        (b"\x66digest", b"\x7f\x66digest\xff"),
        (b"\x66SHA384", b"\x7f\x63SHA\x63384\xff"),
        (b"\x69timestamp\x1b", b"\x69timestamp\xc1\x1b"),
        (b"\x65nonce\x58\x20", b"\x65nonce\x59\x00\x20"),
        (b"\x64pcrs\xa6", b"\x64pcrs\xb8\x06"),
        (b"\x68cabundle\x84", b"\x68cabundle\x98\x04"),
    ],
)
def test_a_second_encoding_of_a_document_is_refused(genuine: bytes, twisted: bytes) -> None:
    """Longer heads, indefinite strings and tags within the payload."""
    whole = write(maker.members())
    assert genuine in whole
    assert refusal(lambda: read_document(whole.replace(genuine, twisted, 1))) == "document_encoding"


def test_indefinite_maps_and_arrays_of_a_document_are_refused() -> None:
    """Neither the document, its registers nor its bundle may be of indefinite length."""
    whole = write(maker.members())
    pcrs, bundle = write(maker.PCRS), write(list(maker.chain()[:-1]))
    for inner, first in ((pcrs, b"\xbf"), (bundle, b"\x9f")):
        assert inner in whole
        loose = whole.replace(inner, first + inner[1:] + b"\xff")
        assert refusal(partial(read_document, loose)) == "document_encoding"
    assert refusal(lambda: read_document(b"\xbf" + whole[1:] + b"\xff")) == "document_encoding"
    assert refusal(lambda: read_document(whole + b"\x00")) == "document_encoding"


def test_a_document_over_the_bound_of_the_specification_is_refused() -> None:
    """The payload is bounded before it is parsed, and so is what is around it."""
    assert refusal(lambda: read_document(bytes(16_385))) == "document_too_large"
    assert envelope(bytes(MAX_DOCUMENT_BYTES + 1)) == "envelope_too_large"
    largest = write([maker.PROTECTED, {}, bytes(16_384), bytes(96)])
    assert len(largest) == MAX_DOCUMENT_BYTES == 16_492
    require_headers(read_signed(largest))


@pytest.mark.parametrize(
    "protected",
    [
        pytest.param("", id="no header"),
        pytest.param("a0", id="no algorithm"),
        pytest.param("a10126", id="ES256"),
        pytest.param("a1013823", id="ES512"),
        pytest.param("a1013824", id="PS256"),
        pytest.param("a1013807", id="EdDSA"),
        pytest.param("a101390022", id="a longer head of -35"),
        pytest.param("a2013822044101", id="a key id beside it"),
        pytest.param("a1021822", id="another header"),
        pytest.param("a101382200", id="trailing bytes"),
        pytest.param("bf013822ff", id="an indefinite map"),
    ],
)
def test_another_protected_header_is_refused(protected: str) -> None:
    """The algorithm is ES384, written in one way, and nothing stands beside it."""
    assert envelope(maker.sealed(b"x", protected=bytes.fromhex(protected))) == "envelope_algorithm"


@pytest.mark.parametrize("unprotected", [{1: 1}, {"x": None}, [], 1, "", b"", b"\xa0"], ids=str)
def test_another_unprotected_header_is_refused(unprotected: Any) -> None:
    """What is not signed must be empty, and a map."""
    assert envelope(maker.sealed(b"x", unprotected=unprotected)) == "envelope_headers"


def test_null_for_the_unprotected_header_is_refused() -> None:
    """Null is not an empty map, though some signers write it."""
    assert envelope(write([P, None, b"x", S])) == "envelope_headers"


@pytest.mark.parametrize("size", [0, 64, 95, 97, 104, 132])
def test_a_signature_of_another_size_is_refused(size: int) -> None:
    """Two numbers of 48 bytes: no DER, no other curve."""
    assert envelope(write([P, {}, b"x", bytes(size)])) == "envelope_signature"


@pytest.mark.parametrize(
    "items",
    [
        [P, {}, b"x"],
        [P, {}, b"x", S, b""],
        [],
        {0: [P, {}, b"x", S]},
        b"x",
        None,
        [{}, {}, b"x", S],
        [P, {}, {}, S],
        [P, {}, None, S],
        [P, {}, b"x", None],
        [P, {}, b"x", "s" * 96],
        ["p", {}, b"x", S],
    ],
    ids=repr,
)
def test_another_structure_is_refused(items: Any) -> None:
    """Four items: bytes, map, bytes, bytes. A detached payload is none."""
    assert envelope(write(items)) == "envelope_shape"


def test_a_tagged_or_loosely_encoded_structure_is_refused() -> None:
    """Tags, indefinite and longer lengths, and trailing bytes are not signed, so each would be a second encoding."""
    genuine = maker.document()
    assert genuine[:8].hex() == "8444a1013822a059"
    for loose in (
        b"\xd2" + genuine,
        b"\xd9\xd9\xf7" + genuine,
        b"\x9f" + genuine[1:] + b"\xff",
        b"\x98\x04" + genuine[1:],
        genuine[:1] + b"\x58\x04" + genuine[2:],
        genuine[:6] + b"\xb8\x00" + genuine[7:],
        genuine[:6] + b"\xbf\xff" + genuine[7:],
        genuine[:7] + b"\x5a\x00\x00" + genuine[8:],
        genuine + b"\x00",
        genuine[:-1],
        b"",
    ):
        assert envelope(loose) == "envelope_encoding"
