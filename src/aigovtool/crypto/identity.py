"""Who is at the other end of a mutual-TLS connection.

An identity is exactly one URI in the subject alternative name of an Ed25519 client certificate:
`urn:aigovtool:consumer:BORROWER:NAME`, `urn:aigovtool:operator:NAME` or `urn:aigovtool:borrower:NAME`. Certificates of
consumers that were issued by earlier versions name no borrower: `urn:aigovtool:consumer:NAME`.

Rules, in the order `parse_identity` checks them, on a certificate whose chain and possession OpenSSL has
verified already in the handshake:

1. One X.509 v3 certificate in DER within the size limit, with a positive serial number.
2. The key is Ed25519; it is no authority; extended key usage is exactly client authentication.
3. The subject alternative name holds one name, a URI of those above. The subject proves nothing.
4. `now_ms`, a time that the caller trusts, is within the validity, bounds included. (OpenSSL is told to
   ignore times: on a borrower's host its clock is the borrower's.)

It does not know whether the identity is enrolled, suspended or revoked: that is the custodian's ledger.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID

from aigovtool.crypto.sign import VerifyKey
from aigovtool.errors import InvalidValueError, SignatureInvalidError, UnauthenticatedError
from aigovtool.ids import KeyId, parse_name
from aigovtool.limits import MAX_CERTIFICATE_BYTES

_URI_PREFIX: Final = "urn:aigovtool:"
#: What the library raises of a certificate that it cannot read, when it is loaded or asked for a part of it.
UNPARSED: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)


class IdentityKind(StrEnum):
    """The roles that hold a credential."""

    CONSUMER = "consumer"
    OPERATOR = "operator"
    BORROWER = "borrower"


@dataclass(frozen=True, slots=True)
class Identity:
    """A credential whose key was proven in the TLS handshake; times are milliseconds since 1970."""

    kind: IdentityKind
    name: str
    public_key: VerifyKey
    not_before_ms: int
    not_after_ms: int
    serial: int
    #: Whose consumer it is, where the certificate says so.
    borrower: str | None = None

    @property
    def key_id(self) -> KeyId:
        """The identifier of the public key, under which the custodian enrolled it."""
        return self.public_key.key_id

    def check_time(self, now_ms: int) -> None:
        """Raise `UnauthenticatedError` unless `now_ms` is within the validity (rule 4)."""
        if now_ms < self.not_before_ms:
            raise UnauthenticatedError("the credential is not valid yet", reason="credential_not_yet_valid")
        if now_ms > self.not_after_ms:
            raise UnauthenticatedError(
                "the credential has expired", reason="credential_expired", fix="ask the custodian for a new credential"
            )


def identity_uri(kind: IdentityKind, name: str, borrower: str | None = None) -> str:
    """Return the URI of an identity; `borrower` is whose consumer it is.

    Raises:
        InvalidValueError: a name is not a valid one, or somebody who is no consumer is to have a borrower.
    """
    if borrower is not None and kind is not IdentityKind.CONSUMER:
        raise InvalidValueError("only a consumer belongs to a borrower", reason="bad_party")
    of = "" if borrower is None else f"{parse_name(borrower, 'borrower')}:"
    return f"{_URI_PREFIX}{kind.value}:{of}{parse_name(name, kind.value)}"


def parse_identity(certificate: bytes, now_ms: int) -> Identity:
    """Return the identity in a client certificate (DER) that the TLS handshake has verified.

    Raises:
        UnauthenticatedError: `bad_credential` for rules 1 to 3, `credential_not_yet_valid` or
            `credential_expired` for rule 4.
    """
    identity = read_credential(certificate)
    identity.check_time(now_ms)
    return identity


def read_credential(certificate: bytes) -> Identity:
    """Return what a client certificate says, whatever the time: rules 1 to 3 only.

    Raises:
        UnauthenticatedError: with reason `bad_credential`.
    """
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise _bad("is too large")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        extensions = parsed.extensions
    except (*UNPARSED, CryptographyDeprecationWarning):  # the library warns of what it will refuse some day
        raise _bad("cannot be parsed") from None
    if parsed.version is not x509.Version.v3:
        raise _bad("is not of version 3")
    if parsed.serial_number <= 0:
        raise _bad("has a serial number that is none")
    if not isinstance(key, Ed25519PublicKey):
        raise _bad("does not hold an Ed25519 key")
    try:
        public_key = VerifyKey(key.public_bytes_raw())
    except SignatureInvalidError:
        raise _bad("holds a key under which anybody can sign") from None
    _check_use(extensions)
    kind, name, borrower = _named(extensions)
    return Identity(
        kind=kind,
        name=name,
        public_key=public_key,
        not_before_ms=int(parsed.not_valid_before_utc.timestamp()) * 1000,
        not_after_ms=int(parsed.not_valid_after_utc.timestamp()) * 1000,
        serial=parsed.serial_number,
        borrower=borrower,
    )


def _check_use(extensions: x509.Extensions) -> None:
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        use = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        raise _bad("does not say what it is for") from None
    if constraints.ca or list(use) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        raise _bad("is not for client authentication")


def _named(extensions: x509.Extensions) -> tuple[IdentityKind, str, str | None]:
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        raise _bad("names no identity") from None
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise _bad("does not name exactly one identity")
    uri = names[0].value
    for kind in IdentityKind:
        names_of = uri.removeprefix(f"{_URI_PREFIX}{kind.value}:")
        if names_of != uri:
            borrower, of, name = names_of.rpartition(":") if kind is IdentityKind.CONSUMER else ("", "", names_of)
            try:
                return kind, parse_name(name, kind.value), parse_name(borrower, "borrower") if of else None
            except InvalidValueError:
                break
    raise _bad("names no identity of this system")


def _bad(what: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"the client certificate {what}", reason="bad_credential")
