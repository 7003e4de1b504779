"""What the certificate of a signing key says, and how strictly it is read."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier
from tests.attestation.tee.snp.maker import ARC, CHIP, GENOA, MILAN, TCB, TURIN, integer, label, leaf, text

from aigovtool.attestation.tee.snp.endorsement_key import KeyKind, read_endorsement_key
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.errors import EvidenceError


def reason(certificate: x509.Certificate) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        read_endorsement_key(certificate)
    return caught.value.reason


@pytest.mark.parametrize("product", Product)
def test_a_vcek_names_its_chip_and_a_vlek_its_provider(product: Product) -> None:
    """Product, TCB version, and either chip or provider come back."""
    key = read_endorsement_key(leaf(product))
    assert (key.kind, key.product, key.tcb) == (KeyKind.VCEK, product, TCB[product])
    assert (key.hardware_id, key.provider) == (CHIP[product], None)
    key = read_endorsement_key(leaf(product, "vlek"))
    assert (key.kind, key.product, key.tcb) == (KeyKind.VLEK, product, TCB[product])
    assert (key.hardware_id, key.provider) == (None, "CN=cc-test.example")


@pytest.mark.parametrize("product", Product)
def test_the_hardware_id_may_have_the_header_of_der(product: Product) -> None:
    """AMD leaves the header out; should it come some day, it is read."""
    chip = CHIP[product]
    assert read_endorsement_key(leaf(product, changes={"4": bytes((4, len(chip))) + chip})).hardware_id == chip


@pytest.mark.parametrize(
    "value",
    [
        b"",
        CHIP[MILAN][:63],
        CHIP[MILAN] + b"\0",
        b"\x04\x3f" + CHIP[MILAN],
        b"\x04\x81\x40" + CHIP[MILAN],
        b"\x16\x40" + CHIP[MILAN],
        CHIP[TURIN],
    ],
    ids=bytes.hex,
)
def test_a_hardware_id_of_another_form_is_refused(value: bytes) -> None:
    """The chip has 64 bytes, of Turin 8, bare or as one OCTET STRING."""
    assert reason(leaf(changes={"4": value})) == "leaf_extension"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x02\x00",
        b"\x02\x01",
        b"\x02\x01\x80",
        b"\x02\x02\x00\x7f",
        b"\x02\x02\x01\x00",
        b"\x02\x01\x03\x00",
        b"\x02\x81\x01\x03",
        b"\x0a\x01\x03",
        b"\x03",
    ],
    ids=bytes.hex,
)
def test_levels_are_numbers_in_their_only_encoding(value: bytes) -> None:
    """Negative, padded, too large, longer than needed, of another type or bare: no such number is read."""
    for oid in ("3.1", "3.4", "3.8", "1"):
        assert reason(leaf(changes={oid: value})) == "leaf_extension"


@pytest.mark.parametrize("level", [0, 1, 127, 128, 255])
def test_levels_reach_from_0_to_255(level: int) -> None:
    """Both encodings of small numbers are read."""
    assert read_endorsement_key(leaf(changes={"3.8": integer(level)})).tcb[7] == level


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize("kind", ["vcek", "vlek"])
def test_every_extension_is_required_and_no_other_of_amds_is_taken(product: Product, kind: str) -> None:
    """A leaf without one of AMD's values, or with one that its product has not, says something else."""
    oids = ["1", "2", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8", "4" if kind == "vcek" else "5"]
    other, own = ("3.4", "3.9") if product is TURIN else ("3.9", "3.4")
    for oid in (*oids, own):
        assert reason(leaf(product, kind, changes={oid: None})) == "leaf_extension"
    for oid in (other, "6", "3.10", "99"):
        assert reason(leaf(product, kind, changes={oid: integer(0)})) == "leaf_extension"


def test_a_key_is_of_a_chip_or_of_a_provider() -> None:
    """Both or neither is refused."""
    assert reason(leaf(changes={"5": text("CN=x")})) == "leaf_extension"
    assert reason(leaf(kind="vlek", changes={"4": CHIP[MILAN]})) == "leaf_extension"


@pytest.mark.parametrize("name", ["Milan", "Milan-B0", "Milan-B1", "Milan-A9"])
def test_a_product_may_name_its_stepping(name: str) -> None:
    """VCEKs name the stepping, VLEKs do not."""
    assert read_endorsement_key(leaf(changes={"2": text(name)})).product is MILAN


@pytest.mark.parametrize("name", ["Rome", "Milan-", "Milan-B", "Milan-B10", "milan", "Milan B0", "Venice-A0", " Milan"])
def test_an_unknown_product_is_refused(name: str) -> None:
    """No name that merely resembles a known one is taken."""
    assert reason(leaf(changes={"2": text(name)})) == "leaf_product"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x16\x00",
        b"\x16\x05Mila",
        b"\x16\x05Milan0",
        b"\x0c\x05Milan",
        b"\x13\x05Milan",
        b"\x16\x81\x05Milan",
        b"Milan",
        b"\x16\x06Mil\xe4n!",
        b"\x16\x06Milan\n",
    ],
    ids=bytes.hex,
)
def test_texts_are_printable_in_their_only_encoding(value: bytes) -> None:
    """A text is an IA5String with a short length and printable characters."""
    assert reason(leaf(changes={"2": value})) == "leaf_extension"
    assert reason(leaf(kind="vlek", changes={"5": value})) == "leaf_extension"


def test_a_long_provider_is_refused() -> None:
    """127 characters are the longest text with a short length."""
    assert reason(leaf(kind="vlek", changes={"5": b"\x16\x7f" + b"x" * 128})) == "leaf_extension"
    assert reason(leaf(kind="vlek", changes={"5": b"\x16\x81\x80" + b"x" * 128})) == "leaf_extension"
    # 258 characters, whose number has the low byte 2.
    assert reason(leaf(kind="vlek", changes={"5": b"\x16\x02" + b"x" * 258})) == "leaf_extension"


@pytest.mark.parametrize(("product", "structure"), [(MILAN, 1), (GENOA, 1), (TURIN, 0), (TURIN, 2)], ids=str)
def test_structure_and_product_agree(product: Product, structure: int) -> None:
    """Structure 1 came with Turin."""
    assert reason(leaf(product, changes={"1": integer(structure)})) == "leaf_product"


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "SEV-VLEK"},
        {"issuer": "SEV-VLEK-Milan"},
        {"issuer": "SEV-Genoa"},
        {"issuer": "ARK-Milan"},
        {"subject": "SEV-VCEK "},
    ],
    ids=label,
)
def test_names_are_those_of_kind_and_product(changes: dict[str, Any]) -> None:
    """Subject and issuer say the same as AMD's values."""
    assert reason(leaf(**changes)) == "leaf_name"
    assert reason(leaf(kind="vlek", **{"subject": "SEV-VCEK", "issuer": "SEV-Milan", **changes})) == "leaf_name"


def test_a_further_extension_that_is_not_critical_is_ignored() -> None:
    """An authority key identifier, or whatever is not AMD's own, changes nothing: the authority signed it."""
    further = [
        (x509.AuthorityKeyIdentifier(b"\x01" * 20, None, None), False),
        (x509.UnrecognizedExtension(ObjectIdentifier(ARC.removesuffix("1.") + "2.4"), b"\x05\x00"), False),
    ]
    assert read_endorsement_key(leaf(further=further)).product is MILAN
