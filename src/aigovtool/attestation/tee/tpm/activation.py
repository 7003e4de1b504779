"""Which attestation key is in which TPM: the custodian's question and its check, without a state (spec: tpm).

1. The enclave sends its endorsement key certificate and the public area of its attestation key.
2. The custodian answers with a credential that this TPM alone opens, and only while it holds that key. What is inside
   is an HMAC over both keys and the nonce of the exchange, with a key that never leaves the custodian.
3. The enclave sends what it found inside with its evidence. The custodian computes it again and compares.

Nothing is remembered between 2 and 3. The answer is good for one nonce and one pair of keys.

A custodian may also ask with the same nonce always (`STANDING_NONCE`). Then an answer is good for this pair of keys as
long as the custodian keeps its key. That is as sound: an attestation key never leaves its TPM, the answer names it, and
the quote that it signs is fresh by itself.
"""

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from aigovtool.attestation.model import ActivationCredential
from aigovtool.attestation.tee.tpm.credential import ENTROPY_BYTES, ek_public, make_credential
from aigovtool.attestation.tee.tpm.endorsement import key_of, read_chain
from aigovtool.attestation.tee.tpm.structures import PublicKey, parse_public, spki
from aigovtool.errors import EvidenceError

#: Returns the secret for (SHA-256 of the endorsement key's SubjectPublicKeyInfo, Name of the attestation key).
SecretFor = Callable[[bytes, bytes], bytes]

SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 32
#: Of a custodian that asks each TPM once, and verifies all evidence with one verifier.
STANDING_NONCE: Final = bytes(NONCE_BYTES)
_LABEL: Final = b"aigovtool tpm activation v1\0"
_CHANCE: Final = b"aigovtool tpm activation v1 chance\0"


def ek_digest(key: PublicKey) -> bytes:
    """Return by what an endorsement key is known here: SHA-256 of its DER SubjectPublicKeyInfo."""
    return hashlib.sha256(spki(key)).digest()


def secret_for(key: bytes, nonce: bytes) -> SecretFor:
    """Return the function that gives the secrets of one exchange.

    Args:
        key: at least 32 bytes that only the custodian knows, used for nothing else.
        nonce: 32 bytes, of this exchange.

    Raises:
        EvidenceError: `activation_key` for a key or nonce of another size.
    """
    if len(key) < 32 or len(nonce) != NONCE_BYTES:
        raise EvidenceError("activation takes a key of 32 bytes or more, and a nonce of 32", reason="activation_key")

    def secret(ek: bytes, ak_name: bytes) -> bytes:
        return hmac.digest(key, _LABEL + nonce + ek + ak_name, "sha256")

    return secret


def challenge(
    key: bytes, nonce: bytes, ek_certificate: bytes, ak_public: bytes, entropy: bytes
) -> ActivationCredential:
    """Return the credential to be activated by the TPM of the certificate, beside the attestation key.

    Args:
        key: as for `secret_for`.
        nonce: as for `secret_for`.
        ek_certificate: DER. Its chain need not have been verified: that is asked of the evidence, and the secret for
            a stranger's key is good for that key only.
        ak_public: TPMT_PUBLIC of the attestation key.
        entropy: 32 bytes or more of a cryptographic random source.

    Raises:
        EvidenceError: `activation_key`, `certificate_encoding`, `chain_algorithm`, `ek_kind`, `public_area`.
    """
    ek = key_of(read_chain(ek_certificate, ())[0])
    ak_name = parse_public(ak_public).name
    secret = secret_for(key, nonce)(ek_digest(ek), ak_name)
    if len(entropy) < 32:
        raise EvidenceError("a challenge takes 32 bytes of chance or more", reason="activation_key")
    stretched = b"".join(hmac.digest(entropy, _CHANCE + bytes([part]), "sha256") for part in range(3))
    return make_credential(ek_public(ek), ak_name, secret, stretched[:ENTROPY_BYTES])


def require_activated(secret: bytes, *expected: bytes) -> None:
    """Require that what was found inside the credential is what had been put there: one of `expected`.

    Raises:
        EvidenceError: `activation`.
    """
    if not any(hmac.compare_digest(secret, one) for one in expected):
        raise EvidenceError(
            "the TPM of the endorsement key did not activate this attestation key for this exchange",
            reason="activation",
        )
