"""What Intel's PCS answers is judged by itself: what was asked for, by Intel, and of this time; or it is silence."""

from typing import Any

import pytest
from tests.attestation.tee.intel import maker
from tests.attestation.tee.intel.maker import DAY, NOW, NOW_MS, SGX, TDX4, but
from tests.attestation.tee.intel.test_wanted import PROCESSOR, TDX_WANTED, answers

from aigovtool.attestation.tee.intel.answers import issued as judged
from aigovtool.attestation.tee.intel.authentic import trusted
from aigovtool.attestation.tee.intel.collateral import PcsAnswer
from aigovtool.attestation.tee.intel.wanted import wanted
from aigovtool.errors import EvidenceError

TCB, IDENTITY, PCK_LIST, ROOT_LIST = range(4)
ROOT = trusted(maker.root_der())


def issued(index: int, recipe: maker.Recipe = TDX4, now_ms: int = NOW_MS, **changes: Any) -> int:
    url = wanted(maker.quote(recipe))[index]
    body, headers = answers(recipe)[url]
    answer = PcsAnswer(changes.get("body", body), changes.get("headers", headers))
    return judged(changes.get("url", url), answer, now_ms, ROOT).at_ms


def why(index: int, recipe: maker.Recipe = TDX4, now_ms: int = NOW_MS, **changes: Any) -> str | None:
    with pytest.raises(EvidenceError) as caught:
        issued(index, recipe, now_ms, **changes)
    return caught.value.reason


@pytest.mark.parametrize("recipe", [SGX, TDX4, PROCESSOR], ids=["sgx", "tdx", "processor"])
@pytest.mark.parametrize("index", range(4))
def test_an_answer_was_issued_when_it_says(recipe: maker.Recipe, index: int) -> None:
    """Documents and lists, of either kind of platform and authority."""
    assert NOW_MS - 20 * 86_400_000 < issued(index, recipe) < NOW_MS


def test_each_statement_has_its_own_date() -> None:
    """The later one is recognised by it."""
    assert issued(PCK_LIST, but(TDX4, lists={"pck_crl": {"since": NOW - DAY}})) == NOW_MS - 86_400_000
    assert issued(ROOT_LIST, but(TDX4, lists={"root_crl": {"since": NOW - 2 * DAY}})) == NOW_MS - 2 * 86_400_000
    newer = but(TDX4, tcb_info={"issueDate": maker.stamp(NOW - DAY)})
    assert issued(TCB, newer) == NOW_MS - 86_400_000


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("body", [b"", b"<html>Service unavailable</html>", b"{}"])
def test_a_page_of_a_proxy_is_no_answer(index: int, body: bytes) -> None:
    """Attack: a 200 that is something else; it would make genuine evidence look bad."""
    assert why(index, body=body) in {"pcs_answer", "certificate_encoding"}


@pytest.mark.parametrize("index", [TCB, IDENTITY, PCK_LIST])
def test_an_answer_without_its_chain_is_none(index: int) -> None:
    """Who signed it is in a header."""
    assert why(index, headers={}) == "pcs_answer"


@pytest.mark.parametrize(("index", "part"), [(TCB, "tcb_info"), (IDENTITY, "qe_identity")])
def test_a_document_that_intel_did_not_sign_is_refused(index: int, part: str) -> None:
    """Attack: signed by a key of somebody else's, or changed after it was signed."""
    assert why(index, but(TDX4, signed_by={part: "leaf"})) == "document_signature"
    body, _ = answers(TDX4)[TDX_WANTED[index]]
    assert why(index, body=body.replace(b'"version":', b'"Version":', 1)) == "document_signature"


@pytest.mark.parametrize("index", [PCK_LIST, ROOT_LIST])
def test_a_list_that_intel_did_not_sign_is_refused(index: int) -> None:
    """Attack: an empty list in the name of the authority."""
    part = "pck_crl" if index == PCK_LIST else "root_crl"
    assert why(index, but(TDX4, signed_by={part: "leaf"})) == "revocation_signature"


@pytest.mark.parametrize("index", [TCB, IDENTITY, PCK_LIST])
def test_a_chain_to_another_root_is_refused(index: int) -> None:
    """Attack: a whole vendor of the attacker's own."""
    elsewhere = but(TDX4, certificate={"root": {"key": "other"}}, signed_by={"root": "other"})
    assert why(index, elsewhere) in {"chain_root", "chain_signature"}


def test_what_another_address_answers_is_refused() -> None:
    """Attack: the TCB information of another platform, whose level is fine, in place of the one asked for."""
    other = TDX_WANTED[TCB].replace("00906EA10000", "00906EA10001")
    assert why(TCB, url=other) == "answer_other"
    assert why(TCB, url=TDX_WANTED[TCB].replace("/tdx/", "/sgx/")) == "answer_other"
    assert why(IDENTITY, url=TDX_WANTED[IDENTITY].replace("/tdx/", "/sgx/")) == "answer_other"
    assert why(IDENTITY, url=TDX_WANTED[TCB]) == "pcs_answer"
    assert why(PCK_LIST, url=TDX_WANTED[PCK_LIST].replace("platform", "processor")) == "chain_name"
    assert why(PCK_LIST, url=TDX_WANTED[ROOT_LIST]) == "revocation_issuer"
    assert why(ROOT_LIST, url="https://certificates.trustedservices.intel.com/other") == "answer_other"


def test_what_is_not_of_this_time_is_refused() -> None:
    """Attack: an answer from before an advisory, replayed; it must not take the place of a newer one."""
    for index in range(4):
        assert why(index, now_ms=NOW_MS + 400 * 86_400_000) in {"collateral_expired", "revocation_stale"}
        assert why(index, now_ms=NOW_MS - 400 * 86_400_000) in {"not_yet_valid", "revocation_stale"}
    over = {"signing": {"until": NOW - DAY}}
    assert why(TCB, but(TDX4, certificate=over)) == "expired"
