"""Policies for vectors that are genuine but not acceptable: each accepts one platform, and nothing else."""
# ruff: noqa: ANN401 - a maker takes any value of any field

from collections.abc import Mapping
from typing import Any

import msgspec

from aigovtool.attestation.model import VerifiedEvidence
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.cli.appraisal.draft import drafted


def policy_for(verified: VerifiedEvidence, **changes: Any) -> AppraisalPolicy:
    """Return the policy that accepts exactly this evidence; `changes` are of its one entry."""
    whole = drafted(verified, label="conformance", version=1, this_chip=True)
    (entry,) = whole.accepted
    return msgspec.structs.replace(whole, accepted=(msgspec.structs.replace(entry, **changes),))


def with_facts(policy: AppraisalPolicy, allowed: Mapping[str, tuple[str, ...]]) -> AppraisalPolicy:
    """Return the policy with other values for some facts."""
    (entry,) = policy.accepted
    rules = tuple(msgspec.structs.replace(rule, allowed=allowed.get(rule.name, rule.allowed)) for rule in entry.facts)
    return msgspec.structs.replace(policy, accepted=(msgspec.structs.replace(entry, facts=rules),))
