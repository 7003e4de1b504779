"""Addresses of endorsements: exactly AMD's, whatever the report says."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.attestation.tee.snp.maker import CHIP, GENOA, MILAN, TURIN, claims_hash, container, report

from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.snp.wanted import wanted
from aigovtool.errors import EvidenceError

_HOST = "https://kdsintf.amd.com"
_ADDRESS = re.compile(
    r"https://kdsintf\.amd\.com/(vcek|vlek)/v1/(Milan|Genoa|Turin)/"
    r"(cert_chain|crl|([0-9a-f]{16}|[0-9a-f]{128})\?(fmcSPL=\d{2,3}&)?blSPL=\d{2,3}&teeSPL=\d{2,3}&snpSPL=\d{2,3}&ucodeSPL=\d{2,3})"
)


def reason(data: bytes) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        wanted(data)
    return caught.value.reason


def addresses(product: Product) -> tuple[str, ...]:
    base = f"{_HOST}/vcek/v1/{product}"
    fmc = "fmcSPL=02&" if product is TURIN else ""
    levels = f"{fmc}blSPL=03&teeSPL=01&snpSPL=08&ucodeSPL=209"
    return (f"{base}/{CHIP[product].hex()}?{levels}", f"{base}/cert_chain", f"{base}/crl")


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize("version", [3, 5])
def test_leaf_chain_and_list_of_a_vcek(product: Product, version: int) -> None:
    """The reported TCB and the chip go into the address of the leaf, as AMD's service names them."""
    assert wanted(report(product, version=version)) == addresses(product)


def test_a_report_without_cpuid_has_two_candidates() -> None:
    """Version 2 tells no product; both that wrote it are tried."""
    found = wanted(report(version=2))
    assert found[:3] == addresses(MILAN)
    assert found[3:] == tuple(one.replace("Milan", "Genoa") for one in addresses(MILAN))


@pytest.mark.parametrize("product", Product)
def test_the_leaf_of_a_vlek_is_its_providers(product: Product) -> None:
    """AMD gives chain and list to everybody, the leaf to the provider only."""
    base = f"{_HOST}/vlek/v1/{product}"
    assert wanted(report(product, kind="vlek")) == (f"{base}/cert_chain", f"{base}/crl")


def test_a_report_in_a_container_wants_the_same() -> None:
    """The container of Azure's paravisor changes nothing."""
    assert wanted(container(report(report_data=claims_hash()))) == addresses(MILAN)


def test_reports_that_nothing_endorses_are_refused() -> None:
    """No address is made for a report that is unsigned, hides its chip, or is none."""
    for flags in (0b10, 0b11100):
        assert reason(report(flags=flags)) == "unsigned"
    assert reason(report(chip_id=bytes(64))) == "chip_masked"
    assert reason(report(TURIN, chip_id=CHIP[TURIN] + b"\1" + bytes(55))) == "report_reserved"
    assert reason(report(reported_tcb=bytes((3, 0, 1, 0, 0, 0, 8, 1)))) == "report_reserved"
    assert reason(report()[:-1]) == "report_length"
    assert reason(b"HCLA") == "container"


@given(start=st.integers(0, 1183), piece=st.binary(min_size=1, max_size=80), version=st.sampled_from([2, 3, 5]))
@pytest.mark.attack(10)
def test_no_report_changes_the_form_of_an_address(start: int, piece: bytes, version: int) -> None:
    """Whatever a stranger writes into a report, an address is AMD's or there is none."""
    data = report(GENOA, version=version)
    changed = (data[:start] + piece + data[start + len(piece) :])[: len(data)]
    try:
        found = wanted(changed)
    except EvidenceError as error:
        assert error.reason
    else:
        assert all(_ADDRESS.fullmatch(one) for one in found), found
