"""The port that TEE platforms implement to answer "is this evidence genuine?" (spec: attestation, section 4).

A verifier checks signature, chain, validity at `now_ms` and strict encoding, with endorsements that travel in
the evidence or were fetched before; it never fetches, and it judges nothing that a policy could allow: that is
`aigovtool.attestation.appraisal`. Only a role's wiring decides which verifiers a `VerifierSet` holds, so a
platform that was not wired in cannot be used, whatever the evidence says.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from aigovtool.attestation.examination import Examined
from aigovtool.attestation.model import Evidence, TeeType, VerifiedEvidence
from aigovtool.errors import EvidenceError


class Verifier(Protocol):
    """Verifies the evidence of one platform."""

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        """Make every step of verification and return their report, with what the evidence says if it is genuine.

        Genuine is what is authentic, complete, valid at `now_ms` and strictly encoded. It raises nothing, whatever the
        bytes are.
        """
        ...


class VerifierSet:
    """The verifiers that a role was wired with, by TEE type."""

    __slots__ = ("_verifiers",)

    def __init__(self, verifiers: Mapping[TeeType, Verifier]) -> None:
        self._verifiers: Final = MappingProxyType(dict(verifiers))

    @property
    def tees(self) -> frozenset[TeeType]:
        """The TEE types that can be verified here."""
        return frozenset(self._verifiers)

    def verify(self, evidence: Evidence, now_ms: int) -> VerifiedEvidence:
        """Return what genuine `evidence` says, by the verifier for `evidence.tee`.

        Raises:
            EvidenceError: reason `tee_unknown` when there is no such verifier, `tee_mismatch` when it answers for
                another platform, and else the reason of the first step that failed; the message names all of them.
        """
        verified = self.examine(evidence, now_ms).genuine()
        if verified.tee is not evidence.tee:
            raise EvidenceError(f"evidence labelled {evidence.tee} is of type {verified.tee}", reason="tee_mismatch")
        return verified

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        """Return the report of the verifier for `evidence.tee`, which believes its label until a step says otherwise.

        Raises:
            EvidenceError: reason `tee_unknown` when there is no such verifier.
        """
        verifier = self._verifiers.get(evidence.tee)
        if verifier is None:
            known = ", ".join(sorted(self._verifiers)) or "none"
            raise EvidenceError(
                f"no verifier for evidence of type {evidence.tee}; known: {known}",
                reason="tee_unknown",
                fix="run the enclave on a TEE that this custodian verifies",
            )
        return verifier.examine(evidence, now_ms)
