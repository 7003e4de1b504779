"""Which TEE platforms this consumer can verify: the only place that chooses verifiers.

The simulated TEE is reached through one function, imported only when it was asked for twice: by the caller
(`allow_simulated=True`) and by the appraisal policy of the consumer file.
"""

from collections.abc import Callable

from aigovtool.attestation.model import TeeType
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.attestation.tee.catalogue import HARDWARE
from aigovtool.attestation.verifier import Exchange, Verifier, VerifierSet


def verifiers_for(policy: AppraisalPolicy, *, allow_simulated: bool) -> VerifierSet:
    """Return the verifiers of the platforms that `policy` accepts."""
    wired: dict[TeeType, Verifier] = {}
    by_exchange: dict[TeeType, Callable[[Exchange], Verifier]] = {}
    for entry in policy.accepted:
        if entry.tee is TeeType.TPM:
            wired[entry.tee], by_exchange[entry.tee] = _tpm(Exchange()), _tpm
        if entry.tee in HARDWARE:  # each is loaded when a policy accepts the platform, and not before
            wired[entry.tee] = HARDWARE[entry.tee]()
    if allow_simulated and policy.allow_simulated:
        wired[TeeType.SIMULATED] = _simulated()
    return VerifierSet(wired, by_exchange)


def _tpm(exchange: Exchange) -> Verifier:
    """Return the verifier of TPMs whose attestation keys the consumer's own custodian has certified."""
    from aigovtool.attestation.certificates import read_certificates  # noqa: PLC0415
    from aigovtool.attestation.tee.tpm.verify import TpmVerifier  # noqa: PLC0415

    # No maker's root: what only a maker vouches for says nothing of who runs the machine.
    return TpmVerifier(roots=(), authorities=[one for data in exchange.authorities for one in read_certificates(data)])


def _simulated() -> Verifier:
    # The explicit simulated-TEE entry of this role; nothing else here imports aigovtool.testing.
    from aigovtool.testing.simulated_tee.verify import SimulatedVerifier  # noqa: PLC0415

    return SimulatedVerifier()
