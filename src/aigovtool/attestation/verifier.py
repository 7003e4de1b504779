"""The port that TEE platforms implement to answer "is this evidence genuine?" (spec: attestation, section 4).

A verifier checks signature, chain, validity at `now_ms` and strict encoding, with endorsements that travel in
the evidence or were fetched before; it never fetches, and it judges nothing that a policy could allow: that is
`aigovtool.attestation.appraisal`. Only a role's wiring decides which verifiers a `VerifierSet` holds, so a
platform that was not wired in cannot be used, whatever the evidence says.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from aigovtool.attestation.model import Evidence, TeeType, VerifiedEvidence
from aigovtool.errors import EvidenceError


class Verifier(Protocol):
    """Verifies the evidence of one platform."""

    def verify(self, evidence: Evidence, now_ms: int) -> VerifiedEvidence:
        """Return what genuine `evidence` says.

        Raises:
            EvidenceError: for anything that is not genuine, complete, valid at `now_ms` and strictly encoded. Nothing
                else leaves this function, whatever the bytes are.
        """
        ...


class VerifierSet:
    """The verifiers that a role was wired with, by TEE type. It is a `Verifier` itself."""

    __slots__ = ("_verifiers",)

    def __init__(self, verifiers: Mapping[TeeType, Verifier]) -> None:
        self._verifiers: Final = MappingProxyType(dict(verifiers))

    @property
    def tees(self) -> frozenset[TeeType]:
        """The TEE types that can be verified here."""
        return frozenset(self._verifiers)

    def verify(self, evidence: Evidence, now_ms: int) -> VerifiedEvidence:
        """Verify with the verifier for `evidence.tee`.

        Raises:
            EvidenceError: reason `tee_unknown` when there is none, `tee_mismatch` when it answers for another
                platform, and whatever the verifier raises.
        """
        verifier = self._verifiers.get(evidence.tee)
        if verifier is None:
            known = ", ".join(sorted(self._verifiers)) or "none"
            raise EvidenceError(
                f"no verifier for evidence of type {evidence.tee}; known: {known}",
                reason="tee_unknown",
                fix="run the enclave on a TEE that this custodian verifies",
            )
        verified = verifier.verify(evidence, now_ms)
        if verified.tee is not evidence.tee:
            raise EvidenceError(f"evidence labelled {evidence.tee} is of type {verified.tee}", reason="tee_mismatch")
        return verified
