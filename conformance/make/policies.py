"""Policies for vectors that are genuine but not acceptable: each accepts one platform, and nothing else."""
# ruff: noqa: ANN401 - a maker takes any value of any field

from collections.abc import Mapping
from typing import Any

import msgspec

from aigovtool.attestation.model import Unchecked, VerifiedEvidence
from aigovtool.attestation.policy import AcceptedTee, AppraisalPolicy, FactRule, ReferenceSet, ReferenceValue

_DAY_MS = 86_400_000


def policy_for(verified: VerifiedEvidence, **changes: Any) -> AppraisalPolicy:
    """Return the policy that accepts exactly this evidence; `changes` are of its one entry.

    Everything is written here, so that no default of the product changes a vector.
    """
    values = tuple(ReferenceValue(name=part.name, digest=part.digest) for part in verified.measurements)
    entry = AcceptedTee(
        tee=verified.tee,
        reference_values=(ReferenceSet(label="conformance", values=values),),
        min_tcb=verified.tcb.components or Unchecked(reason="this platform tells no versions"),
        chips=Unchecked(reason="this platform tells no chip") if verified.chip_id is None else (verified.chip_id,),
        facts=tuple(FactRule(name=fact.name, allowed=(fact.value,)) for fact in verified.facts),
        max_attestation_age_ms=_DAY_MS,
        advisories=verified.advisories,
        max_collateral_age_ms=30 * _DAY_MS,
    )
    return AppraisalPolicy(
        version=1,
        accepted=(msgspec.structs.replace(entry, **changes),),
        memory_encryption_required=verified.memory_encryption,
    )


def with_facts(policy: AppraisalPolicy, allowed: Mapping[str, tuple[str, ...]]) -> AppraisalPolicy:
    """Return the policy with other values for some facts."""
    (entry,) = policy.accepted
    rules = tuple(msgspec.structs.replace(rule, allowed=allowed.get(rule.name, rule.allowed)) for rule in entry.facts)
    return msgspec.structs.replace(policy, accepted=(msgspec.structs.replace(entry, facts=rules),))
