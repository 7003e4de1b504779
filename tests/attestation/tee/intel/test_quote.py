"""Quotes have one encoding: every length, version and reserved byte is looked at before anything is believed."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attestation.tee.intel import maker
from tests.attestation.tee.intel.maker import SGX, TDX4, TDX5, TDX15, Recipe, but

from aigovtool.attestation.tee.intel.quote import EnclaveReport, TdReport, read_quote
from aigovtool.errors import EvidenceError

ALL = (SGX, TDX4, TDX5, TDX15)


def reason(data: bytes) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        read_quote(data)
    return caught.value.reason


def patched(recipe: Recipe, offset: int, value: bytes) -> bytes:
    data = bytearray(maker.quote(recipe))
    data[offset : offset + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize("recipe", ALL, ids=["sgx3", "tdx4", "tdx5", "tdx5-1.5"])
def test_every_field_is_read_from_its_place(recipe: Recipe) -> None:
    """Each field of header and body holds the bytes that the specification puts there."""
    report = {
        field: bytes((index + byte) % 251 + 1 for byte in range(size))
        for index, (field, (_, size)) in enumerate((maker.ENCLAVE if recipe is SGX else maker.TD).items())
        if not field.startswith("reserved") and (recipe.td15 or field not in {"tee_tcb_svn2", "mr_service_td"})
    }
    found = read_quote(maker.quote(but(recipe, body=report, header={"user_data": bytes(range(20))})))
    assert found.header.user_data == bytes(range(20))
    assert found.header.version == recipe.version
    body = found.body
    for field, value in report.items():
        if isinstance(body, TdReport) and field.startswith("rtmr"):
            assert body.rtmrs[int(field[-1])] == value
            continue
        seen = getattr(body, field)
        assert seen == (int.from_bytes(value, "little") if isinstance(seen, int) else value), field
    assert isinstance(body, EnclaveReport if recipe is SGX else TdReport)
    assert (found.header.qe_svn, found.header.pce_svn) == ((6, 11) if recipe is SGX else (0, 0))


@pytest.mark.parametrize("recipe", ALL, ids=["sgx3", "tdx4", "tdx5", "tdx5-1.5"])
def test_a_quote_cut_anywhere_is_refused(recipe: Recipe) -> None:
    """No prefix of a quote is a quote."""
    data = maker.quote(recipe)[: -recipe.padding or None]
    steps = [*range(0, 700, 7), *range(700, len(data), 97), len(data) - 1]
    assert {reason(data[:length]) for length in steps} <= {"quote_length", "quote_certification"}


@pytest.mark.parametrize("recipe", ALL, ids=["sgx3", "tdx4", "tdx5", "tdx5-1.5"])
def test_only_zeros_may_follow_a_quote(recipe: Recipe) -> None:
    """A buffer's zeros are accepted, and nothing else, wherever it stands in them."""
    data = maker.quote(recipe)
    assert read_quote(data + bytes(3000)) == read_quote(data)
    for tail in (b"\x01", bytes(2999) + b"\x80", b"\0\x01\0"):
        assert not read_quote(data + tail).padded


@pytest.mark.parametrize(
    ("recipe", "header", "expected"),
    [
        (SGX, {"version": 2}, "quote_version"),
        (SGX, {"version": 4}, "quote_version"),
        (SGX, {"version": 5}, "quote_version"),
        (TDX4, {"version": 3}, "quote_version"),
        (TDX4, {"version": 6}, "quote_version"),
        (SGX, {"key_type": 3}, "quote_key_type"),
        (TDX4, {"key_type": 0}, "quote_key_type"),
        (SGX, {"tee": 1}, "quote_tee"),
        (TDX4, {"tee": 0x80}, "quote_tee"),
        (TDX4, {"tee": 0x0100_0081}, "quote_tee"),
        (SGX, {"vendor": bytes(16)}, "quote_vendor"),
        (TDX5, {"vendor": maker.VENDOR[:15] + b"\x08"}, "quote_vendor"),
        (TDX4, {"qe_svn": 1}, "quote_reserved"),
        (TDX5, {"pce_svn": 0x100}, "quote_reserved"),
    ],
)
def test_another_form_is_refused_by_name(recipe: Recipe, header: maker.Part, expected: str) -> None:
    """Versions, key types, platforms and vendors that are not verified are told apart, whoever signs them."""
    assert reason(maker.quote(but(recipe, header=header))) == expected


@pytest.mark.parametrize("whose", ["body", "qe"])
@pytest.mark.parametrize("field", ["reserved1", "reserved2", "reserved3", "reserved4"])
def test_reserved_bytes_of_both_enclave_reports_are_zero(whose: str, field: str) -> None:
    """Each reserved byte is looked at, in the quoted report and in the quoting enclave's."""
    _, size = maker.ENCLAVE[field]
    for index in range(size):
        set_byte = bytes(index) + b"\x01" + bytes(size - index - 1)
        recipe = but(SGX, body={field: set_byte}) if whose == "body" else but(SGX, qe={field: set_byte})
        assert reason(maker.quote(recipe)) == "quote_reserved"


@pytest.mark.parametrize(
    ("kind", "size"), [(1, 384), (2, 648), (3, 584), (3, 649), (4, 648), (0, 584), (2, 0xFFFF_FFFF)]
)
def test_a_body_of_version_5_has_the_size_of_its_type(kind: int, size: int) -> None:
    """Type and size of a body agree, and types that are not verified are refused."""
    assert reason(patched(TDX5, 48, struct.pack("<HI", kind, size))) == "quote_body"


@pytest.mark.parametrize("change", [-1, 1, 1 << 31])
def test_every_announced_length_is_exact(change: int) -> None:
    """A length that is one too small, one too large or enormous is refused, at each of the places that hold one."""
    for recipe, places in (
        (SGX, {432: 4, 436 + 128 + 448: 2, 436 + 128 + 448 + 34 + 2: 4}),
        (TDX4, {632: 4, 636 + 130: 4, 636 + 134 + 448: 2, 636 + 134 + 448 + 34 + 2: 4}),
    ):
        for offset, width in places.items():
            announced = int.from_bytes(maker.quote(recipe)[offset : offset + width], "little")
            wrong = (announced + change) % (1 << 8 * width)
            if wrong == announced:
                continue
            told = reason(patched(recipe, offset, wrong.to_bytes(width, "little")))
            assert told in {"quote_length", "quote_trailing", "quote_certification"}, offset


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 6, 7, 0xFFFF])
def test_the_pck_chain_is_inside(kind: int) -> None:
    """Identifiers and encrypted PPIDs in place of the chain are refused: nothing is fetched."""
    assert reason(patched(SGX, 436 + 128 + 448 + 34, struct.pack("<H", kind))) == "quote_certification"
    assert reason(patched(TDX4, 636 + 134 + 448 + 34, struct.pack("<H", kind))) == "quote_certification"
    if kind != 6:
        assert reason(patched(TDX4, 636 + 128, struct.pack("<H", kind))) == "quote_certification"


@pytest.mark.parametrize("size", [0, 31, 33, 1000])
def test_authentication_data_of_another_size_is_refused(size: int) -> None:
    """The hash over key and authentication data leaves no doubt where the one ends."""
    assert reason(maker.quote(but(TDX4, qe_auth=bytes(size)))) == "quote_length"


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    start=st.sampled_from([b"", *(maker.quote(recipe)[:1200] for recipe in ALL)]),
    at=st.integers(0, 1200),
    piece=st.binary(max_size=300),
)
def test_any_bytes_are_a_quote_or_refused(start: bytes, at: int, piece: bytes) -> None:
    """Whatever the bytes are, there is no other error, and no memory is taken for what is only announced."""
    try:
        read_quote(start[:at] + piece + start[at + len(piece) :])
    except EvidenceError as error:
        assert error.reason is not None
        assert error.reason.startswith("quote_")
