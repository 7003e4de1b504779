"""Makes documents and chains like those of AWS from fixed TEST-ONLY keys; whatever a test wants wrong is an argument.

Signatures are deterministic (RFC 6979), so every run makes the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha384
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from aigovtool.attestation.certificates import fingerprint
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.nitro.cbor import write

MADE_AT: Final = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
NOW_MS: Final = int(MADE_AT.timestamp() * 1000)
PCRS: Final[dict[Any, Any]] = {
    0: b"\xa0" * 48,
    1: b"\xa1" * 48,
    2: b"\xa2" * 48,
    3: bytes(48),
    4: b"\xa4" * 48,
    8: bytes(48),
}
REPORT_DATA: Final = bytes(range(64))
NONCE: Final = b"\x11" * 32
HPKE_KEY: Final = b"\x33" * 32
PROTECTED: Final = bytes.fromhex("a1013822")


@cache
def key(name: str, curve: str = "secp384r1") -> ec.EllipticCurvePrivateKey:
    """Return the TEST-ONLY key of this name; anybody can compute it."""
    kind = {"secp384r1": ec.SECP384R1(), "secp256r1": ec.SECP256R1(), "secp521r1": ec.SECP521R1()}[curve]
    secret = int.from_bytes(sha384(f"TEST-ONLY: Nitro {name}".encode()).digest()[:31], "big")
    return ec.derive_private_key(secret, kind)


@dataclass(frozen=True)
class Link:
    """One certificate that is to be made; a leaf has no `path_length` and is no authority."""

    name: str
    ca: bool = True
    path_length: int | None = None
    starts: timedelta = timedelta(days=-1)
    ends: timedelta = timedelta(days=1)
    digital_signature: bool = False
    cert_sign: bool = True
    curve: str = "secp384r1"
    hashed: type[SHA256 | SHA384] = SHA384
    issuer_name: str | None = None
    signer: str | None = None
    signer_curve: str = "secp384r1"
    usage: bool = True
    critical: x509.ObjectIdentifier | None = None


#: As AWS has them: root, regional, zonal, instance, document.
ROOT: Final = Link("root", starts=timedelta(days=-3650), ends=timedelta(days=3650))
REGIONAL: Final = Link("regional", path_length=2, ends=timedelta(days=19))
ZONAL: Final = Link("zonal", path_length=1, ends=timedelta(days=5))
INSTANCE: Final = Link("instance", path_length=0, ends=timedelta(hours=23))
LEAF: Final = Link(
    "leaf",
    ca=False,
    starts=timedelta(seconds=-3),
    ends=timedelta(hours=3),
    digital_signature=True,
    cert_sign=False,
)
LINKS: Final = (ROOT, REGIONAL, ZONAL, INSTANCE, LEAF)


def certificate(link: Link, issuer: Link) -> bytes:
    """Return the DER encoding of the certificate for `link` by `issuer`."""
    signer = key(link.signer or issuer.name, link.signer_curve if link.signer else issuer.curve)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(link.name))
        .issuer_name(_name(link.issuer_name or issuer.name))
        .serial_number(1 + int.from_bytes(sha384(link.name.encode()).digest()[:8], "big"))
        .not_valid_before(MADE_AT + link.starts)
        .not_valid_after(MADE_AT + link.ends)
        .public_key(key(link.name, link.curve).public_key())
        .add_extension(x509.BasicConstraints(ca=link.ca, path_length=link.path_length), critical=True)
    )
    if link.usage:
        builder = builder.add_extension(_usage(link), critical=link.ca)
    if link.critical is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(link.critical, b"\x05\x00"), critical=True)
    made = builder.sign(signer, link.hashed(), ecdsa_deterministic=True)
    return made.public_bytes(Encoding.DER)


@cache
def chain(links: tuple[Link, ...] = LINKS) -> tuple[bytes, ...]:
    """Return the certificates from the root to the leaf, each issued by the one before it."""
    issuers = (links[0], *links[:-1])
    return tuple(certificate(link, issuer) for link, issuer in zip(links, issuers, strict=True))


def changed(which: str, **fields: Any) -> tuple[Link, ...]:
    """Return the usual links, of which the one of this name differs."""
    return tuple(replace(link, **fields) if link.name == which else link for link in LINKS)


def roots() -> frozenset[str]:
    """Return the pin of the self-made root."""
    return frozenset({fingerprint(x509.load_der_x509_certificate(chain()[0]))})


def members(certificates: Sequence[bytes] | None = None, **other: Any) -> dict[Any, Any]:
    """Return the members of a document in AWS' order; an argument replaces one, or adds one."""
    made = chain() if certificates is None else certificates
    usual = {
        "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
        "digest": "SHA384",
        "timestamp": NOW_MS,
        "pcrs": PCRS,
        "certificate": made[-1],
        "cabundle": list(made[:-1]),
        "public_key": HPKE_KEY,
        "user_data": REPORT_DATA,
        "nonce": NONCE,
    }
    return usual | other


def signature(payload: bytes, protected: bytes = PROTECTED, *, signer: str = "leaf", curve: str = "secp384r1") -> bytes:
    """Return the signature over a payload: of ES384, or of its like for a key of another curve if the halves fit."""
    signed = write(["Signature1", protected, b"", payload])
    der = key(signer, curve).sign(signed, ec.ECDSA(SHA384(), deterministic_signing=True))
    return b"".join(part.to_bytes(48, "big") for part in decode_dss_signature(der))


def sealed(
    payload: bytes,
    *,
    protected: bytes = PROTECTED,
    unprotected: Any = None,
    signer: str = "leaf",
    curve: str = "secp384r1",
) -> bytes:
    """Return a payload with its COSE_Sign1 structure."""
    made = signature(payload, protected, signer=signer, curve=curve)
    return write([protected, {} if unprotected is None else unprotected, payload, made])


def document(
    certificates: Sequence[bytes] | None = None, *, signer: str = "leaf", curve: str = "secp384r1", **other: Any
) -> bytes:
    """Return a signed document with these members."""
    return sealed(write(members(certificates, **other)), signer=signer, curve=curve)


def evidence(data: bytes | None = None) -> Evidence:
    """Return evidence with this document, or with a genuine one."""
    return Evidence(tee=TeeType.NITRO, data=document() if data is None else data)


def _name(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "TEST-ONLY"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{name}.nitro-enclaves"),
        ]
    )


def _usage(link: Link) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=link.digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=link.cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
