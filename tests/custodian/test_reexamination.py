"""Who was admitted is judged again: a policy or a vendor that accepts it no more ends its leases, and says why."""

from typing import Any

import msgspec
import pytest
from tests.custodian.conftest import BORROWER, Bench, Enclave, want

from aigovtool.attestation.examination import Examined
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.attestation.verifier import VerifierSet
from aigovtool.crypto.sign import seal
from aigovtool.custodian.service import renewal, views
from aigovtool.custodian.service.reexamination import reexamine
from aigovtool.custodian.store import evidence
from aigovtool.errors import AIGovToolError, AppraisalError, EvidenceError, ReattestRequiredError
from aigovtool.ledger.entry import AttestationWithdrawn
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages
from aigovtool.protocol.messages import Deny, DenyCode, Grant
from aigovtool.testing.simulated_tee import wiring
from aigovtool.testing.simulated_tee.attester import measure


def another(**changes: Any) -> AppraisalPolicy:
    """The policy in force in its next version, with changes of its one entry."""
    now = wiring.development_policy()
    entry = msgspec.structs.replace(now.accepted[0], **changes)
    return msgspec.structs.replace(now, version=now.version + 1, accepted=(entry,))


def refusing() -> AppraisalPolicy:
    """A policy that accepts another build only."""
    (known,) = wiring.development_policy().accepted[0].reference_values
    other = msgspec.structs.replace(known.values[0], digest="ab" * 48)
    return another(reference_values=(msgspec.structs.replace(known, values=(other,)),))


async def withdrawn(bench: Bench) -> list[AttestationWithdrawn]:
    return [line for line in await bench.log() if isinstance(line, AttestationWithdrawn)]


@pytest.mark.attack(11)
async def test_a_policy_that_accepts_an_enclave_no_more_ends_its_leases(admitted: Enclave, lent: Bench) -> None:
    """At once: no lease, no key, no time; told to attest again, which is refused; and everybody can see why."""
    await lent.grant(9)
    (before,) = (await admitted.renew(want(1))).results
    assert isinstance(before, Grant)
    await lent.command(acts.SetAppraisalPolicy(policy=refusing()))
    answer = await admitted.renew(want(1))
    (denied,) = answer.results
    assert isinstance(denied, Deny)
    assert (denied.code, answer.ttl_ms) == (DenyCode.REATTEST, 0)
    with pytest.raises(ReattestRequiredError):
        await admitted.release()
    (line,) = await withdrawn(lent)
    assert (line.instance, line.borrower) == (admitted.instance, BORROWER)
    assert (line.code, line.reason) == (AppraisalError.code, "measurements")
    (shown,) = (await views.show_enclaves(lent.custodian)).enclaves
    assert (shown.state, "measurements" in shown.why) == ("unaccepted", True)
    with pytest.raises(AppraisalError):
        await Enclave(lent).boot()


async def test_a_policy_that_still_accepts_an_enclave_disturbs_it_not(admitted: Enclave, lent: Bench) -> None:
    """Only those concerned are told to attest again."""
    await lent.grant(9)
    await lent.command(acts.SetAppraisalPolicy(policy=another(max_attestation_age_ms=60_000)))
    (granted,) = (await admitted.renew(want(1))).results
    assert isinstance(granted, Grant)
    assert await withdrawn(lent) == []
    assert measure() == (await views.show_enclaves(lent.custodian)).enclaves[0].result.measurements[0].digest


class Vendor:
    """A verifier that says of all evidence what its vendor says now."""

    def __init__(self, says: AIGovToolError | None) -> None:
        self.says = says
        self.asked = 0

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        self.asked += 1
        if self.says is not None:
            raise self.says
        return wiring.verifier().examine(evidence, now_ms)


async def test_a_platform_that_its_vendor_has_revoked_ends_its_leases(admitted: Enclave, lent: Bench) -> None:
    """A new revocation list, a TCB that is out of date since: the kept evidence is not genuine any more."""
    revoked = Vendor(EvidenceError("the chip's certificate is revoked", reason="revoked"))
    lent.custodian.verifiers = VerifierSet({TeeType.SIMULATED: revoked})
    await reexamine(lent.custodian)
    (line,) = await withdrawn(lent)
    assert (line.code, line.reason) == (EvidenceError.code, "revoked")
    await reexamine(lent.custodian)
    assert revoked.asked == 1  # once it is out, nobody asks again
    (denied,) = (await admitted.renew(want(1))).results
    assert isinstance(denied, Deny)
    assert denied.code is DenyCode.REATTEST


async def test_who_has_gone_is_not_judged_again(admitted: Enclave, lent: Bench) -> None:
    """A wiped enclave has nothing to lose, and its record stays what it was."""
    vendor = Vendor(EvidenceError("revoked", reason="revoked"))
    statement = seal(messages.WIPED, messages.Wiped(instance=admitted.instance, epoch=1, reports=[]), admitted.identity)
    await renewal.wiped(lent.custodian, statement)
    lent.custodian.verifiers = VerifierSet({TeeType.SIMULATED: vendor})
    await reexamine(lent.custodian)
    assert vendor.asked == 0
    assert await withdrawn(lent) == []


async def test_those_that_were_heard_of_last_are_judged_first(admitted: Enclave, lent: Bench) -> None:
    """Attack: a borrower's boots that ended without a word keep no enclave in use from being judged soon."""
    lent.now_ms += 1
    later = [Enclave(lent) for _ in range(3)]
    for enclave in later:
        await enclave.boot()
    lent.now_ms += 1
    await admitted.renew()
    judged = await lent.custodian.database.run(evidence.of_live_instances)
    assert judged[0] == admitted.instance
    assert set(judged[1:]) == {enclave.instance for enclave in later}


async def test_evidence_of_what_has_ended_is_forgotten(admitted: Enclave, lent: Bench) -> None:
    """With the end of an instance, and not before."""
    assert await kept_of(lent, admitted) is not None
    statement = seal(messages.WIPED, messages.Wiped(instance=admitted.instance, epoch=1, reports=[]), admitted.identity)
    await renewal.wiped(lent.custodian, statement)
    assert await kept_of(lent, admitted) is None


async def kept_of(bench: Bench, enclave: Enclave) -> object:
    return await bench.custodian.database.run(lambda transaction: evidence.find(transaction, enclave.instance))


async def test_an_attestation_that_has_run_out_is_not_judged_again(admitted: Enclave, lent: Bench) -> None:
    """It ends by itself: certificates that live for hours would else make each end look like a refusal."""
    vendor = Vendor(EvidenceError("expired", reason="expired"))
    lent.custodian.verifiers = VerifierSet({TeeType.SIMULATED: vendor})
    lent.now_ms = (await admitted.record()).valid_until_ms
    await reexamine(lent.custodian)
    assert vendor.asked == 0
    lent.now_ms -= 1
    assert await withdrawn(lent) == []
