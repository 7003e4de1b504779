"""What a quote needs is named from the quote alone, and only at Intel's own hosts."""

from urllib.parse import quote as percent

import pytest
from tests.attestation.tee.intel import maker
from tests.attestation.tee.intel.maker import SGX, TDX4, TDX15, but

from aigovtool.attestation.tee.intel.collateral import PcsAnswer, read_collateral
from aigovtool.attestation.tee.intel.wanted import merged, wanted
from aigovtool.codec import encode
from aigovtool.errors import EvidenceError

PROCESSOR = but(SGX, certificate={"authority": {"name": "Intel SGX PCK Processor CA"}}, pck={"platform": None})
TDX_WANTED = (
    "https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=00906EA10000",
    "https://api.trustedservices.intel.com/tdx/certification/v4/qe/identity",
    "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
    "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",
)


def answers(recipe: maker.Recipe) -> dict[str, tuple[bytes, dict[str, str]]]:
    said = maker.collateral(recipe)
    body = '{"%s":%s,"signature":"%s"}'
    bodies = (
        (body % ("tcbInfo", said.tcb_info, said.tcb_info_signature)).encode(),
        (body % ("enclaveIdentity", said.qe_identity, said.qe_identity_signature)).encode(),
        bytes.fromhex(said.pck_crl),
        bytes.fromhex(said.root_ca_crl),
    )
    headers = (
        {"tcb-info-issuer-chain": percent(said.tcb_info_issuer_chain)},
        {"sgx-enclave-identity-issuer-chain": percent(said.qe_identity_issuer_chain)},
        {"sgx-pck-crl-issuer-chain": percent(said.pck_crl_issuer_chain)},
        dict[str, str](),
    )
    return dict(zip(wanted(maker.quote(recipe)), zip(bodies, headers, strict=True), strict=True))


def test_addresses_follow_from_the_quote() -> None:
    """Platform and authority come from the PCK certificate, the kind of platform from the header."""
    assert wanted(maker.quote(TDX4)) == wanted(maker.quote(TDX15)) == TDX_WANTED
    assert wanted(maker.quote(PROCESSOR)) == (
        "https://api.trustedservices.intel.com/sgx/certification/v4/tcb?fmspc=00906EA10000",
        "https://api.trustedservices.intel.com/sgx/certification/v4/qe/identity",
        "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=processor&encoding=der",
        TDX_WANTED[3],
    )


def pcs(recipe: maker.Recipe) -> dict[str, PcsAnswer]:
    return {url: PcsAnswer(body, headers) for url, (body, headers) in answers(recipe).items()}


@pytest.mark.parametrize("recipe", [SGX, TDX4, PROCESSOR], ids=["sgx", "tdx", "processor"])
def test_what_was_answered_there_is_the_collateral(recipe: maker.Recipe) -> None:
    """Made of the answers, it is the collateral that verification reads; other answers are not looked at."""
    found = {**pcs(recipe), "https://example.com/": PcsAnswer(b"?", {})}
    assert merged(maker.quote(recipe), found, None) == encode(maker.collateral(recipe))


@pytest.mark.parametrize("index", range(4))
def test_a_missing_answer_is_named(index: int) -> None:
    """Without one of the four there is no collateral, and the message says which."""
    found = pcs(TDX4)
    del found[TDX_WANTED[index]]
    with pytest.raises(EvidenceError, match=TDX_WANTED[index].partition("?")[0]) as caught:
        merged(maker.quote(TDX4), found, None)
    assert caught.value.reason == "pcs_answer"


def of_the_day(days: int, evaluation: int = 17) -> maker.Recipe:
    """A vendor whose statements were all made so many days ago, of one evaluation, and say so."""
    since = maker.NOW - days * maker.DAY
    return but(
        TDX4,
        tcb_info={"issueDate": maker.stamp(since), "tcbEvaluationDataNumber": evaluation},
        qe_identity={"issueDate": maker.stamp(since), "tcbEvaluationDataNumber": evaluation},
        lists={part: {"since": since} for part in ("root_crl", "pck_crl")},
    )


@pytest.mark.parametrize("silent", range(4))
def test_of_each_part_the_newest_counts(silent: int) -> None:
    """Attack: old collateral comes along, and one of the vendor's addresses is silent: the other three count."""
    old, new = maker.collateral(of_the_day(9)), maker.collateral(of_the_day(2))
    found = pcs(of_the_day(2))
    del found[TDX_WANTED[silent]]
    parts = ("tcb_info", "qe_identity", "pck_crl", "root_ca_crl")
    made = read_collateral(merged(maker.quote(TDX4), found, old))
    for index, part in enumerate(parts):
        assert getattr(made, part) == getattr(old if index == silent else new, part)
    # What came along is not replaced by what was fetched before it.
    assert merged(maker.quote(TDX4), pcs(of_the_day(9)), new) == encode(new)
    assert merged(maker.quote(TDX4), {}, old) == encode(old)


def test_an_older_evaluation_that_was_signed_later_does_not_count() -> None:
    """Attack: Intel gives its older evaluations, too, signed anew; the borrower brings one of an hour ago."""
    fetched, brought = of_the_day(2, evaluation=21), of_the_day(1, evaluation=20)
    made = read_collateral(merged(maker.quote(TDX4), pcs(fetched), maker.collateral(brought)))
    assert (made.tcb_info, made.qe_identity) == (
        maker.collateral(fetched).tcb_info,
        maker.collateral(fetched).qe_identity,
    )
    newer = maker.collateral(of_the_day(3, evaluation=22))
    assert read_collateral(merged(maker.quote(TDX4), pcs(fetched), newer)).tcb_info == newer.tcb_info


def test_the_chain_of_the_platform_is_that_of_its_list() -> None:
    """Intel may issue its authority's certificate anew, with the same key; the quote has the one of its day."""
    renewed = but(TDX4, certificate={"authority": {"until": maker.NOW + 800 * maker.DAY}})
    made = merged(maker.quote(TDX4), pcs(renewed), None)
    assert read_collateral(made).pck_crl_issuer_chain == maker.collateral(TDX4).pck_crl_issuer_chain


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "quote_length"),
        (maker.quote(but(TDX4, certificate={"authority": {"name": "Intel SGX Other CA"}})), "chain_name"),
        (maker.quote(but(TDX4, pck={"fmspc": "00"})), "pck_extension"),
        (maker.quote(TDX4).replace(b"-----BEGIN CERT", b"-----BEGIN CARD", 1), "certificate_encoding"),
    ],
    ids=["empty", "authority", "fmspc", "pem"],
)
def test_what_is_no_quote_of_intels_wants_nothing(data: bytes, expected: str) -> None:
    """No address is made of bytes that could not be verified anyway."""
    with pytest.raises(EvidenceError) as caught:
        wanted(data)
    assert caught.value.reason == expected
