"""Certificates and keys: made the same in every process, and read by hand from their DER (X.690, RFC 5280, RFC 5958).

All keys are TEST-ONLY: they are made of their names.
"""

import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey
from assurance.parsers.envelopes import key

SINCE: Final = datetime(2024, 1, 1, tzinfo=UTC)
UNTIL: Final = datetime(2034, 1, 1, tzinfo=UTC)
_ED25519: Final = bytes.fromhex("06032b6570")
_P256: Final = bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107")
_SAN, _EKU, _CONSTRAINTS = (bytes.fromhex(text) for text in ("0603551d11", "0603551d25", "0603551d13"))
_CLIENT_AUTH: Final = bytes.fromhex("06082b06010505070302")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_VERSIONS: Final = {b"\x02\x01\x00": 1, b"\x02\x01\x01": 2, b"\x02\x01\x02": 3}


# --- Making --------------------------------------------------------------------------------------


@cache
def tls_key(name: str) -> TlsKey:
    """Return the P-256 key of this name."""
    return TlsKey(derive_private_key(int.from_bytes(sha256(f"TEST-ONLY {name}".encode()).digest()[:31]), SECP256R1()))


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _signed(builder: x509.CertificateBuilder, issuer: SigningKey | TlsKey) -> bytes:
    algorithm = SHA256() if isinstance(issuer, TlsKey) else None
    deterministic = True if isinstance(issuer, TlsKey) else None
    return builder.sign(issuer.private(), algorithm, ecdsa_deterministic=deterministic).public_bytes(Encoding.DER)


def _builder(subject: str, issuer: str, public: SigningKey | TlsKey, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(subject))
        .issuer_name(_subject(issuer))
        .public_key(public.private().public_key())
        .serial_number(serial)
        .not_valid_before(SINCE)
        .not_valid_after(UNTIL)
    )


@cache
def authority(name: str, *, tls: bool = False) -> bytes:
    """Return the certificate of an authority in DER; with a P-256 key if it is for TLS."""
    own: SigningKey | TlsKey = tls_key(name) if tls else key(name)
    builder = _builder(name, name, own, 7).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(own.private().public_key()), critical=False
    )
    return _signed(builder, own)


@cache
def client(kind: str, name: str, borrower: str | None = None) -> bytes:
    """Return the certificate of a party in DER, by the authority `credentials`; its key is called as it is.

    `borrower` is whose consumer it is; earlier versions issued certificates that did not say.
    """
    of = "" if borrower is None else f"{borrower}:"
    uri = x509.UniformResourceIdentifier(f"urn:aigovtool:{kind}:{of}{name}")
    builder = _builder(name, "credentials", key(name), 0x1234567890)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    return _signed(builder, key("credentials"))


@cache
def server(name: str) -> bytes:
    """Return the certificate of a TLS server in DER."""
    builder = _builder(name, "tls", tls_key(name), 9)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return _signed(
        builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False), tls_key("tls")
    )


def pem(*ders: bytes) -> bytes:
    """Return certificates in PEM."""
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)


# --- Reading -------------------------------------------------------------------------------------


class NotDerError(Exception):
    """The bytes are no DER, or not of the structure that was expected."""


@dataclass(frozen=True)
class Element:
    """One element: its tag, its content, and all of its bytes."""

    tag: int
    content: bytes
    whole: bytes

    def inside(self) -> list["Element"]:
        """Return the elements in it."""
        return list(elements(self.content))


def elements(data: bytes) -> Iterator[Element]:
    """Yield the elements that `data` is, one after the other.

    Raises:
        NotDerError: it is something else, or a length has more bytes than it needs.
    """
    at = 0
    while at < len(data):
        size, start = data[at + 1] if at + 1 < len(data) else 0x80, at + 2
        if size >= 0x80:
            start += size - 0x80
            octets = data[at + 2 : start]
            size = int.from_bytes(octets)
            if not 1 <= len(octets) <= 4 or octets[0] == 0 or size < 0x80:
                raise NotDerError("a length that is none, or too long")
        if start + size > len(data):
            raise NotDerError("an element is cut")
        yield Element(data[at], data[start : start + size], data[at : start + size])
        at = start + size


@dataclass(frozen=True)
class ReadCertificate:
    """What a certificate says, as far as identities go."""

    version: int
    serial: int
    since_ms: int
    until_ms: int
    spki: bytes
    extensions: dict[bytes, bytes]

    def ed25519(self) -> bytes | None:
        """Return its key, if it is one of these."""
        algorithm, bits = next(elements(self.spki)).inside()
        return bits.content[1:] if algorithm.content == _ED25519 and bits.content[:1] == b"\0" else None

    def identity(self) -> tuple[str, str, str | None] | None:
        """Return kind and name of the identity of this project that is its only name, and whose consumer it is."""
        names = next(elements(self.extensions.get(_SAN, b"\x30\0"))).inside()
        if len(names) != 1 or names[0].tag != 0x86:
            return None
        parts = names[0].content.decode("ascii", "replace").split(":")
        if parts[:2] != ["urn", "aigovtool"] or not all(_NAME.fullmatch(one) for one in parts[2:]):
            return None
        match parts[2:]:
            case [kind, name]:
                return kind, name, None
            case ["consumer", borrower, name]:
                return "consumer", name, borrower
            case _:
                return None

    def is_for_clients(self) -> bool:
        """Return whether it is for client authentication alone, and no authority."""
        uses = [one.whole for one in next(elements(self.extensions.get(_EKU, b"\x30\0"))).inside()]
        authority_of = next(elements(self.extensions.get(_CONSTRAINTS, b"\x01\1\xff"))).inside()
        return uses == [_CLIENT_AUTH] and not any(one.tag == 1 and one.content != b"\0" for one in authority_of)


def read_certificate(der: bytes) -> ReadCertificate:
    """Return what a certificate says.

    Raises:
        NotDerError: it is no certificate.
    """
    try:
        (certificate,) = elements(der)
        signed, _algorithm, _signature = certificate.inside()
        parts = signed.inside()
        tagged = parts.pop(0) if parts[0].tag == 0xA0 else None  # without, it is version 1
        version = 1 if tagged is None else _VERSIONS[tagged.content]
        serial, _, _issuer, validity, _subject_of, spki, *rest = parts
        if serial.tag != 2:
            raise NotDerError("no serial number")
        since, until = validity.inside()
        optional = [one for one in rest if one.tag == 0xA3]
        extensions = [one.inside() for one in optional[0].inside()[0].inside()] if optional else []
    except (ValueError, LookupError):
        raise NotDerError("another structure") from None
    found = {pair[0].whole: pair[-1].content for pair in extensions}
    if len(found) != len(extensions):
        raise NotDerError("an extension twice")
    number = int.from_bytes(serial.content, signed=True)
    return ReadCertificate(version, number, _time_ms(since), _time_ms(until), spki.whole, found)


def _time_ms(element: Element) -> int:
    text = element.content.decode("ascii", "replace")
    if element.tag == 0x17:
        text = ("20" if text < "50" else "19") + text
    return int(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()) * 1000


def unarmoured(text: bytes, label: bytes) -> list[bytes]:
    """Return what is in the blocks of a PEM file that has nothing but these.

    Raises:
        NotDerError: it has something else.
    """
    begin, end = b"-----BEGIN " + label + b"-----", b"-----END " + label + b"-----"
    found = []
    rest = text.strip()
    while rest:
        before, mark, rest = rest.partition(begin)
        body, ended, rest = rest.partition(end)
        if before.strip() or not mark or not ended:
            raise NotDerError("something else than blocks")
        try:
            found.append(b64decode(b"".join(body.split()), validate=True))
        except ValueError:
            raise NotDerError("no base64") from None
    return found


def private_key(text: bytes) -> tuple[str, bytes]:
    """Return the kind and the secret of a key in PKCS #8, PEM.

    Raises:
        NotDerError: it is something else.
    """
    begin = b"-----BEGIN PRIVATE" + b" KEY-----"
    at = text.find(begin)
    body, ended, _ = text[at + len(begin) :].partition(b"-----END")
    if at < 0 or not ended:
        raise NotDerError("no private key")
    try:
        (outer,) = elements(b64decode(b"".join(body.split())))
        version, algorithm, octets, *_ = outer.inside()
        (inner,) = elements(octets.content)
        if version.whole not in {b"\x02\1\0", b"\x02\1\1"} or octets.tag != 4:
            raise NotDerError("no PKCS #8")
        if algorithm.content == _ED25519 and inner.tag == 4:
            return "ed25519", inner.content
        if algorithm.content == _P256:
            return "p256", inner.inside()[1].content
    except (ValueError, IndexError):
        raise NotDerError("another structure") from None
    raise NotDerError("a key of another kind")


def public_of(kind: str, secret: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo in DER that belongs to a secret."""
    if kind == "ed25519":
        public: Ed25519PublicKey | EllipticCurvePublicKey = Ed25519PrivateKey.from_private_bytes(secret).public_key()
    else:
        public = derive_private_key(int.from_bytes(secret), SECP256R1()).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
