"""The port to a TEE, from inside: whatever can make evidence that covers an enclave's claims (RFC 9334, section 3)."""

from typing import Protocol

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import Evidence, TeeType


class Attester(Protocol):
    """Makes evidence of the platform that this program runs on."""

    @property
    def tee(self) -> TeeType:
        """Which platform it is."""
        ...

    def attest(self, claims: Binding) -> Evidence:
        """Return evidence whose report covers `claims` as the spec says for this platform (attestation spec, 3.1).

        Raises:
            EvidenceError: the platform does not answer, or not as it should (`attester_*`).
        """
        ...
