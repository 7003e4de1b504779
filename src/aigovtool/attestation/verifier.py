"""The port that TEE platforms implement to answer "is this evidence genuine?" (spec: attestation, section 4).

A verifier checks signature, chain, validity at `now_ms` and strict encoding, with endorsements that travel in
the evidence or were fetched before; it never fetches, and it judges nothing that a policy could allow: that is
`aigovtool.attestation.appraisal`. Only a role's wiring decides which verifiers a `VerifierSet` holds, so a
platform that was not wired in cannot be used, whatever the evidence says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What is known in one exchange only, and matters to the verifiers of some platforms.

    Attributes:
        nonce: the 32 bytes that the verifying side has chosen for it, where it is the one that activates keys.
        authorities: DER of the authorities whose word about attestation keys is believed in it.
    """

    nonce: bytes | None = None
    authorities: tuple[bytes, ...] = ()


class VerifierSet:
    """The verifiers that a role was wired with, by TEE type.

    `by_exchange` has, for some of these types, what makes the verifier for one exchange.
    """

    __slots__ = ("_by_exchange", "_verifiers")

    def __init__(
        self,
        verifiers: Mapping[TeeType, Verifier],
        by_exchange: Mapping[TeeType, Callable[[Exchange], Verifier]] | None = None,
    ) -> None:
        self._verifiers: Final = MappingProxyType(dict(verifiers))
        self._by_exchange: Final = MappingProxyType(dict(by_exchange or {}))

    def within(self, exchange: Exchange) -> "VerifierSet":
        """Return the same verifiers, as they judge within one exchange.

        Raises:
            EvidenceError: an authority is not a certificate (`certificate_encoding`).
        """
        if not self._by_exchange:
            return self
        made = {tee: make(exchange) for tee, make in self._by_exchange.items() if tee in self._verifiers}
        return VerifierSet({**self._verifiers, **made})

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
