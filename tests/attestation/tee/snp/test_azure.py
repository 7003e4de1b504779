"""Reports in the container of Azure's paravisor: exact, and tied to what the paravisor said."""

from typing import Any

import pytest
from tests.attestation.tee.snp.maker import bundle, claims_hash, container, examine, label, refused, report

from aigovtool.attestation.tee.snp.report import REPORT_BYTES


def inner() -> bytes:
    return report(report_data=claims_hash())


@pytest.mark.parametrize("filling", [0, 1, 254])
def test_a_report_in_a_container_is_verified(filling: int) -> None:
    """The report is the processor's; who stood before it is a fact."""
    found = examine(bundle(container(inner(), filling=filling))).genuine()
    assert {str(fact.name): fact.value for fact in found.facts}["paravisor"] == "azure-hcl"
    assert found.report_data == claims_hash()


@pytest.mark.parametrize(
    "words",
    [
        {"version": 0},
        {"version": 2},
        {"size": 2000},
        {"request": 1},
        {"status": 1},
        {"a": 1},
        {"b": 1},
        {"c": 1},
        {"runtime_size": 30},
        {"runtime_version": 2},
        {"kind": 4},
        {"hash": 2},
        {"length": 0},
        {"length": 10},
        {"length": 12},
        {"length": 2**32 - 1},
    ],
    ids=label,
)
def test_every_field_of_a_container_is_exact(words: dict[str, Any]) -> None:
    """Another version, kind, hash or length is refused; nothing in the headers is ignored."""
    assert refused(bundle(container(inner(), **words)))["container"] == "container"


def test_claims_are_not_empty() -> None:
    """A container without claims says nothing, even if its headers and the report data agree on that."""
    empty = container(report(report_data=claims_hash(b"")), b"")
    assert refused(bundle(empty)) == {"container": "container"}


def test_a_container_cut_anywhere_is_refused() -> None:
    """A part of a container is none; only its filling may be shorter."""
    whole = container(inner(), filling=0)
    for length in range(4, len(whole), 7):
        assert refused(bundle(whole[:length]))["container"] == "container"
    assert refused(bundle(whole[:3]))["report"] == "report_length"


def test_filling_is_zero() -> None:
    """Nothing stands behind the claims."""
    whole = container(inner(), filling=8)
    for index in range(len(whole) - 8, len(whole)):
        changed = bytearray(whole)
        changed[index] = 0x80
        assert refused(bundle(bytes(changed))) == {"container": "container"}


def test_report_data_is_the_hash_of_the_claims() -> None:
    """Other claims, a guest's own report data, or bytes behind the hash are refused."""
    assert refused(bundle(container(inner(), b'{"keys":[1]}'))) == {"runtime_claims": "runtime_claims"}
    assert refused(bundle(container(report()))) == {"runtime_claims": "runtime_claims"}
    longer = report(report_data=claims_hash()[:63] + b"\1")
    assert refused(bundle(container(longer))) == {"runtime_claims": "runtime_claims"}


def test_a_bare_report_is_not_asked_for_claims() -> None:
    """Outside a container the report data is the guest's."""
    assert examine(bundle()).verified
    assert len(report()) == REPORT_BYTES
