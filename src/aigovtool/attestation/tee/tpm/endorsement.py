"""Whose key is it: certificates of endorsement and attestation keys (TCG EK Credential Profile for TPM 2.0, 2.6)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier

from aigovtool.attestation.certificates import Profile, fingerprint, read_certificates, require_chain
from aigovtool.attestation.tee.tpm.evidence import Certifies
from aigovtool.attestation.tee.tpm.structures import PublicKey
from aigovtool.errors import EvidenceError

#: tcg-kp-EKCertificate and tcg-kp-AIKCertificate. Google's attestation key certificates carry the first, too.
EK_PURPOSE: Final = ObjectIdentifier("2.23.133.8.1")
AK_PURPOSE: Final = ObjectIdentifier("2.23.133.8.3")
#: tcg-at-tpmManufacturer, tcg-at-tpmModel, tcg-at-tpmVersion: directoryName of the subjectAltName (3.2.9).
NAMES: Final = {
    ObjectIdentifier("2.23.133.2.1"): "tpm_manufacturer",
    ObjectIdentifier("2.23.133.2.2"): "tpm_model",
    ObjectIdentifier("2.23.133.2.3"): "tpm_version",
}
#: The value of these facts where the certificate of an attestation key does not say.
NOT_STATED: Final = "not stated"
_PRINTABLE: Final = re.compile(r"[ -~]{1,200}")


def _profile(vendor: str, purposes: frozenset[ObjectIdentifier]) -> Profile:
    return Profile(
        vendor=vendor,
        signatures=frozenset(
            (scheme, size) for scheme in ("rsa-pkcs1", "ecdsa") for size in ("sha256", "sha384", "sha512")
        ),
        curves=frozenset({"secp256r1", "secp384r1"}),
        rsa_bits=2048,
        critical=frozenset({ExtensionOID.SUBJECT_ALTERNATIVE_NAME, ExtensionOID.EXTENDED_KEY_USAGE}),
        leaf_purposes=purposes,
    )


PROFILES: Final = {
    Certifies.EK: _profile("the TPM's endorsement key", frozenset({EK_PURPOSE})),
    Certifies.AK: _profile("the attestation key", frozenset({EK_PURPOSE, AK_PURPOSE})),
}


@dataclass(frozen=True, slots=True)
class TpmIdentity:
    """What a certificate says about the TPM, in printable ASCII."""

    manufacturer: str
    model: str
    version: str


def google_roots() -> tuple[x509.Certificate, ...]:
    """Return the roots of Google's virtual TPMs, from the package's `trust` folder (SOURCES.toml says whence)."""
    folder = resources.files("aigovtool.attestation.tee.tpm") / "trust"
    names = ("google_tpm_ek_root_1.pem", "google_ek_ak_ca_root.pem")
    return tuple(one for name in names for one in read_certificates((folder / name).read_bytes()))


def read_chain(certificate: bytes, endorsements: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """Return the certificates, each of which must be one DER encoding.

    Raises:
        EvidenceError: `certificate_encoding`, `certificate_too_large`.
    """
    chain = [one for data in (certificate, *endorsements) for one in read_certificates(data)]
    if [one.public_bytes(Encoding.DER) for one in chain] != [certificate, *endorsements]:
        raise EvidenceError("a certificate that is not in DER", reason="certificate_encoding")
    return tuple(chain)


def complete(
    chain: tuple[x509.Certificate, ...], roots: Sequence[x509.Certificate], certifies: Certifies
) -> tuple[x509.Certificate, ...]:
    """Return the chain, verified, with its root: the one at its end, or the one that issued what is at its end.

    Raises:
        EvidenceError: `chain_*`, `key_usage`.
    """
    pins = {fingerprint(root) for root in roots}
    if fingerprint(chain[-1]) not in pins:
        named = [root for root in roots if root.subject == chain[-1].issuer]
        if not named:
            raise EvidenceError(
                "the certificate chain does not end at a trusted root of a TPM maker",
                reason="chain_root",
                fix="add the root of this TPM's maker to the trusted roots, if it is trusted",
            )
        # A maker may have several roots of one name; of those that did not sign, any will say so.
        chain = (*chain, next((root for root in named if _issued(chain[-1], root)), named[0]))
    profile = PROFILES[certifies]
    require_chain(chain, pins, profile)
    for authority in chain[1:]:
        _require_purpose(authority, profile)
    _require_usage(chain[0], certifies)
    return chain


def identity_of(leaf: x509.Certificate, certifies: Certifies) -> TpmIdentity:
    """Return manufacturer, model and version; a certificate of an attestation key may leave all three out.

    Raises:
        EvidenceError: `tpm_identity`.
    """
    found = _stated(leaf)
    if not found and certifies is Certifies.AK:
        return TpmIdentity(NOT_STATED, NOT_STATED, NOT_STATED)
    if found.keys() != set(NAMES.values()):
        raise EvidenceError("the certificate does not name the TPM's maker, model and version", reason="tpm_identity")
    return TpmIdentity(found["tpm_manufacturer"], found["tpm_model"], found["tpm_version"])


def key_of(certificate: x509.Certificate) -> PublicKey:
    """Return the certified key.

    Raises:
        EvidenceError: `chain_algorithm` for a key that is neither RSA nor ECC.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise EvidenceError("the certified key is neither RSA nor ECC", reason="chain_algorithm")
    return key


def _issued(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _require_purpose(authority: x509.Certificate, profile: Profile) -> None:
    """Require that an authority which is limited to purposes may issue for this one (as Google's are)."""
    for extension in authority.extensions:
        if isinstance(extension.value, x509.ExtendedKeyUsage) and not (
            {*profile.leaf_purposes, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(extension.value)
        ):
            raise EvidenceError("an authority that may not certify keys of TPMs", reason="chain_usage")


def _require_usage(leaf: x509.Certificate, certifies: Certifies) -> None:
    """Require that the leaf is no authority, and its key usage is that of its kind (EK Credential Profile, 3.2.10)."""
    values = {extension.oid: extension.value for extension in leaf.extensions}
    constraints, usage = values.get(ExtensionOID.BASIC_CONSTRAINTS), values.get(ExtensionOID.KEY_USAGE)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        raise EvidenceError("the certificate is an authority's, not a TPM's", reason="key_usage")
    if not isinstance(usage, x509.KeyUsage):
        raise EvidenceError("the certificate does not say what its key is for", reason="key_usage")
    fits = usage.digital_signature if certifies is Certifies.AK else usage.key_encipherment or usage.key_agreement
    if not fits:
        raise EvidenceError(f"the certificate's key is not for use as {certifies.upper()}", reason="key_usage")


def _stated(leaf: x509.Certificate) -> dict[str, str]:
    names = [one for one in leaf.extensions if isinstance(one.value, x509.SubjectAlternativeName)]
    if not names:
        return {}
    # Where the subject is empty this is the only name, and must be understood (RFC 5280, 4.2.1.6).
    if not names[0].critical and not list(leaf.subject):
        raise EvidenceError("a certificate without a subject, whose other name is optional", reason="tpm_identity")
    found: dict[str, str] = {}
    for directory in names[0].value.get_values_for_type(x509.DirectoryName):
        for attribute in directory:
            if attribute.oid not in NAMES:
                continue
            label, value = NAMES[attribute.oid], attribute.value
            if label in found or not isinstance(value, str) or not _PRINTABLE.fullmatch(value):
                raise EvidenceError(f"{label} is stated twice, or not in printable ASCII", reason="tpm_identity")
            found[label] = value
    return found
