"""A secret that only one TPM can open, and only while it holds one key: MakeCredential (TPM 2.0 Library, Part 1, 24).

It is made without a TPM, from the endorsement key of a certificate. TPM2_ActivateCredential opens it with the private
endorsement key, if an object with the named public area is loaded in that same TPM: so whoever knows the secret has
proved that the attestation key and the endorsement key are in one TPM.

The public area of the endorsement key is that of the TCG templates (EK Credential Profile 2.6, annex B), which follows
from the kind of key in the certificate. Randomness is an argument.
"""

import hashlib
import hmac
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

from aigovtool.attestation.model import ActivationCredential
from aigovtool.attestation.tee.tpm.structures import (
    ADMIN_WITH_POLICY,
    ALG_AES,
    ALG_CFB,
    ALG_ECC,
    ALG_NULL,
    ALG_RSA,
    CURVES,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    USER_WITH_AUTH,
    PublicArea,
    PublicKey,
    hash_algorithm,
    parse_public,
)
from aigovtool.errors import EvidenceError

#: What `make_credential` needs of a cryptographic random source.
ENTROPY_BYTES: Final = 96

_IDENTITY: Final = b"IDENTITY\0"
_SHA256_ID: Final = 0x000B
_SHA384_ID: Final = 0x000C
# PolicySecret(TPM_RH_ENDORSEMENT): PolicyA of the low range. The P-384 and RSA-3072 templates also allow PolicyB, with
# the endorsement authorisation or one that is kept in the TPM: PolicyOR, with userWithAuth set.
_POLICY_A_SHA256: Final = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_POLICY_B_SHA384: Final = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)
_EK_ATTRIBUTES: Final = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT


def ek_public(key: PublicKey) -> PublicArea:
    """Return the public area that the TCG's template gives to an endorsement key.

    Raises:
        EvidenceError: `ek_kind` for a key that no template makes: not RSA of 2048, 3072 or 4096 bits, P-256 or P-384.
    """
    strong = key.key_size not in {2048, 256}
    name_alg, policy, bits = (_SHA384_ID, _POLICY_B_SHA384, 256) if strong else (_SHA256_ID, _POLICY_A_SHA256, 128)
    attributes = _EK_ATTRIBUTES | (USER_WITH_AUTH if strong else 0)
    kind = ALG_RSA if isinstance(key, rsa.RSAPublicKey) else ALG_ECC
    head = _u16(kind) + _u16(name_alg) + attributes.to_bytes(4) + _sized(policy)
    head += _u16(ALG_AES) + _u16(bits) + _u16(ALG_CFB) + _u16(ALG_NULL)
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        if numbers.e != 65537 or key.key_size not in {2048, 3072, 4096}:
            raise EvidenceError("no endorsement key template makes such an RSA key", reason="ek_kind")
        return parse_public(head + _u16(key.key_size) + bytes(4) + _sized(numbers.n.to_bytes(key.key_size // 8)))
    curves = {curve.name: (identifier, size) for identifier, (curve, size) in CURVES.items()}
    if key.curve.name not in curves:
        raise EvidenceError("no endorsement key template makes a key on this curve", reason="ek_kind")
    identifier, size = curves[key.curve.name]
    point = key.public_numbers()
    return parse_public(
        head + _u16(identifier) + _u16(ALG_NULL) + _sized(point.x.to_bytes(size)) + _sized(point.y.to_bytes(size))
    )


def make_credential(ek: PublicArea, name: bytes, secret: bytes, entropy: bytes) -> ActivationCredential:
    """Return `secret` for the TPM of `ek`, to be opened beside the object that has this Name (Part 1, section 24).

    Args:
        ek: the public area of the endorsement key.
        name: the Name of the attestation key, computed from its public area by whoever asks.
        secret: 1 to 32 bytes.
        entropy: `ENTROPY_BYTES` that nobody can guess; the same give the same credential.

    Raises:
        EvidenceError: `credential` for a secret or entropy of another size.
    """
    if not 1 <= len(secret) <= 32 or len(entropy) != ENTROPY_BYTES:
        raise EvidenceError(
            f"a credential is made of 1 to 32 bytes, with {ENTROPY_BYTES} of chance", reason="credential"
        )
    if isinstance(ek.key, rsa.RSAPublicKey):
        seed, encrypted_seed = _seed_for_rsa(ek.key, ek.name_alg, entropy)
    else:
        seed, encrypted_seed = _seed_for_ecc(ek.key, ek.name_alg, entropy)
    size = hashlib.new(ek.name_alg).digest_size
    storage_key = kdfa(ek.name_alg, seed, b"STORAGE", name, ek.symmetric)
    encryptor = Cipher(AES(storage_key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    integrity_key = kdfa(ek.name_alg, seed, b"INTEGRITY", b"", size * 8)
    integrity = hmac.digest(integrity_key, identity + name, ek.name_alg)
    return ActivationCredential(blob=_sized(_sized(integrity) + identity), secret=_sized(encrypted_seed))


def kdfa(hash_name: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Return `bits` (a multiple of 8) of key from HMAC in counter mode (Part 1, section 11.4.10.2; SP 800-108)."""
    size, derived = bits // 8, b""
    while len(derived) < size:
        counter = len(derived) // hashlib.new(hash_name).digest_size + 1
        derived += hmac.digest(key, counter.to_bytes(4) + label + b"\0" + context + bits.to_bytes(4), hash_name)
    return derived[:size]


def _seed_for_rsa(key: rsa.RSAPublicKey, hash_name: str, entropy: bytes) -> tuple[bytes, bytes]:
    """Return a seed, and it encrypted with RSAES-OAEP (Part 1, annex B.10.4; RFC 8017, 7.1.1).

    By hand, because the library's OAEP takes no randomness from its caller. Only the public key is used.
    """
    size, modulus = hashlib.new(hash_name).digest_size, key.key_size // 8
    seed, blinding = entropy[:size], entropy[size : 2 * size]
    padded = hashlib.new(hash_name, _IDENTITY).digest() + bytes(modulus - 3 * size - 2) + b"\x01" + seed
    masked = _xor(padded, _mgf1(hash_name, blinding, len(padded)))
    masked_blinding = _xor(blinding, _mgf1(hash_name, masked, size))
    numbers = key.public_numbers()
    message = int.from_bytes(b"\0" + masked_blinding + masked)
    return seed, pow(message, numbers.e, numbers.n).to_bytes(modulus)


def _seed_for_ecc(key: ec.EllipticCurvePublicKey, hash_name: str, entropy: bytes) -> tuple[bytes, bytes]:
    """Return the seed of an ECDH with an ephemeral key, and that key's point (Part 1, annex C.6.4; KDFe: 11.4.10.3)."""
    size = key.key_size // 8
    # 128 bits more than the order has, so that the remainder is uniform as far as anybody can tell.
    order = {"secp256r1": _ORDER_256, "secp384r1": _ORDER_384}[key.curve.name]
    scalar = int.from_bytes(entropy[: size + 16]) % (order - 1) + 1
    ephemeral = ec.derive_private_key(scalar, key.curve)
    point = ephemeral.public_key().public_numbers()
    x, y = point.x.to_bytes(size), point.y.to_bytes(size)
    info = _IDENTITY + x + key.public_numbers().x.to_bytes(size)
    shared = ephemeral.exchange(ec.ECDH(), key)
    seed = ConcatKDFHash(hash_algorithm(hash_name), hashlib.new(hash_name).digest_size, info).derive(shared)
    return seed, _sized(x) + _sized(y)


# FIPS 186-4, D.1.2.3 and D.1.2.4.
_ORDER_256: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ORDER_384: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


def _mgf1(hash_name: str, seed: bytes, size: int) -> bytes:
    mask = b""
    while len(mask) < size:
        mask += hashlib.new(hash_name, seed + (len(mask) // hashlib.new(hash_name).digest_size).to_bytes(4)).digest()
    return mask[:size]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _u16(value: int) -> bytes:
    return value.to_bytes(2)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data
