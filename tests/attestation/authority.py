"""A pretended vendor of platforms: certificate authorities with TEST-ONLY keys, and whatever may be wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime(2027, 1, 15, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DAY = timedelta(days=1)


def key_of(name: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """Return the TEST-ONLY key of a name: anybody can compute it."""
    number = int.from_bytes(sha256(b"TEST-ONLY " + name.encode()).digest(), "big") >> 8
    return ec.derive_private_key(number, curve or ec.SECP384R1())


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def usage(*, sign: bool = False, authority: bool = False, lists: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=lists,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass
class Certified:
    """How one certificate is made; what is not said is as it should be."""

    name: str
    issuer: str
    authority: bool = True
    key: Any = None
    issuer_key: Any = None
    not_before: datetime = NOW - DAY
    not_after: datetime = NOW + 30 * DAY
    path_length: int | None = None
    constraints: bool = True
    usage: x509.KeyUsage | None = None
    hash: Any = field(default_factory=hashes.SHA384)
    serial: int = 7
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()

    def made(self) -> x509.Certificate:
        key = self.key or key_of(self.name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(self.name))
            .issuer_name(named(self.issuer))
            .public_key(key.public_key())
            .serial_number(self.serial)
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
        )
        if self.constraints:
            path_length = self.path_length if self.authority else None
            builder = builder.add_extension(x509.BasicConstraints(self.authority, path_length), critical=True)
        used = self.usage or (usage(authority=True, lists=True) if self.authority else usage(sign=True))
        builder = builder.add_extension(used, critical=True)
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.issuer_key or key_of(self.issuer), self.hash, ecdsa_deterministic=True)


def revocation_list(
    issuer: str, serials: Sequence[int] = (), *, key: Any = None, extensions: Sequence[Any] = (), **times: datetime
) -> x509.CertificateRevocationList:
    """Return a list by an authority of these names; `since` and `until` are its times."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(named(issuer))
        .last_update(times.get("since", NOW - DAY))
        .next_update(times.get("until", NOW + 7 * DAY))
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
        builder = builder.add_revoked_certificate(entry)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key or key_of(issuer), hashes.SHA384(), ecdsa_deterministic=True)
