"""Attestation keys that nobody has certified: the custodian's challenge, verifier and certificate (spec: tpm, 3).

Nothing is remembered between challenge and admission. What is inside a credential follows from the nonce, both keys and
a key of the custodian's own, so that any machine that serves this custodian can verify what another one has asked.
"""

import secrets
from pathlib import Path
from typing import Final

from cryptography import x509

from aigovtool.attestation.certificates import fingerprint, read_certificates
from aigovtool.attestation.model import ActivationCredential, ActivationKeys, Evidence, TeeType, VerifiedEvidence
from aigovtool.attestation.tee.tpm import activation
from aigovtool.attestation.tee.tpm.certification import certify
from aigovtool.attestation.tee.tpm.verify import KeyProof, TpmVerifier
from aigovtool.attestation.verifier import Exchange, Verifier
from aigovtool.custodian.keys import CustodianKeys
from aigovtool.errors import ConfigurationError, EvidenceError
from aigovtool.limits import MAX_CERTIFICATE_BYTES
from aigovtool.regular_file import read_at_most

ROOTS_DIRECTORY: Final = "tpm-roots"
_MAX_FILES: Final = 100
_MAX_FILE_BYTES: Final = 8 * MAX_CERTIFICATE_BYTES
#: A consumer's clock may be behind.
_BACKDATE_MS: Final = 3_600_000
_FIX: Final = "keep only certificates of makers' roots there, in PEM or DER"


def read_roots(directory: Path) -> tuple[x509.Certificate, ...]:
    """Return the roots of TPM makers in a custodian's directory; where there are none, no TPM is believed.

    Raises:
        ConfigurationError: `tpm_roots`: a file there cannot be read, or is something else.
    """
    place = directory / ROOTS_DIRECTORY
    try:
        paths = sorted(path for path in place.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        paths = []
    except OSError as error:
        raise _unusable(place, error.strerror or "error") from None
    if len(paths) > _MAX_FILES:
        raise _unusable(place, f"more than {_MAX_FILES} files")
    found = {fingerprint(one): one for path in paths for one in _read(path)}
    return tuple(found.values())


def _read(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        content = read_at_most(path, _MAX_FILE_BYTES)
        if len(content) > _MAX_FILE_BYTES:
            raise _unusable(path, "too large")
        found = read_certificates(content)
    except OSError as error:
        raise _unusable(path, error.strerror or "error") from None
    except EvidenceError as error:
        raise _unusable(path, error.message) from None
    for one in found:
        if one.subject != one.issuer:
            raise _unusable(path, "a certificate that another authority has issued is no root")
    return found


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"roots of TPM makers: {path}: {why}", reason="tpm_roots", fix=_FIX)


def credential_for(keys: CustodianKeys, asked: ActivationKeys, nonce: bytes) -> ActivationCredential:
    """Return a credential for the keys that an enclave shows, good for one nonce.

    Raises:
        EvidenceError: those of `activation.challenge`: the keys cannot be read, or are of no kind that is activated.
    """
    return activation.challenge(
        keys.activation or b"", nonce, asked.ek_certificate, asked.ak_public, secrets.token_bytes(32)
    )


def verifier(keys: CustodianKeys, roots: tuple[x509.Certificate, ...], exchange: Exchange) -> Verifier:
    """Return the verifier of TPMs for the exchange with this nonce; without one no secret is the right one."""
    if exchange.nonce is None:
        return TpmVerifier(roots)
    others = [activation.secret_for(key, exchange.nonce) for key in keys.other_activations]
    used = None if keys.activation is None else activation.secret_for(keys.activation, exchange.nonce)
    return TpmVerifier(roots, used, other_activations=others)


def certificate_of(
    keys: CustodianKeys, evidence: Evidence, verified: VerifiedEvidence, *, now_ms: int, until_ms: int
) -> bytes | None:
    """Return a certificate of the attestation key if it was activated, until its attestation ends.

    None for all other evidence, and from a custodian whose key set names no authority for it.
    """
    activated = any(fact.name == "attestation_key" and fact.value == KeyProof.ACTIVATED for fact in verified.facts)
    authority = keys.attestation_ca
    if verified.tee is not TeeType.TPM or not activated or keys.attestation is None or authority is None:
        return None
    return certify(
        keys.attestation.private(),
        authority,
        evidence.data,
        not_before_ms=now_ms - _BACKDATE_MS,
        not_after_ms=until_ms,
    )
