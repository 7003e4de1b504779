"""The host's certificate table and everything else that comes along: recognised whole, or refused."""

import struct
from uuid import UUID

import pytest
from tests.attestation.tee.snp import maker
from tests.attestation.tee.snp.maker import (
    GENOA,
    GUIDS,
    MILAN,
    authorities,
    bundle,
    der,
    examine,
    leaf,
    pem,
    refused,
    revocation_list,
    table,
    usual_leaf,
)

from aigovtool.attestation.tee.snp.table import Content, read_table
from aigovtool.errors import EvidenceError


def reason(data: bytes) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        read_table(data)
    return caught.value.reason


def why(*endorsements: bytes) -> str:
    return refused(bundle(None, *endorsements))["endorsements"]


def test_a_table_is_read_in_its_order() -> None:
    """Entries come back in the order of the table, wherever their contents lie."""
    entries = [(name, name.encode() * 3) for name in GUIDS]
    found = read_table(table(entries, gap=5, padding_bytes=100))
    assert [(str(entry.content), entry.data) for entry in found] == entries


def test_contents_may_lie_in_another_order_than_their_entries() -> None:
    """Offsets say where a content lies; nothing says they rise."""
    head = UUID(GUIDS["vcek"]).bytes + struct.pack("<II", 74, 3) + UUID(GUIDS["ark"]).bytes + struct.pack("<II", 72, 2)
    assert [(one.content, one.data) for one in read_table(head + bytes(24) + b"AAVVV")] == [
        (Content.VCEK, b"VVV"),
        (Content.ARK, b"AA"),
    ]


@pytest.mark.parametrize("size", [24, 25, 4096])
def test_a_table_may_be_empty(size: int) -> None:
    """A host that has nothing gives an entry of zeros, and maybe a page of them."""
    assert read_table(bytes(size)) == ()


@pytest.mark.parametrize("size", [0, 1, 23])
def test_a_table_without_an_end_is_refused(size: int) -> None:
    """The last entry is whole."""
    assert reason(bytes(size)) == "table_entry"
    assert reason(UUID(GUIDS["ark"]).bytes + struct.pack("<II", 0, 1)) == "table_entry"


def test_guids_are_in_the_order_of_their_text() -> None:
    """The mixed order of UEFI is not read: one table has one meaning."""
    mixed = UUID(GUIDS["ark"]).bytes_le + struct.pack("<II", 48, 1) + bytes(24) + b"x"
    assert reason(mixed) == "table_entry"


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (48, 0, "table_entry"),
        (48, 3, "table_entry"),
        (2**32 - 1, 2, "table_entry"),
        (49, 2, "table_entry"),
        (47, 2, "table_overlap"),
        (0, 50, "table_overlap"),
        (48, 1, "table_padding"),
        (49, 1, "table_padding"),
    ],
)
def test_every_byte_of_a_table_has_a_place(start: int, length: int, expected: str) -> None:
    """Contents are not empty, within the table, behind the entries; nothing is left over."""
    assert reason(UUID(GUIDS["ark"]).bytes + struct.pack("<II", start, length) + bytes(24) + b"xy") == expected


def test_contents_that_overlap_are_refused() -> None:
    """No byte is two things."""
    head = UUID(GUIDS["ark"]).bytes + struct.pack("<II", 72, 3) + UUID(GUIDS["ask"]).bytes + struct.pack("<II", 74, 1)
    assert reason(head + bytes(24) + b"xyz") == "table_overlap"


def test_unknown_and_repeated_entries_are_refused() -> None:
    """What a host adds of its own is not accounted for; the same entry twice has two meanings."""
    extra = "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6"
    assert reason(table([("ark", b"x"), (extra, b"y")])) == "table_entry"
    assert reason(table([("ark", b"x"), ("ark", b"y")])) == "table_entry"


@pytest.mark.parametrize("gap", [1, 40])
def test_bytes_between_contents_are_zero(gap: int) -> None:
    """A table has no place to hide something."""
    data = table([("vcek", der(usual_leaf())[0]), ("ask", der(authorities().ask)[0])], gap=gap, padding_bytes=gap)
    assert examine(bundle(None, data)).verified
    for index in range(len(data)):
        if not data[index] and index >= 48:
            changed = bytearray(data)
            changed[index] = 1
            assert refused(bundle(None, bytes(changed)))


@pytest.mark.parametrize("entry", ["ark", "ask", "vlek", "crl"])
def test_an_entry_holds_what_its_guid_says(entry: str) -> None:
    """A VCEK under another GUID is refused."""
    assert why(table([(entry, der(usual_leaf())[0])])) in {"table_entry", "certificate_encoding"}


def test_an_entry_holds_one_certificate() -> None:
    """Two certificates in one entry are refused, whatever they are."""
    assert why(table([("vcek", pem(usual_leaf(), authorities().ask))])) == "table_entry"


def test_nothing_comes_along_twice() -> None:
    """Of two leaves, authorities or roots one would be unused; nobody says which. The same one twice is one."""
    known = authorities()
    assert why(*der(usual_leaf(), usual_leaf(MILAN, "vlek"))) == "endorsement_twice"
    assert why(*der(usual_leaf(), usual_leaf(GENOA))) == "endorsement_twice"
    assert why(*der(usual_leaf(), known.ask, known.asvk)) == "endorsement_twice"
    assert why(*der(usual_leaf(), known.ark), pem(authorities(GENOA).ark)) == "endorsement_twice"
    assert examine(bundle(None, *der(usual_leaf(), known.ark), pem(usual_leaf(), known.ark))).verified is not None
    lists = [revocation_list(serial) for serial in (71, 72, 73, 74, 75)]
    assert why(*der(usual_leaf(), *lists)) == "endorsement_twice"
    assert examine(bundle(None, *der(usual_leaf(), *lists[:4], *lists[:4]))).verified is not None


def test_without_a_leaf_nothing_is_verified() -> None:
    """Authorities alone endorse no report."""
    assert why(bytes(24)) == "leaf_missing"
    assert why(*der(authorities().ask, authorities().ark)) == "leaf_missing"


@pytest.mark.parametrize("junk", [b"", b"\0", bytes(23), b"x", b"0", b"0\x03\x02\x01\x05", b"{}", b"0" * 20_000])
def test_what_is_not_recognised_is_refused(junk: bytes) -> None:
    """Every endorsement has a meaning, or the evidence is refused."""
    assert why(*der(usual_leaf()), junk) == "endorsement_unknown"


def test_a_certificate_of_another_name_is_refused() -> None:
    """A certificate that is none of AMD's kinds is not ignored."""
    for subject in ("SEV-Milan2", "SEV-", "ARK-", "sev-vcek", "Root"):
        stranger = maker.certify(subject, "ARK-Milan", maker.leaf_key().public_key(), "root")
        assert why(*der(usual_leaf(), stranger)) == "endorsement_unknown"


def test_names_that_cannot_be_read_are_refused() -> None:
    """The library reads a name only when it is asked for; issuer or subject, nobody is surprised later."""
    for part in (usual_leaf(), authorities().ask, revocation_list()):
        (data,) = der(part)
        rest = () if part is usual_leaf() else der(usual_leaf())
        pieces = data.split(b"Santa Clara")
        for index in range(1, len(pieces)):
            names = [b"Santa Clara"] * (len(pieces) - 1)
            names[index - 1] = b"Santa \xff\xfeara"
            changed = pieces[0] + b"".join(name + piece for name, piece in zip(names, pieces[1:], strict=True))
            assert why(changed, *rest) == "endorsement_unknown"


def test_trailing_bytes_are_refused() -> None:
    """Nothing follows a certificate or a list."""
    for part in (usual_leaf(), authorities().ask, revocation_list()):
        (data,) = der(part)
        rest = () if part is usual_leaf() else der(usual_leaf())
        assert why(data + b"\0", *rest) == "endorsement_unknown"
        assert why(pem(part) + b"\n", *rest) == "certificate_encoding"
    (data,) = der(leaf())
    assert refused(bundle(None, table([("vcek", data + b"\0")])))["endorsements"] == "certificate_encoding"
