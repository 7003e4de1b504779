"""What evidence needs of its vendor and did not bring: addresses from its own fields, and the evidence with it."""

import msgspec
import pytest
from tests.attestation.tee.intel import maker as intel
from tests.attestation.tee.intel.test_wanted import TDX_WANTED, answers, of_the_day
from tests.attestation.tee.snp import maker as snp

from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.completion import NOTHING, Vendors, Wanted, added, is_of_one_machine
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.attestation.tee.intel.collateral import read_collateral
from aigovtool.attestation.tee.intel.verify import TdxVerifier
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.supplement import supplemented
from aigovtool.errors import EvidenceError
from aigovtool.limits import MAX_EVIDENCE_BYTES

VENDORS = Vendors(amd=snp.roots(), intel=intel.root_der())
SNP_LIST = "https://kdsintf.amd.com/vcek/v1/Milan/crl"
BARE_SNP = msgspec.structs.replace(snp.bundle(None), endorsements=())
BARE_TDX = msgspec.structs.replace(intel.evidence(), endorsements=())


def fetched(bodies: dict[str, bytes]) -> dict[str, Fetched]:
    return {url: Fetched(url=url, fetched_at_ms=0, body=body, headers={}) for url, body in bodies.items()}


def pcs(recipe: intel.Recipe = intel.TDX4) -> dict[str, Fetched]:
    return {
        url: Fetched(url=url, fetched_at_ms=0, body=body, headers=headers)
        for url, (body, headers) in answers(recipe).items()
    }


def facts(evidence: Evidence) -> dict[str, str]:
    return {str(fact.name): fact.value for fact in snp.examine(evidence).genuine().facts}


def test_a_report_without_its_key_needs_it_and_then_is_better_with_a_list() -> None:
    """The address says which chip and which TCB; AMD's authorities come with this package."""
    want = VENDORS.wanted(BARE_SNP)
    ((leaf,),) = want.needed
    assert leaf.startswith("https://kdsintf.amd.com/vcek/v1/Milan/")
    assert want.useful == ()
    (usual,) = snp.der(snp.usual_leaf())
    found = fetched({leaf: usual})
    assert VENDORS.issued(found[leaf], snp.NOW_MS).at_ms < snp.NOW_MS
    with_key = VENDORS.completed(BARE_SNP, found)
    assert VENDORS.wanted(with_key) == Wanted(useful=(SNP_LIST,))
    whole = VENDORS.completed(with_key, fetched({SNP_LIST: snp.der(snp.revocation_list())[0]}), own_lists=True)
    assert facts(whole)["revocation"] == "checked"
    assert added(BARE_SNP, whole) == whole.endorsements


def test_the_list_is_that_of_the_product_and_kind_of_the_key() -> None:
    """A report of version 2 says neither; the certificate of its key says both."""
    for product, kind in ((Product.GENOA, "vcek"), (Product.TURIN, "vlek")):
        leaf = snp.der(snp.usual_leaf(product, kind))
        assert VENDORS.wanted(snp.bundle(None, *leaf)) == Wanted(
            useful=(f"https://kdsintf.amd.com/{kind}/v1/{product}/crl",)
        )


def test_a_list_of_ones_own_does_not_spare_the_newest() -> None:
    """Attack: a list from before the revocation, which is still valid. The vendor's is asked for, and counts."""
    old, new = snp.revocation_list(), snp.revocation_list(11)
    evidence = snp.bundle(None, *snp.der(snp.usual_leaf(), old))
    assert snp.examine(evidence).verified is not None
    assert VENDORS.wanted(evidence) == Wanted(useful=(SNP_LIST,))
    newer = fetched({SNP_LIST: snp.der(new)[0]})
    assert snp.refused(VENDORS.completed(evidence, newer)) == {"revocation": "revoked"}
    assert snp.refused(VENDORS.completed(evidence, newer, own_lists=True)) == {"revocation": "revoked"}
    again = VENDORS.completed(evidence, fetched({SNP_LIST: snp.der(old)[0]}))
    assert snp.examine(again).verified is not None  # the same list twice is one list


def test_who_asks_the_vendor_believes_its_own_lists_only() -> None:
    """Attack: AMD's list for the other kind of key, which lists nothing of ours, while AMD cannot be reached."""
    entries = [("vcek", snp.der(snp.usual_leaf())[0]), ("crl", snp.der(snp.revocation_list())[0])]
    for evidence in (
        snp.bundle(None, *snp.der(snp.usual_leaf(), snp.revocation_list())),
        snp.bundle(None, snp.table(entries)),
    ):
        assert facts(evidence)["revocation"] == "checked"
        assert facts(VENDORS.completed(evidence, {}, own_lists=True))["revocation"] == "not_checked"
    unreadable = snp.bundle(None, b"x")
    assert VENDORS.completed(unreadable, {}, own_lists=True) == unreadable


def test_a_quote_without_collateral_gets_the_vendors() -> None:
    """Four answers of Intel's make what the verifier reads."""
    assert VENDORS.wanted(BARE_TDX) == Wanted(needed=tuple((url,) for url in TDX_WANTED))
    assert VENDORS.wanted(BARE_TDX).addresses == TDX_WANTED
    assert [VENDORS.issued(answer, intel.NOW_MS).at_ms < intel.NOW_MS for answer in pcs().values()] == [True] * 4
    whole = VENDORS.completed(BARE_TDX, pcs())
    assert TdxVerifier(intel.root_der()).examine(whole, intel.NOW_MS).verified is not None


def test_intel_is_asked_about_platforms_that_intel_certified() -> None:
    """Attack: invented platforms, each of which would be another address at Intel's service."""
    assert Vendors(amd=snp.roots()).wanted(BARE_TDX) == NOTHING
    foreign = intel.evidence(intel.but(intel.TDX4, signed_by={"leaf": "other"}))
    assert VENDORS.wanted(foreign) == NOTHING


@pytest.mark.parametrize("silent", range(5))
def test_old_collateral_is_replaced_by_what_the_vendor_says(silent: int) -> None:
    """Attack: valid collateral from before the TCB was out of date, and one of four addresses that is silent."""
    old = intel.evidence(of_the_day(9))
    assert VENDORS.wanted(old) == Wanted(useful=TDX_WANTED)
    newer = pcs(intel.but(of_the_day(2), status="OutOfDate"))
    some = {url: answer for url, answer in newer.items() if [url] != list(TDX_WANTED[silent : silent + 1])}
    whole = VENDORS.completed(old, some)
    assert len(whole.endorsements) == len(old.endorsements)
    verified = TdxVerifier(intel.root_der()).examine(whole, intel.NOW_MS).genuine()
    status = {str(fact.name): fact.value for fact in verified.facts}["tcb_status"]
    assert status == ("UpToDate" if silent == 0 else "OutOfDate")
    assert supplemented(old, added(old, whole)) == whole


def test_collateral_of_ones_own_that_is_newer_stays() -> None:
    """What was fetched some days ago does not take its place; nor does a bad part of it matter."""
    new = intel.evidence(of_the_day(2))
    assert VENDORS.completed(new, pcs(of_the_day(9))) == new
    bad = msgspec.structs.replace(new, endorsements=(new.endorsements[0].replace(b"issueDate", b"issuedate"),))
    replaced = VENDORS.completed(bad, pcs(of_the_day(9)))
    assert TdxVerifier(intel.root_der()).examine(replaced, intel.NOW_MS).verified is not None
    some = dict(list(pcs().items())[:3])
    unusable = msgspec.structs.replace(new, endorsements=(new.endorsements[0] + b" ",))
    assert VENDORS.completed(unusable, some) == unusable


def test_events_stay_beside_collateral_that_is_replaced() -> None:
    """They are the machine's own."""
    old = intel.evidence(intel.but(of_the_day(9), events=True))
    whole = VENDORS.completed(old, pcs(of_the_day(2)))
    assert sorted(part[:9] for part in whole.endorsements) == sorted(part[:9] for part in old.endorsements)
    assert read_collateral(whole.endorsements[-1]) == intel.collateral(of_the_day(2))


@pytest.mark.parametrize("tee", [TeeType.NITRO, TeeType.TPM, TeeType.SIMULATED])
def test_other_platforms_bring_all_they_need(tee: TeeType) -> None:
    """Nothing is fetched for them."""
    evidence = Evidence(tee=tee, data=b"x")
    assert VENDORS.wanted(evidence) == NOTHING
    assert VENDORS.completed(evidence, pcs(), own_lists=True) == evidence


@pytest.mark.parametrize("tee", [TeeType.SEV_SNP, TeeType.TDX, TeeType.SGX])
@pytest.mark.parametrize("data", [b"x", bytes(1184), bytes(5000)])
def test_what_cannot_be_read_leads_nowhere(tee: TeeType, data: bytes) -> None:
    """No address is made of bytes that no verifier would read; the verifier says what is wrong."""
    evidence = Evidence(tee=tee, data=data)
    assert VENDORS.wanted(evidence) == NOTHING
    assert VENDORS.completed(evidence, {}) == evidence


def test_the_certificate_of_a_chip_is_of_one_machine() -> None:
    """Of those there are as many as machines; of all else a few."""
    ((leaf,),) = VENDORS.wanted(BARE_SNP).needed
    assert is_of_one_machine(leaf)
    assert not any(map(is_of_one_machine, (SNP_LIST, *TDX_WANTED)))


def test_what_a_vendor_sends_too_much_of_is_refused() -> None:
    """Evidence with all of it stays within its bound."""
    evidence = msgspec.structs.replace(BARE_SNP, endorsements=(bytes(MAX_EVIDENCE_BYTES - 60_000),))
    with pytest.raises(EvidenceError) as caught:
        VENDORS.completed(evidence, fetched({SNP_LIST: bytes(100_000)}))
    assert caught.value.reason == "evidence_too_large"
