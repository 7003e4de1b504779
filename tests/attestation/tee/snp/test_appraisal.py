"""The whole way: genuine evidence of SEV-SNP before an appraisal policy that names everything it reports."""

from typing import Any

import pytest
from tests.attestation.tee.snp.maker import NOW_MS, bundle, der, examine, report, revocation_list, usual_leaf

from aigovtool.attestation.appraisal import appraise
from aigovtool.attestation.model import Evidence, PrintableText, Status, VerifiedEvidence
from aigovtool.attestation.policy import AcceptedTee, AppraisalPolicy, FactRule, ReferenceSet, ReferenceValue
from aigovtool.codec import decode, encode
from aigovtool.errors import AppraisalError


def evidence(**fields: Any) -> Evidence:
    return bundle(report(**fields), *der(usual_leaf(), revocation_list()))


def verified(**fields: Any) -> VerifiedEvidence:
    return examine(evidence(**fields)).genuine()


def policy(accepted: VerifiedEvidence) -> AppraisalPolicy:
    """Return a policy that accepts exactly what `accepted` says, or a newer TCB."""
    assert accepted.chip_id is not None
    values = tuple(ReferenceValue(name=one.name, digest=one.digest) for one in accepted.measurements)
    entry = AcceptedTee(
        tee=accepted.tee,
        reference_values=(ReferenceSet(label=PrintableText("the build"), values=values),),
        min_tcb=accepted.tcb.components,
        chips=(accepted.chip_id,),
        facts=tuple(FactRule(name=fact.name, allowed=(fact.value,)) for fact in accepted.facts),
        max_attestation_age_ms=3_600_000,
    )
    return AppraisalPolicy(version=1, accepted=(entry,))


def test_a_policy_that_names_everything_affirms() -> None:
    """Nothing of SEV-SNP is beyond what a policy can say: every check passes, and none is left out."""
    assert appraise(verified(), policy(verified()), NOW_MS).body.status is Status.AFFIRMING


def test_a_policy_for_this_platform_survives_its_encoding() -> None:
    """Names and values of all facts, components and measurements are such as a policy file can hold."""
    wanted = policy(verified(version=5, launch_mitigations=1, current_mitigations=3))
    assert decode(encode(wanted), AppraisalPolicy, max_bytes=100_000) == wanted


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ({"policy": 0x3001F | 1 << 19}, "debug"),
        ({"policy": 0x3001F | 1 << 18}, "facts"),
        ({"platform": 1}, "facts"),
        ({"vmpl": 1}, "facts"),
        ({"host_data": b"\1" * 32}, "facts"),
        ({"measurement": b"\x5b" * 48}, "measurements"),
        ({"guest_svn": 6}, "tcb"),
        ({"launch_tcb": bytes.fromhex("03010000000007d1")}, "tcb"),
        ({"committed_firmware": bytes((28, 55, 1))}, "tcb"),
    ],
    ids=["debug", "migration", "platform", "vmpl", "host_data", "measurement", "guest_svn", "launch_tcb", "firmware"],
)
def test_genuine_evidence_of_something_else_is_not_accepted(fields: dict[str, Any], check: str) -> None:
    """Whatever differs from what the policy names is refused by the check that is about it."""
    with pytest.raises(AppraisalError) as caught:
        appraise(verified(**fields), policy(verified()), NOW_MS)
    assert caught.value.reason == check


def test_evidence_without_a_list_is_another_fact() -> None:
    """Whether revocation was checked is for the policy to demand."""
    found = examine(bundle()).genuine()
    with pytest.raises(AppraisalError) as caught:
        appraise(found, policy(verified()), NOW_MS)
    assert caught.value.reason == "facts"
