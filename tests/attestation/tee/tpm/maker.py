"""A pretended TPM: every structure by its own encoder, with whatever may be wrong with it. All keys are TEST-ONLY."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ObjectIdentifier
from tests.attestation.authority import Certified, key_of

from aigovtool.attestation.event_list import EventList
from aigovtool.attestation.model import Evidence, TeeType

VECTORS = Path(__file__).parents[3] / "vectors" / "attestation" / "tpm"
REPORT_DATA = bytes(range(64))
SHA256, SHA384, SHA512, SHA1 = 0x000B, 0x000C, 0x000D, 0x0004
HASHES: dict[int, Any] = {SHA256: hashes.SHA256(), SHA384: hashes.SHA384(), SHA512: hashes.SHA512()}
RSASSA, RSAPSS, ECDSA, NULL = 0x0014, 0x0016, 0x0018, 0x0010
#: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign
AK_ATTRIBUTES = 0x00050072
EK_PURPOSE = ObjectIdentifier("2.23.133.8.1")
AK_PURPOSE = ObjectIdentifier("2.23.133.8.3")
MANUFACTURER, MODEL, VERSION = (ObjectIdentifier(f"2.23.133.2.{number}") for number in (1, 2, 3))
NAMES = ((VERSION, "id:00010002"), (MODEL, "Pretended"), (MANUFACTURER, "id:54455354"))
FIRMWARE = 7 << 32 | 85


def u16(value: int) -> bytes:
    return value.to_bytes(2)


def sized(data: bytes) -> bytes:
    return u16(len(data)) + data


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """Return a TEST-ONLY key: `ek` or `ak`."""
    text = (VECTORS / f"TEST-ONLY-{name}.pem").read_bytes()
    key = load_pem_private_key(text[text.index(b"-----") :], None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def ecc_key(name: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return key_of(f"tpm {name}", curve or ec.SECP256R1())


def hash_name(identifier: int) -> str:
    return {SHA256: "sha256", SHA384: "sha384", SHA512: "sha512", SHA1: "sha1"}[identifier]


def unique(key: Any) -> bytes:
    """Return parameters behind the scheme, and the key itself."""
    numbers = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        return u16(key.key_size) + bytes(4) + sized(numbers.n.to_bytes(key.key_size // 8))
    size = key.curve.key_size // 8
    identifier = {"secp256r1": 3, "secp384r1": 4, "secp521r1": 5}[key.curve.name]
    size = 66 if identifier == 5 else size
    return u16(identifier) + u16(NULL) + sized(numbers.x.to_bytes(size)) + sized(numbers.y.to_bytes(size))


def selection(*indices: int) -> bytes:
    return sum(1 << index for index in indices).to_bytes(3, "little")


def names(*pairs: tuple[ObjectIdentifier, str]) -> x509.SubjectAlternativeName:
    attributes = [x509.RelativeDistinguishedName([x509.NameAttribute(oid, value)]) for oid, value in pairs]
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(attributes))])


def key_usage(**on: bool) -> x509.KeyUsage:
    every = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
    bits = (*every.split(), "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: on.get(name, False) for name in bits})


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@cache
def root(**changes: Any) -> x509.Certificate:
    return Certified(**{"name": "TPM root", "issuer": "TPM root", **changes}).made()


@cache
def issuing(**changes: Any) -> x509.Certificate:
    return Certified(**{"name": "TPM issuing CA", "issuer": "TPM root", **changes}).made()


@dataclass(frozen=True)
class Forgery:
    """One piece of evidence; what is not said is as it should be, so each test changes one thing.

    `pcrs` and `events` follow from each other unless both are given: register -> digests measured into it.
    """

    ak: Any = field(default_factory=lambda: ecc_key("ak"))
    ak_type: int | None = None
    ak_name_alg: int = SHA256
    ak_attributes: int = AK_ATTRIBUTES
    ak_policy: bytes = b""
    ak_symmetric: bytes = b"\x00\x10"
    ak_scheme: bytes | None = None
    ak_unique: bytes | None = None
    ak_tail: bytes = b""
    magic: int = 0xFF544347
    attest_type: int = 0x8018
    signer: bytes | None = None
    extra: bytes | None = None
    clock: bytes = bytes(8) + u16(0) * 4
    safe: int = 1
    firmware: int = FIRMWARE
    banks: bytes | None = None
    selected: tuple[int, ...] | None = None
    quoted_digest: bytes | None = None
    attest_tail: bytes = b""
    scheme: int | None = None
    scheme_hash: int = SHA256
    signature_scheme: int | None = None
    signature_hash: int | None = None
    signing_key: Any = None
    salt: Any = padding.PSS.MAX_LENGTH
    signature_tail: bytes = b""
    bank: str = "sha256"
    measured: dict[int, Sequence[bytes]] = field(default_factory=lambda: dict(MEASURED))
    pcrs: dict[int, bytes] | None = None
    events: list[dict[str, Any]] | None = None
    locality: int = 0
    report_data: bytes | None = REPORT_DATA
    certifies: str = "ek"
    secret: bytes | None = None
    ek: Any = field(default_factory=lambda: rsa_key("ek"))
    leaf: dict[str, Any] = field(default_factory=dict)
    certificate: bytes | None = None
    endorsements: tuple[bytes, ...] | None = None
    message: dict[str, Any] = field(default_factory=dict)
    tee: TeeType = TeeType.TPM

    @property
    def rsa(self) -> bool:
        return isinstance(self.ak, rsa.RSAPrivateKey)

    def ak_public(self) -> bytes:
        scheme = self.scheme or (RSASSA if self.rsa else ECDSA)
        kind = self.ak_type or (0x0001 if self.rsa else 0x0023)
        head = u16(kind) + u16(self.ak_name_alg) + self.ak_attributes.to_bytes(4) + sized(self.ak_policy)
        signs = u16(scheme) + u16(self.scheme_hash) if self.ak_scheme is None else self.ak_scheme
        return head + self.ak_symmetric + signs + (self.ak_unique or unique(self.ak)) + self.ak_tail

    def ak_name(self) -> bytes:
        return u16(self.ak_name_alg) + hashlib.new(hash_name(self.ak_name_alg), self.ak_public()).digest()

    def values(self) -> dict[int, bytes]:
        if self.pcrs is not None:
            return self.pcrs
        return {index: self.replayed(index, digests) for index, digests in self.measured.items()}

    def replayed(self, index: int, digests: Sequence[bytes]) -> bytes:
        size = hashlib.new(self.bank).digest_size
        value = bytes(size - 1) + bytes([self.locality if index == 0 else 0])
        for digest in digests:
            value = hashlib.new(self.bank, value + digest).digest()
        return value

    def attest(self) -> bytes:
        name = hash_name(self.ak_name_alg)
        qualified = u16(self.ak_name_alg) + hashlib.new(name, bytes.fromhex("4000000b") + self.ak_name()).digest()
        values = self.values()
        bank = {"sha256": SHA256, "sha384": SHA384}[self.bank]
        chosen = selection(*(sorted(values) if self.selected is None else self.selected))
        banks = (1).to_bytes(4) + u16(bank) + b"\x03" + chosen if self.banks is None else self.banks
        digest = hashlib.new(hash_name(self.scheme_hash), b"".join(values[index] for index in sorted(values))).digest()
        extra = hashlib.sha256(self.report_data or b"").digest() if self.extra is None else self.extra
        return (
            self.magic.to_bytes(4)
            + u16(self.attest_type)
            + sized(qualified if self.signer is None else self.signer)
            + sized(extra)
            + self.clock
            + bytes([self.safe])
            + self.firmware.to_bytes(8)
            + banks
            + sized(digest if self.quoted_digest is None else self.quoted_digest)
            + self.attest_tail
        )

    def signature(self) -> bytes:
        key, algorithm = self.signing_key or self.ak, HASHES.get(self.scheme_hash, hashes.SHA256())
        scheme = self.scheme or (RSASSA if self.rsa else ECDSA)
        head = u16(self.signature_scheme or scheme) + u16(self.signature_hash or self.scheme_hash)
        if isinstance(key, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(algorithm), self.salt)
            made = key.sign(self.attest(), pss if scheme == RSAPSS else padding.PKCS1v15(), algorithm)
            return head + sized(made) + self.signature_tail
        r, s = decode_dss_signature(key.sign(self.attest(), ec.ECDSA(algorithm, deterministic_signing=True)))
        size = (key.curve.key_size + 7) // 8
        return head + sized(r.to_bytes(size)) + sized(s.to_bytes(size)) + self.signature_tail

    def leaf_certificate(self) -> bytes:
        if self.certificate is not None:
            return self.certificate
        own = self.certifies == "ak"
        encrypts = isinstance(self.ek, rsa.RSAPrivateKey)
        used = key_usage(digital_signature=own, key_encipherment=not own and encrypts, key_agreement=not own)
        purpose = x509.ExtendedKeyUsage([AK_PURPOSE if own else EK_PURPOSE])
        fields = {
            "name": "a TPM",
            "issuer": "TPM issuing CA",
            "authority": False,
            "key": self.ak if own else self.ek,
            "usage": used,
            "extensions": ((names(*NAMES), True), (purpose, False)),
        }
        return der(Certified(**{**fields, **self.leaf}).made())

    def as_message(self) -> dict[str, Any]:
        events = self.events
        if events is None:
            events = [
                {"register": f"pcr{index}", "digests": [digest.hex() for digest in self.measured[index]]}
                for index in sorted(self.measured)
                if self.measured[index]
            ]
        return {
            "ak_public": self.ak_public(),
            "attest": self.attest(),
            "signature": self.signature(),
            "bank": self.bank,
            "pcrs": [{"index": index, "digest": value.hex()} for index, value in sorted(self.values().items())],
            "events": {"registers": events},
            "startup_locality": self.locality,
            "report_data": self.report_data,
            "certifies": self.certifies,
            "certificate": self.leaf_certificate(),
            "secret": self.secret,
            **self.message,
        }

    def made(self) -> Evidence:
        # Members of a dictionary keep their order here, as those of a message do.
        chain = (der(issuing()),) if self.endorsements is None else self.endorsements
        return Evidence(tee=self.tee, data=msgspec.json.encode(self.as_message()), endorsements=chain)


def digest(text: str, bank: str = "sha256") -> bytes:
    return hashlib.new(bank, text.encode()).digest()


MEASURED: dict[int, Sequence[bytes]] = {
    0: [digest("firmware"), digest("separator")],
    4: [digest("boot loader"), digest("separator"), digest("kernel")],
    7: [digest("secure boot")],
    14: [],
}

NO_EVENTS = EventList(registers=())
