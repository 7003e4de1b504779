"""The port to a TEE, from inside: whatever can make evidence that covers an enclave's claims (RFC 9334, section 3)."""

from typing import Protocol, runtime_checkable

from aigovtool.attestation.binding import Binding
from aigovtool.attestation.model import ActivationCredential, ActivationKeys, Evidence, TeeType


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


@runtime_checkable
class ActivatedAttester(Attester, Protocol):
    """An attester whose signing key no maker has certified: a verifier must be shown that it is in the platform.

    Who boots asks for the keys, has the verifier make a credential for them, activates it, and only then attests. All
    of these may block for seconds.
    """

    def keys(self) -> ActivationKeys:
        """Return the keys of this platform.

        Raises:
            EvidenceError: the platform does not answer, or has no certificate (`attester_*`).
        """
        ...

    def activate(self, credential: ActivationCredential) -> bytes:
        """Open a credential; what is inside travels with evidence of role `boot` from then on.

        Raises:
            EvidenceError: it was made for other keys, or the platform does not answer (`attester_*`).
        """
        ...

    def certify(self, certificate: bytes) -> None:
        """Take a verifier's certificate (DER) of the signing key, for evidence of other roles than `boot`."""
        ...
