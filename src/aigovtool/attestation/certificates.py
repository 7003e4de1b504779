"""Certificate chains of TEE vendors: read strictly, and verified to a pinned root (RFC 5280, section 6).

Vendors' chains are short and of one shape, in a known order, so nothing is searched: each certificate is issued by the
next, and the last is a root whose whole DER encoding is pinned by its SHA-256. What a vendor may use is a `Profile`.

`cryptography.x509.verification` is not used: it cannot be told to accept AMD's RSASSA-PSS signatures, and it looks at
no revocation list. Parsing and signatures are the library's.

For every certificate of a chain, roots included: signature algorithm and key within the profile, names and signature
of its issuer, issuer a CA that may sign certificates and allows so many below it, validity at the given time with
bounds included, and no critical extension that nobody here understands. Revocation lists are signed by the issuer of
what they revoke, in time, complete (no delta, no indirect list), and understood.
"""

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from aigovtool.errors import EvidenceError
from aigovtool.limits import MAX_CERTIFICATE_BYTES, MAX_ENDORSEMENTS, MAX_REVOCATION_LIST_BYTES

# AMD's and some makers' certificates have the serial number 0, at which the library warns that it will refuse them some
# day. They are refused here by nothing but their signatures, so the warning tells a user nothing.
warnings.filterwarnings("ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning)
# AWS writes longer names than X.520 allows.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

T = TypeVar("T")

_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,32})-----\r?\n[A-Za-z0-9+/=\r\n]+-----END \1-----(?:\r?\n|$)")
_UNPARSED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
#: Understood in every chain.
_UNDERSTOOD: Final = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})
#: Of a revocation list: its number, and whose key signed it.
_UNDERSTOOD_OF_LISTS: Final = frozenset({ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER})


@dataclass(frozen=True, slots=True)
class Profile:
    """What the certificates of one vendor look like.

    Attributes:
        vendor: for messages.
        signatures: accepted signature algorithms, as (scheme, hash), for example ("rsa-pss", "sha384").
        curves: accepted curves, by the library's names, for example "secp384r1".
        rsa_bits: the smallest accepted RSA key, or 0 where RSA is not used.
        critical: further critical extensions that this vendor's verifier judges by itself.
        leaf_purposes: extended key usages of which the leaf must have one; none are demanded if empty.
    """

    vendor: str
    signatures: frozenset[tuple[str, str]]
    curves: frozenset[str]
    rsa_bits: int
    critical: frozenset[ObjectIdentifier] = field(default_factory=frozenset)
    leaf_purposes: frozenset[ObjectIdentifier] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Period:
    """When something is valid: milliseconds since 1970, both bounds included."""

    since_ms: int
    until_ms: int


def read_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates in one DER encoding, or in PEM that holds nothing else, in their order.

    PEM must be what the library itself would write (with LF or CRLF), so that no byte of it means nothing.

    Raises:
        EvidenceError: `certificate_encoding`, `certificate_too_large`.
    """
    return tuple(_certificate(der) for der in _encodings(data, "CERTIFICATE", MAX_CERTIFICATE_BYTES))


def read_revocation_list(data: bytes) -> x509.CertificateRevocationList:
    """Return the revocation list in DER or PEM.

    Raises:
        EvidenceError: `certificate_encoding`, `certificate_too_large`.
    """
    (der,) = _one(_encodings(data, "X509 CRL", MAX_REVOCATION_LIST_BYTES))
    revoked = _parsed(lambda: x509.load_der_x509_crl(der), "a revocation list")
    _parsed(lambda: (revoked.issuer, list(revoked.extensions), revoked.next_update_utc), "a revocation list")
    _parsed(lambda: [one.extensions for one in revoked], "a revocation list")
    _require_whole_signature(der, revoked.signature)
    return revoked


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER encoding in hexadecimal: what roots are pinned by."""
    return sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def require_chain(chain: Sequence[x509.Certificate], roots: Collection[str], profile: Profile) -> None:
    """Require that each certificate is issued by the next, and that the last one is a pinned root.

    Raises:
        EvidenceError: `chain_length`, `chain_root`, `chain_algorithm`, `chain_issuer`, `chain_signature`, `chain_ca`,
            `chain_usage`, `chain_extension`.
    """
    if len(chain) < 2:
        raise _bad("chain_length", profile, "has no issuer")
    if fingerprint(chain[-1]) not in roots:
        raise _bad("chain_root", profile, "does not end at a pinned root")
    issuers = [*chain[1:], chain[-1]]
    for below, (certificate, issuer) in enumerate(zip(chain, issuers, strict=True)):
        _require_algorithms(certificate, profile)
        _require_understood(certificate, profile)
        _require_issued(certificate, issuer, profile)
        if below > 0:
            _require_authority(certificate, below - 1, profile)
    _require_purpose(chain[0], profile)


def require_period(chain: Sequence[x509.Certificate], now_ms: int, profile: Profile) -> Period:
    """Require that every certificate is valid at `now_ms`; return the period in which all are.

    Raises:
        EvidenceError: `not_yet_valid`, `expired`.
    """
    latest = max(chain, key=lambda one: one.not_valid_before_utc)
    first = min(chain, key=lambda one: one.not_valid_after_utc)
    period = Period(since_ms=_ms(latest.not_valid_before_utc), until_ms=_ms(first.not_valid_after_utc))
    if now_ms < period.since_ms:
        raise _bad("not_yet_valid", profile, f"has a certificate that begins on {day(period.since_ms)}{_named(latest)}")
    if now_ms > period.until_ms:
        raise _bad("expired", profile, f"has a certificate that expired on {day(period.until_ms)}{_named(first)}")
    return period


def require_not_revoked(
    certificates: Sequence[x509.Certificate],
    revoked: x509.CertificateRevocationList,
    issuer: x509.Certificate,
    now_ms: int,
    profile: Profile,
) -> Period:
    """Require that a list by `issuer` is good at `now_ms` and revokes none of its `certificates`; return its period.

    Raises:
        EvidenceError: `revocation_issuer`, `revocation_signature`, `revocation_extension`, `revocation_stale`,
            `revoked`.
    """
    if revoked.issuer != issuer.subject:
        raise _bad("revocation_issuer", profile, "comes with a revocation list of another issuer")
    _require_list_signed(revoked, issuer, profile)
    _require_list_understood(revoked, profile)
    if revoked.next_update_utc is None:
        raise _bad("revocation_stale", profile, "comes with a revocation list that never ends")
    period = Period(since_ms=_ms(revoked.last_update_utc), until_ms=_ms(revoked.next_update_utc))
    if not period.since_ms <= now_ms <= period.until_ms:
        said = f"comes with a revocation list that is good from {day(period.since_ms)} to {day(period.until_ms)}"
        raise _bad("revocation_stale", profile, said)
    for certificate in certificates:
        if certificate.issuer == revoked.issuer and _is_listed(revoked, certificate):
            raise _bad("revoked", profile, f"has a certificate that is revoked: {certificate.subject.rfc4514_string()}")
    return period


def day(at_ms: int) -> str:
    """Return the day of a moment for messages; a time of day where it matters is in the file that is named."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


# -- Encodings ----------------------------------------------------------------------------------------------


def _encodings(data: bytes, label: str, most: int) -> list[bytes]:
    if not data.startswith(b"-----BEGIN "):
        _require_size(len(data), most)
        return [data]
    _require_size(len(data), most * MAX_ENDORSEMENTS * 2)
    blocks = list(_PEM.finditer(data))
    if b"".join(block.group() for block in blocks) != data or any(block[1] != label.encode() for block in blocks):
        raise EvidenceError(f"not PEM of {label} alone", reason="certificate_encoding")
    return [_der_of(block.group(), label, most) for block in blocks]


def _der_of(block: bytes, label: str, most: int) -> bytes:
    """Return the DER encoding in one PEM block that is exactly as the library writes it."""
    ends = {line[-2:] == b"\r\n" for line in block.splitlines(keepends=True)[:-1]}
    if len(ends) > 1:
        raise EvidenceError("PEM with two kinds of line ends", reason="certificate_encoding")
    plain = block.replace(b"\r\n", b"\n").removesuffix(b"\n")
    if label == "CERTIFICATE":
        certificate = _parsed(lambda: x509.load_pem_x509_certificate(plain), "a certificate")
        der, again = certificate.public_bytes(Encoding.DER), certificate.public_bytes(Encoding.PEM)
    else:
        revoked = _parsed(lambda: x509.load_pem_x509_crl(plain), "a revocation list")
        der, again = revoked.public_bytes(Encoding.DER), revoked.public_bytes(Encoding.PEM)
    _require_size(len(der), most)
    if again.removesuffix(b"\n") != plain:
        raise EvidenceError("PEM that is not in its usual form", reason="certificate_encoding")
    return der


def _certificate(der: bytes) -> x509.Certificate:
    certificate = _parsed(lambda: x509.load_der_x509_certificate(der), "a certificate")
    _parsed(
        # The library parses these when it is asked for them; here they are asked for before anything rests on them.
        lambda: (
            *(certificate.issuer, certificate.subject, certificate.extensions, certificate.public_key()),
            *(certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.signature_hash_algorithm),
        ),
        "a certificate",
    )
    _require_whole_signature(der, certificate.signature)
    return certificate


def _require_whole_signature(der: bytes, signature: bytes) -> None:
    """Require that a signature has no unused bits: the library ignores their number, and nothing signs it."""
    if der[-len(signature) - 1 :] != b"\0" + signature:
        raise EvidenceError("a signature is not of whole bytes", reason="certificate_encoding")


def _parsed(load: Callable[[], T], what: str) -> T:
    try:
        return load()
    except _UNPARSED:
        raise EvidenceError(f"{what} cannot be parsed", reason="certificate_encoding") from None


def _one(found: list[bytes]) -> list[bytes]:
    if len(found) != 1:
        raise EvidenceError("more than one revocation list in a file", reason="certificate_encoding")
    return found


def _require_size(size: int, most: int) -> None:
    if size > most:
        raise EvidenceError(f"an endorsement of {size} bytes; at most {most} are read", reason="certificate_too_large")


# -- One certificate ----------------------------------------------------------------------------------------


def _require_algorithms(certificate: x509.Certificate, profile: Profile) -> None:
    scheme = _parsed(lambda: _scheme(certificate), "a signature algorithm")
    if scheme not in profile.signatures:
        raise _bad("chain_algorithm", profile, f"has a certificate signed with {' and '.join(scheme)}")
    key = _parsed(certificate.public_key, "a public key")
    curve = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in profile.curves
    if not curve and not (isinstance(key, rsa.RSAPublicKey) and 0 < profile.rsa_bits <= key.key_size <= 8192):
        raise _bad("chain_algorithm", profile, "has a certificate with a key of another kind")


def _scheme(signed: x509.Certificate | x509.CertificateRevocationList) -> tuple[str, str]:
    """Return scheme and hash; of RSASSA-PSS only with the mask and the salt that go with the hash (RFC 4055, 3.1)."""
    parameters, algorithm = signed.signature_algorithm_parameters, signed.signature_hash_algorithm
    name = "none" if algorithm is None else algorithm.name
    match parameters:
        case ec.ECDSA():
            return "ecdsa", name
        case padding.PKCS1v15():
            return "rsa-pkcs1", name
        case padding.PSS() if algorithm is not None and _usual_pss(parameters, algorithm):
            return "rsa-pss", name
        case _:
            return "another scheme", name


def _usual_pss(parameters: padding.PSS, algorithm: HashAlgorithm) -> bool:
    mask = parameters.mgf._algorithm.name  # noqa: SLF001 - it has no public name
    return mask == algorithm.name and parameters._salt_length == algorithm.digest_size  # noqa: SLF001


def _require_understood(certificate: x509.Certificate, profile: Profile) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD | profile.critical:
            raise _bad("chain_extension", profile, f"has a critical extension {extension.oid.dotted_string}")


def _require_issued(certificate: x509.Certificate, issuer: x509.Certificate, profile: Profile) -> None:
    if certificate.issuer != issuer.subject:
        raise _bad("chain_issuer", profile, "has a certificate by another issuer than the next one")
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_UNPARSED):
        raise _bad("chain_signature", profile, "has a certificate that its issuer did not sign") from None


def _require_authority(certificate: x509.Certificate, below: int, profile: Profile) -> None:
    extensions = {extension.oid: extension.value for extension in certificate.extensions}
    constraints, usage = extensions.get(ExtensionOID.BASIC_CONSTRAINTS), extensions.get(ExtensionOID.KEY_USAGE)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        raise _bad("chain_ca", profile, "has an issuer that is no authority")
    if constraints.path_length is not None and constraints.path_length < below:
        raise _bad("chain_length", profile, "is longer than one of its authorities allows")
    if not isinstance(usage, x509.KeyUsage) or not usage.key_cert_sign:
        raise _bad("chain_usage", profile, "has an issuer that may not sign certificates")


def _require_purpose(leaf: x509.Certificate, profile: Profile) -> None:
    if not profile.leaf_purposes:
        return
    found = [one.value for one in leaf.extensions if isinstance(one.value, x509.ExtendedKeyUsage)]
    if not found or not profile.leaf_purposes & set(found[0]):
        raise _bad("chain_usage", profile, "has a leaf for another purpose")


# -- Revocation lists ---------------------------------------------------------------------------------------


def _require_list_signed(revoked: x509.CertificateRevocationList, issuer: x509.Certificate, profile: Profile) -> None:
    scheme = _parsed(lambda: _scheme(revoked), "a signature algorithm")
    key = _parsed(issuer.public_key, "a public key")
    if scheme not in profile.signatures or not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise _bad("revocation_signature", profile, "comes with a revocation list signed with another algorithm")
    usage = [one.value for one in issuer.extensions if isinstance(one.value, x509.KeyUsage)]
    if not usage or not usage[0].crl_sign or not _parsed(lambda: revoked.is_signature_valid(key), "a signature"):
        raise _bad("revocation_signature", profile, "comes with a revocation list that its issuer did not sign")


def _require_list_understood(revoked: x509.CertificateRevocationList, profile: Profile) -> None:
    found = _parsed(lambda: [one.oid for one in revoked.extensions if one.critical], "a revocation list")
    if ExtensionOID.DELTA_CRL_INDICATOR in found or not set(found) <= _UNDERSTOOD_OF_LISTS:
        raise _bad("revocation_extension", profile, "comes with a revocation list that is not a whole one")


def _is_listed(revoked: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    """Return whether a certificate is listed; a critical extension of its entry changes nothing: it is listed."""
    entry = _parsed(
        lambda: revoked.get_revoked_certificate_by_serial_number(certificate.serial_number), "a revocation list"
    )
    return entry is not None


def _named(certificate: x509.Certificate) -> str:
    """Return which certificate is meant, in printable ASCII: names come from others."""
    name = certificate.subject.rfc4514_string()
    return f": {name[:120]}" if name.isascii() and name.isprintable() and name else ""


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _bad(reason: str, profile: Profile, what: str) -> EvidenceError:
    return EvidenceError(f"the chain of {profile.vendor} {what}", reason=reason)
