"""Certificates for TLS: two small authorities of the custodian, and the enclave's own certificate.

```
credentials authority (Ed25519) ── client certificate: an Ed25519 key, one SAN URI = who it is
custodian authority   (P-256)   ── server certificate of the custodian: DNS names, IP addresses
enclave               (P-256)   self-signed; what makes it good is attestation, which binds its key
```

Every certificate is an input or output as DER bytes. Profiles follow RFC 5280 so that OpenSSL accepts
them with `X509_V_FLAG_X509_STRICT`: critical BasicConstraints and KeyUsage, one ExtendedKeyUsage, and
key identifiers. X.509 counts whole seconds: validity is rounded towards the shorter period.

Chains are verified by OpenSSL in the TLS handshake. Of a certificate that comes another way (`gateway.sealed_callers`)
`is_issued_by` says who signed it, and `crypto.identity` what it is for; a chain has no more than these two. Revocation
is not in the certificate either: the custodian looks up the key id at each request.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aigovtool.crypto.identity import UNPARSED, IdentityKind, identity_uri
from aigovtool.crypto.sign import SigningKey, VerifyKey
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.errors import InputError, InvalidValueError, MalformedError, TooLargeError
from aigovtool.limits import MAX_CERTIFICATE_BYTES

#: 9999-12-31T23:59:59Z, "no well-defined expiration date" (RFC 5280 section 4.1.2.5).
NEVER_MS: Final = 253_402_300_799_000
#: 2020-01-01. The enclave's clock belongs to the borrower, so its certificate claims no birth time.
ENCLAVE_NOT_BEFORE_MS: Final = 1_577_836_800_000
MAX_CHAIN: Final = 8

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DNS_RE: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_PEM_RE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----\r?\n?")


def new_authority(key: SigningKey | TlsKey, name: str, *, not_before_ms: int, not_after_ms: int) -> bytes:
    """Return a self-signed authority certificate that may sign leaves, but no further authority."""
    subject = _subject(name)
    builder = _builder(subject, key.private().public_key(), not_before_ms, not_after_ms).issuer_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    return _signed(builder, key)


def issue_client_certificate(
    authority_key: SigningKey,
    authority: bytes,
    public_key: VerifyKey,
    kind: IdentityKind,
    name: str,
    *,
    not_before_ms: int,
    not_after_ms: int,
    borrower: str | None = None,
) -> bytes:
    """Return a client certificate that says: the holder of `public_key` is `kind` `name`, a consumer of `borrower`.

    Raises:
        InvalidValueError: a name is not a valid one, or the validity is empty.
    """
    identity = x509.UniformResourceIdentifier(identity_uri(kind, name, borrower))
    key = Ed25519PublicKey.from_public_bytes(public_key.raw)
    builder = _leaf(_subject(name, kind.value), key, authority, not_before_ms, not_after_ms)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([identity]), critical=False)
    return _signed(builder, authority_key)


def issue_server_certificate(
    authority_key: SigningKey | TlsKey,
    authority: bytes,
    key: TlsKey,
    hosts: Sequence[str],
    *,
    not_before_ms: int,
    not_after_ms: int,
) -> bytes:
    """Return a server certificate for `hosts` (DNS names and IP addresses).

    Raises:
        InvalidValueError: there is no host, one is not valid, or the validity is empty.
    """
    public = key.private().public_key()
    builder = _leaf(_subject("aigovtool custodian"), public, authority, not_before_ms, not_after_ms)
    return _signed(_for_server(builder, hosts), authority_key)


def self_signed_server_certificate(key: TlsKey, hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1")) -> bytes:
    """Return the enclave's certificate, to be pinned whole after attestation; it does not expire by itself."""
    subject = _subject("aigovtool enclave")
    builder = _builder(subject, key.private().public_key(), ENCLAVE_NOT_BEFORE_MS, NEVER_MS).issuer_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    return _signed(_for_server(builder, hosts), key)


def spki_sha256(certificate: bytes) -> bytes:
    """Return the SHA-256 (32 bytes) of the certificate's SubjectPublicKeyInfo: what attestation binds.

    Raises:
        TooLargeError, MalformedError: it is not one certificate in DER.
    """
    public = _parse(certificate).public_key()
    return sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says, for people: whose it is, by whom, for which hosts, and when it is valid."""

    subject: str
    issuer: str
    hosts: tuple[str, ...]
    sha256: str
    not_before_ms: int
    not_after_ms: int


def describe(certificate: bytes) -> CertificateFacts:
    """Return what a certificate says; nothing of it is verified. `hosts` are its DNS names and IP addresses.

    Raises:
        TooLargeError, MalformedError: it is not one certificate in DER.
    """
    parsed = _parse(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    except x509.ExtensionNotFound:
        hosts = []
    except ValueError:
        raise MalformedError("the names in a certificate cannot be parsed", reason="bad_certificate") from None
    return CertificateFacts(
        subject=parsed.subject.rfc4514_string(),
        issuer=parsed.issuer.rfc4514_string(),
        hosts=tuple(hosts),
        sha256=sha256(certificate).hexdigest(),
        not_before_ms=int(parsed.not_valid_before_utc.timestamp()) * 1000,
        not_after_ms=int(parsed.not_valid_after_utc.timestamp()) * 1000,
    )


def is_issued_by(certificate: bytes, authority: bytes) -> bool:
    """Return whether `authority` signed `certificate`, and is its issuer by name; not when it is valid, or for what."""
    try:
        _parse(certificate).verify_directly_issued_by(_parse(authority))
    except (InvalidSignature, ValueError, TypeError, InputError):
        return False
    return True


def to_pem(*certificates: bytes) -> bytes:
    """Return DER certificates as one PEM file, in the same order."""
    return b"".join(_parse(certificate).public_bytes(Encoding.PEM) for certificate in certificates)


def from_pem(pem: bytes) -> list[bytes]:
    """Return the DER certificates of a PEM file that holds nothing but certificates.

    Raises:
        TooLargeError: more than 8 certificates, or too many bytes.
        MalformedError: not PEM certificates, or anything beside them (a private key, for example).
    """
    if len(pem) > MAX_CHAIN * MAX_CERTIFICATE_BYTES:
        raise TooLargeError(f"{len(pem)} bytes of certificates", reason="certificate_too_large")
    blocks = _PEM_RE.findall(pem)
    if not blocks or b"".join(blocks).split() != pem.split():
        raise MalformedError("not a PEM file of certificates alone", reason="bad_pem")
    if len(blocks) > MAX_CHAIN:
        raise TooLargeError(f"more than {MAX_CHAIN} certificates", reason="too_many_certificates")
    try:
        return [x509.load_pem_x509_certificate(block).public_bytes(Encoding.DER) for block in blocks]
    except UNPARSED:
        raise MalformedError("a certificate in the PEM file cannot be parsed", reason="bad_pem") from None


def _parse(certificate: bytes) -> x509.Certificate:
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise TooLargeError(f"a certificate of {len(certificate)} bytes", reason="certificate_too_large")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        # The library reads these when it is asked for them, and whoever goes on with a certificate may ask.
        _ = parsed.public_key(), parsed.extensions, parsed.subject, parsed.issuer
    except UNPARSED:
        raise MalformedError("not a certificate in DER", reason="bad_certificate") from None
    return parsed


def _subject(name: str, unit: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if unit is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    return x509.Name(attributes)


def _builder(
    subject: x509.Name, public: CertificatePublicKeyTypes, not_before_ms: int, not_after_ms: int
) -> x509.CertificateBuilder:
    start, end = -(-not_before_ms // 1000), not_after_ms // 1000
    if not 0 <= start < end <= NEVER_MS // 1000:
        raise InvalidValueError("a certificate's validity is empty or out of range", reason="bad_validity")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_EPOCH + timedelta(seconds=start))
        .not_valid_after(_EPOCH + timedelta(seconds=end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _leaf(
    subject: x509.Name, public: CertificatePublicKeyTypes, authority: bytes, not_before_ms: int, not_after_ms: int
) -> x509.CertificateBuilder:
    issuer = _parse(authority)
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except (x509.ExtensionNotFound, ValueError):
        raise MalformedError("the authority's certificate has no key identifier", reason="bad_certificate") from None
    builder = _builder(subject, public, not_before_ms, not_after_ms).issuer_name(issuer.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    return builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
    )


def _for_server(builder: x509.CertificateBuilder, hosts: Sequence[str]) -> x509.CertificateBuilder:
    if not hosts:
        raise InvalidValueError("a server certificate needs a host", reason="bad_host")
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        if _DNS_RE.fullmatch(text) is None:
            raise InvalidValueError(f"{text[:80]!r} is no DNS name or IP address", reason="bad_host") from None
        return x509.DNSName(text)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: SigningKey | TlsKey) -> bytes:
    # Ed25519 signs the message itself, so X.509 names no hash for it (RFC 8410).
    algorithm = SHA256() if isinstance(key, TlsKey) else None
    return builder.sign(key.private(), algorithm).public_bytes(Encoding.DER)
