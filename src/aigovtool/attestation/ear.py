"""An appraisal as an EAT attestation result in JSON (draft-ietf-rats-ear-04), for programs that read those.

It is the claims-set alone, unsigned: whoever passes it on signs it as a JWT. It authorises nothing here.

```json
{"eat_profile": "tag:ietf.org,2026:rats/ear#04", "iat": 1800000000, "exp": 1800003600,
 "ear_verifier_id": {"developer": "AIGovTool", "build": "0.1.0"},
 "submods": {"sev-snp": {"ear_status": "affirming", "ear_trustworthiness_vector": {"hardware": 2},
   "ear_appraisal_policy_ids": ["sha256:..."], "ear_attester_claims": {}, "ear_verifier_claims": {}}}}
```
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from aigovtool.attestation.model import ResultBody, Status, TrustVector, VerifiedEvidence
from aigovtool.codec import Message

PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
DEVELOPER: Final = "AIGovTool"


class VerifierId(Message):
    """Who appraised (AR4SI section 3.3): the developer of the verifier and its build."""

    developer: str
    build: str


class Appraisal(Message):
    """The appraisal of one attester.

    `ear_attester_claims` are measurements, facts and versions as the genuine evidence says them, by their names;
    `ear_verifier_claims` are the checks that were made, each with its outcome and what was found.
    """

    ear_status: Status
    ear_trustworthiness_vector: dict[str, int]
    ear_appraisal_policy_ids: Annotated[list[str], Meta(min_length=1)]
    ear_attester_claims: dict[str, object]
    ear_verifier_claims: dict[str, object]


class AttestationResultClaims(Message):
    """The claims-set; times are seconds since 1970 (RFC 9711)."""

    eat_profile: str
    iat: int
    exp: int
    ear_verifier_id: VerifierId
    submods: dict[str, Appraisal]


def claims_of(body: ResultBody, verified: VerifiedEvidence, *, build: str) -> AttestationResultClaims:
    """Return the claims-set for an appraisal, acceptable or not.

    Args:
        body: what the appraisal found.
        verified: what it was about.
        build: the version of this program.
    """
    appraisal = Appraisal(
        ear_status=body.status,
        ear_trustworthiness_vector=_said(body.trust),
        ear_appraisal_policy_ids=[f"{body.appraisal_policy}#{body.policy_version}"],
        ear_attester_claims={
            "measurements": {part.name: part.digest for part in verified.measurements},
            "tcb": {part.name: part.version for part in verified.tcb.components},
            "facts": {fact.name: fact.value for fact in verified.facts},
            "advisories": list(verified.advisories),
            "debug": verified.debug,
            "memory-encryption": verified.memory_encryption,
            "clock": verified.clock.value,
            "report-data": verified.report_data.hex(),
            **({} if verified.chip_id is None else {"chip": verified.chip_id}),
        },
        ear_verifier_claims={
            check.name: {"outcome": check.outcome.value, "detail": check.detail} for check in body.checks
        },
    )
    return AttestationResultClaims(
        eat_profile=PROFILE,
        iat=body.issued_at_ms // 1000,
        exp=body.valid_until_ms // 1000,
        ear_verifier_id=VerifierId(developer=DEVELOPER, build=build),
        submods={body.tee.value: appraisal},
    )


def _said(trust: TrustVector) -> dict[str, int]:
    """Return the claims that are made: 0 is none (AR4SI section 2.3.2)."""
    found: dict[str, int] = msgspec.to_builtins(trust)
    return {name: value for name, value in found.items() if value}
