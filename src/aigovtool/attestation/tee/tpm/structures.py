"""What a TPM writes: public areas, quotes and signatures (TPM 2.0 Library, Part 2: Structures; big-endian throughout).

Only what a quote of a sane attestation key needs is read. Everything else is refused: other key types, hashes below
SHA-256, curves beside NIST P-256 and P-384, RSA keys below 2048 bits, reserved bits that are set, bytes that are left.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aigovtool.attestation.tee.tpm.reading import Reader
from aigovtool.errors import EvidenceError

#: TPM_ALG_ID (Part 2, section 6.3).
ALG_RSA: Final = 0x0001
ALG_AES: Final = 0x0006
ALG_NULL: Final = 0x0010
ALG_RSASSA: Final = 0x0014
ALG_RSAPSS: Final = 0x0016
ALG_ECDSA: Final = 0x0018
ALG_ECC: Final = 0x0023
ALG_CFB: Final = 0x0043
#: The hashes that are accepted, by their identifier; SHA-1 (0x0004) is not.
HASHES: Final = {0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}

#: TPMA_OBJECT (Part 2, section 8.3).
FIXED_TPM: Final = 1 << 1
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5
USER_WITH_AUTH: Final = 1 << 6
ADMIN_WITH_POLICY: Final = 1 << 7
ENCRYPTED_DUPLICATION: Final = 1 << 11
RESTRICTED: Final = 1 << 16
DECRYPT: Final = 1 << 17
SIGN: Final = 1 << 18
X509_SIGN: Final = 1 << 19
# stClear (2), userWithAuth, adminWithPolicy and noDA (10) say how a key is used, and nothing about whose it is.
_KNOWN_ATTRIBUTES: Final = (
    FIXED_TPM
    | 1 << 2
    | FIXED_PARENT
    | SENSITIVE_DATA_ORIGIN
    | USER_WITH_AUTH
    | ADMIN_WITH_POLICY
    | 1 << 10
    | ENCRYPTED_DUPLICATION
    | RESTRICTED
    | DECRYPT
    | SIGN
    | X509_SIGN
)

#: TPM_ECC_CURVE (Part 2, section 6.4), with the size of a coordinate.
CURVES: Final[dict[int, tuple[ec.EllipticCurve, int]]] = {0x0003: (ec.SECP256R1(), 32), 0x0004: (ec.SECP384R1(), 48)}
RSA_BITS: Final = (2048, 3072, 4096)

MAGIC: Final = 0xFF544347
ST_ATTEST_QUOTE: Final = 0x8018
RH_ENDORSEMENT: Final = bytes.fromhex("4000000b")
PCR_COUNT: Final = 24

_MAX_DIGEST: Final = 64
_MAX_RSA: Final = 512
_MAX_EXTRA_DATA: Final = 64

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicArea:
    """A TPMT_PUBLIC (Part 2, section 12.2.4).

    `scheme` and `scheme_hash` are of its signing scheme; `ALG_NULL` and "" where it has none. `symmetric` is the key
    size in bits of its AES-CFB, or 0.
    """

    encoded: bytes
    name_alg: str
    attributes: int
    auth_policy: bytes
    symmetric: int
    scheme: int
    scheme_hash: str
    key: PublicKey

    @property
    def name(self) -> bytes:
        """The Name of the object: the hash of the public area behind its algorithm's identifier (Part 1, 16)."""
        return named(self.name_alg, self.encoded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE over one PCR bank (Part 2, section 10.12).

    `selected` are the indices of the PCRs, ascending; `firmware_version` is 64 bits of the TPM vendor's.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    bank: str
    selected: tuple[int, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A TPMT_SIGNATURE (Part 2, section 11.3.4): `parts` is (signature,) of RSA, or (r, s) of ECDSA, big-endian."""

    scheme: int
    scheme_hash: str
    parts: tuple[bytes, ...]


def named(name_alg: str, data: bytes) -> bytes:
    """Return the Name that hashes `data` with `name_alg`: the algorithm's identifier, two bytes, and the digest."""
    (identifier,) = (number for number, name in HASHES.items() if name == name_alg)
    return identifier.to_bytes(2) + hashlib.new(name_alg, data).digest()


def hash_algorithm(name: str) -> hashes.HashAlgorithm:
    """Return the library's hash for one of the names in `HASHES`."""
    return {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[name]


def spki(key: PublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a key: the form in which keys are compared and hashed here."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def parse_public(data: bytes) -> PublicArea:
    """Return the TPMT_PUBLIC in `data`: RSA with exponent 65537, or ECC on P-256 or P-384.

    Raises:
        EvidenceError: `public_area`.
    """
    read = Reader(data, "a public area", "public_area")
    kind = read.number(2)
    if kind not in {ALG_RSA, ALG_ECC}:
        raise read.bad(f"is of type {kind:#06x}, neither RSA nor ECC")
    name_alg = _hash(read)
    attributes = read.number(4)
    if attributes & ~_KNOWN_ATTRIBUTES:
        raise read.bad(f"has unknown attributes {attributes & ~_KNOWN_ATTRIBUTES:#x}")
    auth_policy = read.sized(_MAX_DIGEST)
    if len(auth_policy) not in {0, hashlib.new(name_alg).digest_size}:
        raise read.bad("has a policy that is no digest")
    symmetric = _symmetric(read)
    scheme, scheme_hash = _scheme(read)
    key = _rsa_key(read) if kind == ALG_RSA else _ecc_key(read)
    read.end()
    return PublicArea(
        encoded=data,
        name_alg=name_alg,
        attributes=attributes,
        auth_policy=auth_policy,
        symmetric=symmetric,
        scheme=scheme,
        scheme_hash=scheme_hash,
        key=key,
    )


def unwrapped_public(data: bytes) -> bytes:
    """Return the TPMT_PUBLIC in a TPM2B_PUBLIC.

    Raises:
        EvidenceError: `public_area`.
    """
    read = Reader(data, "a public area", "public_area")
    content = read.sized(len(data))
    read.end()
    return content


def parse_quote(data: bytes) -> Quote:
    """Return the TPMS_ATTEST in `data`, which must be a quote over one bank of PCRs.

    Raises:
        EvidenceError: `attest_magic`, `attest_type`, `attest_encoding`.
    """
    read = Reader(data, "a quote", "attest_encoding")
    if read.number(4) != MAGIC:
        raise EvidenceError("what is signed was not made inside a TPM", reason="attest_magic")
    if read.number(2) != ST_ATTEST_QUOTE:
        raise EvidenceError("what is signed is no quote", reason="attest_type")
    qualified_signer = read.sized(2 + _MAX_DIGEST)
    extra_data = read.sized(_MAX_EXTRA_DATA)
    clock, reset_count, restart_count, safe = read.number(8), read.number(4), read.number(4), read.number(1)
    if safe > 1:
        raise read.bad("has a flag that is neither 0 nor 1")
    firmware_version = read.number(8)
    bank, selected = _selection(read)
    pcr_digest = read.sized(_MAX_DIGEST)
    read.end()
    return Quote(
        qualified_signer=qualified_signer,
        extra_data=extra_data,
        clock=clock,
        reset_count=reset_count,
        restart_count=restart_count,
        safe=bool(safe),
        firmware_version=firmware_version,
        bank=bank,
        selected=selected,
        pcr_digest=pcr_digest,
    )


def parse_signature(data: bytes) -> Signature:
    """Return the TPMT_SIGNATURE in `data`: RSASSA, RSAPSS or ECDSA.

    Raises:
        EvidenceError: `signature_encoding`.
    """
    read = Reader(data, "a signature", "signature_encoding")
    scheme = read.number(2)
    if scheme not in {ALG_RSASSA, ALG_RSAPSS, ALG_ECDSA}:
        raise read.bad(f"is of scheme {scheme:#06x}")
    scheme_hash = _hash(read)
    if scheme == ALG_ECDSA:
        parts: tuple[bytes, ...] = (read.sized(48), read.sized(48))
    else:
        parts = (read.sized(_MAX_RSA),)
    read.end()
    return Signature(scheme=scheme, scheme_hash=scheme_hash, parts=parts)


def _hash(read: Reader) -> str:
    number = read.number(2)
    if number not in HASHES:
        raise read.bad(f"uses the hash {number:#06x}; SHA-256, SHA-384 and SHA-512 are accepted")
    return HASHES[number]


def _symmetric(read: Reader) -> int:
    algorithm = read.number(2)
    if algorithm == ALG_NULL:
        return 0
    bits, mode = read.number(2), read.number(2)
    if algorithm != ALG_AES or bits not in {128, 256} or mode != ALG_CFB:
        raise read.bad("has a symmetric algorithm that is not AES-128 or AES-256 with CFB")
    return bits


def _scheme(read: Reader) -> tuple[int, str]:
    scheme = read.number(2)
    if scheme == ALG_NULL:
        return ALG_NULL, ""
    if scheme not in {ALG_RSASSA, ALG_RSAPSS, ALG_ECDSA}:
        raise read.bad(f"has the scheme {scheme:#06x}")
    return scheme, _hash(read)


def _rsa_key(read: Reader) -> rsa.RSAPublicKey:
    bits, exponent = read.number(2), read.number(4)
    modulus = read.sized(_MAX_RSA)
    # A TPM writes 0 for the exponent 65537 (Part 2, section 12.2.3.5). The product of two large primes is odd.
    whole = len(modulus) * 8 == bits and modulus[0] & 0x80 and modulus[-1] & 1
    if bits not in RSA_BITS or exponent not in {0, 65537} or not whole:
        raise read.bad("has an RSA key that is not of 2048, 3072 or 4096 bits with the exponent 65537")
    try:
        return rsa.RSAPublicNumbers(65537, int.from_bytes(modulus)).public_key()
    except ValueError:
        raise read.bad("has an RSA key that is none") from None


def _ecc_key(read: Reader) -> ec.EllipticCurvePublicKey:
    curve_id, kdf = read.number(2), read.number(2)
    if curve_id not in CURVES or kdf != ALG_NULL:
        raise read.bad("has an ECC key that is not on P-256 or P-384, or has a key derivation")
    curve, size = CURVES[curve_id]
    x, y = read.sized(size), read.sized(size)
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
    except ValueError:
        raise read.bad("has a point that is not on its curve") from None


def _selection(read: Reader) -> tuple[str, tuple[int, ...]]:
    """Return bank and indices of a TPML_PCR_SELECTION with one entry (Part 2, sections 10.9.7 and 10.6.2)."""
    if read.number(4) != 1:
        raise read.bad("is not over exactly one bank of PCRs")
    bank = _hash(read)
    if bank == "sha512":
        raise read.bad("is over a bank that is neither SHA-256 nor SHA-384")
    if read.number(1) != PCR_COUNT // 8:
        raise read.bad("selects among another number of PCRs than 24")
    # Bit n of byte m stands for PCR 8m + n.
    mask = int.from_bytes(read.take(PCR_COUNT // 8), "little")
    return bank, tuple(index for index in range(PCR_COUNT) if mask >> index & 1)
