"""What evidence needs of its vendor and did not bring: addresses from its own fields, and the evidence with it."""

import msgspec
import pytest
from tests.attestation.tee.intel import maker as intel
from tests.attestation.tee.intel.test_wanted import TDX_WANTED, answers
from tests.attestation.tee.snp import maker as snp

from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.completion import NOTHING, Wanted, completed, wanted
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.attestation.tee.intel.verify import TdxVerifier
from aigovtool.errors import EvidenceError
from aigovtool.limits import MAX_EVIDENCE_BYTES

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


def test_a_report_without_its_key_needs_it_and_is_better_with_a_list() -> None:
    """The address says which chip and which TCB; AMD's authorities come with this package."""
    want = wanted(BARE_SNP)
    ((leaf,),) = want.needed
    assert leaf.startswith("https://kdsintf.amd.com/vcek/v1/Milan/")
    assert want.useful == (SNP_LIST,)
    (usual,) = snp.der(snp.usual_leaf())
    whole = completed(BARE_SNP, fetched({leaf: usual, SNP_LIST: snp.der(snp.revocation_list())[0]}))
    says = snp.examine(whole).genuine()
    assert {str(fact.name): fact.value for fact in says.facts}["revocation"] == "checked"


def test_a_list_of_ones_own_does_not_spare_the_newest() -> None:
    """Attack: a list from before the revocation, which is still valid. The vendor's is asked for, and both count."""
    old, new = snp.revocation_list(), snp.revocation_list(11)
    evidence = snp.bundle(None, *snp.der(snp.usual_leaf(), old))
    assert snp.examine(evidence).verified is not None
    assert wanted(evidence) == Wanted(useful=(SNP_LIST,))
    assert snp.refused(completed(evidence, fetched({SNP_LIST: snp.der(new)[0]}))) == {"revocation": "revoked"}
    again = completed(evidence, fetched({SNP_LIST: snp.der(old)[0]}))
    assert snp.examine(again).verified is not None  # the same list twice is one list


def test_a_quote_without_collateral_gets_the_vendors() -> None:
    """Four answers of Intel's make what the verifier reads."""
    assert wanted(BARE_TDX) == Wanted(needed=tuple((url,) for url in TDX_WANTED))
    whole = completed(BARE_TDX, pcs())
    assert TdxVerifier(intel.root_der()).examine(whole, intel.NOW_MS).verified is not None


def test_collateral_of_ones_own_is_replaced_by_the_vendors() -> None:
    """Attack: valid collateral from before the TCB was out of date. Without the vendor's answers it stays."""
    old = intel.evidence()
    assert wanted(old) == Wanted(useful=TDX_WANTED)
    newer = intel.but(intel.TDX4, status="OutOfDate")
    whole = completed(old, pcs(newer))
    assert len(whole.endorsements) == len(old.endorsements)
    facts = TdxVerifier(intel.root_der()).examine(whole, intel.NOW_MS).genuine().facts
    assert {str(fact.name): fact.value for fact in facts}["tcb_status"] == "OutOfDate"
    some = dict(list(pcs(newer).items())[:3])
    assert completed(old, some) == old


@pytest.mark.parametrize("tee", [TeeType.NITRO, TeeType.TPM, TeeType.SIMULATED])
def test_other_platforms_bring_all_they_need(tee: TeeType) -> None:
    """Nothing is fetched for them."""
    assert wanted(Evidence(tee=tee, data=b"x")) == NOTHING


@pytest.mark.parametrize("tee", [TeeType.SEV_SNP, TeeType.TDX, TeeType.SGX])
@pytest.mark.parametrize("data", [b"x", bytes(1184), bytes(5000)])
def test_what_cannot_be_read_leads_nowhere(tee: TeeType, data: bytes) -> None:
    """No address is made of bytes that no verifier would read; the verifier says what is wrong."""
    evidence = Evidence(tee=tee, data=data)
    assert wanted(evidence) == NOTHING
    assert completed(evidence, {}) == evidence


def test_what_a_vendor_sends_too_much_of_is_refused() -> None:
    """Evidence with all of it stays within its bound."""
    evidence = msgspec.structs.replace(BARE_SNP, endorsements=(bytes(MAX_EVIDENCE_BYTES - 60_000),))
    with pytest.raises(EvidenceError) as caught:
        completed(evidence, fetched({SNP_LIST: bytes(100_000)}))
    assert caught.value.reason == "evidence_too_large"
