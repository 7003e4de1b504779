"""What AMD's service answers is judged by itself: what was asked for, by AMD, and of this time; or it is silence."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation.tee.snp.maker import (
    CHIP,
    DAY,
    MILAN,
    NOW,
    NOW_MS,
    authorities,
    der,
    leaf,
    pem,
    revocation_list,
    roots,
    table,
    usual_leaf,
)

from aigovtool.attestation.tee.snp.answers import issued as judged
from aigovtool.attestation.tee.snp.endorsement_key import KeyKind, read_endorsement_key
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.snp.wanted import leaf_address, list_address
from aigovtool.errors import EvidenceError

LIST = list_address(MILAN, KeyKind.VCEK)
VLEK_LIST = list_address(MILAN, KeyKind.VLEK)


def address(product: Product = MILAN) -> str:
    key = read_endorsement_key(usual_leaf(product))
    assert key.hardware_id is not None
    return leaf_address(product, key.hardware_id, key.tcb)


def issued(url: str, body: bytes, now_ms: int = NOW_MS) -> int:
    return judged(url, body, now_ms, roots()).at_ms


def why(url: str, body: bytes, now_ms: int = NOW_MS) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        issued(url, body, now_ms)
    return caught.value.reason


@pytest.mark.parametrize("product", list(Product))
def test_a_chips_certificate_is_that_of_the_address(product: Product) -> None:
    """Chip and TCB version are in the address and in the certificate; also in PEM."""
    (found,) = der(usual_leaf(product))
    since_ms = int(usual_leaf(product).not_valid_before_utc.timestamp()) * 1000
    assert issued(address(product), found) == issued(address(product), pem(usual_leaf(product))) == since_ms


@pytest.mark.parametrize("kind", list(KeyKind))
def test_a_list_was_issued_when_it_says(kind: KeyKind) -> None:
    """It is by the root of the product that the address names."""
    body = revocation_list(11, since=NOW - 3 * DAY).public_bytes(Encoding.DER)
    assert issued(list_address(MILAN, kind), body) == NOW_MS - 3 * 86_400_000


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>Service unavailable</html>", "certificate_encoding"),
        (b"", "certificate_encoding"),
        (der(usual_leaf(Product.GENOA))[0], "answer_other"),
        (der(leaf(tcb=bytes(8)))[0], "answer_other"),
        (der(usual_leaf(MILAN, "vlek"))[0], "answer_other"),
        (pem(usual_leaf(), authorities().ask), "answer_other"),
        (table([("vcek", der(usual_leaf())[0])]), "certificate_encoding"),
        (der(leaf(signer="root"))[0], "chain_signature"),
        (der(leaf(until=NOW - DAY))[0], "expired"),
    ],
    ids=["page", "nothing", "product", "tcb", "vlek", "chain", "table", "forged", "expired"],
)
def test_another_answer_for_a_chip_is_refused(body: bytes, reason: str) -> None:
    """Attack: a proxy's page, another chip's certificate, or one that AMD did not make."""
    assert why(address(), body) == reason


def test_another_chip_is_another_address() -> None:
    """Attack: the answer for a chip of the attacker's, in place of the one that was asked for."""
    other = leaf_address(MILAN, bytes(reversed(CHIP[MILAN])), read_endorsement_key(usual_leaf()).tcb)
    assert why(other, der(usual_leaf())[0]) == "answer_other"
    assert why(address() + "&x=1", der(usual_leaf())[0]) == "answer_other"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>Service unavailable</html>", "certificate_encoding"),
        (der(usual_leaf())[0], "certificate_encoding"),
        (revocation_list(signer="authority").public_bytes(Encoding.DER), "revocation_signature"),
        (revocation_list(issuer="ARK-Genoa").public_bytes(Encoding.DER), "revocation_issuer"),
        (revocation_list(until=NOW - timedelta(hours=1)).public_bytes(Encoding.DER), "revocation_stale"),
        (revocation_list(since=NOW + timedelta(hours=1)).public_bytes(Encoding.DER), "revocation_stale"),
    ],
    ids=["page", "certificate", "forged", "product", "over", "future"],
)
def test_another_answer_for_a_list_is_refused(body: bytes, reason: str) -> None:
    """Attack: anything that would make genuine evidence look bad, or stay in a cache."""
    assert why(LIST, body) == why(VLEK_LIST, body) == reason


def test_a_product_without_a_root_gets_nothing() -> None:
    """Whoever believes other roots for Milan has none for Genoa."""
    only = {MILAN: authorities()}
    for url, body in (
        (address(Product.GENOA), der(usual_leaf(Product.GENOA))[0]),
        (list_address(Product.GENOA, KeyKind.VCEK), revocation_list(issuer="ARK-Genoa").public_bytes(Encoding.DER)),
    ):
        with pytest.raises(EvidenceError) as caught:
            judged(url, body, NOW_MS, only)
        assert caught.value.reason == "chain_root"
