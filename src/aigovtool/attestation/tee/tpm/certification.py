"""A custodian's certificate of an attestation key that it has activated: for consumers (attestation spec: tpm, 3.1).

An activation shows something to the custodian alone. So it certifies the key: "this is a restricted key in the TPM with
this endorsement key". The certificate names the TPM's maker, model and version as the TPM's own does, and has as its
subject's serial number what the custodian knows the TPM by, so that one appraisal policy fits both.
"""

import re
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from aigovtool.attestation.tee.tpm.activation import ek_digest
from aigovtool.attestation.tee.tpm.endorsement import AK_PURPOSE, NAMES, identity_of, key_of, read_chain
from aigovtool.attestation.tee.tpm.evidence import Certifies, unwrap
from aigovtool.attestation.tee.tpm.structures import parse_public
from aigovtool.errors import EvidenceError
from aigovtool.ids import ChipId

_SUBJECT: Final = "aigovtool activated attestation key"
_CHIP: Final = re.compile(r"[0-9a-f]{64}")


def certify(
    authority_key: EllipticCurvePrivateKey, authority: bytes, data: bytes, *, not_before_ms: int, not_after_ms: int
) -> bytes:
    """Return a certificate (DER) of the attestation key of evidence that was verified, its key activated.

    Args:
        authority_key: the custodian's, used for nothing else.
        authority: its certificate, DER.
        data: `Evidence.data`.
        not_before_ms: milliseconds since 1970; as not_after_ms, rounded down to seconds.
        not_after_ms: the end of the attestation on which it rests.

    Raises:
        EvidenceError: what is to be certified cannot be read; it was not verified then.
    """
    evidence = unwrap(data)
    endorsed = read_chain(evidence.certificate, ())[0]
    identity = identity_of(endorsed, Certifies.EK)
    stated = (identity.manufacturer, identity.model, identity.version)
    issuer = x509.load_der_x509_certificate(authority)
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, _SUBJECT),
        x509.NameAttribute(NameOID.SERIAL_NUMBER, ek_digest(key_of(endorsed)).hex()),
    ]
    names = x509.Name([x509.NameAttribute(oid, value) for oid, value in zip(NAMES, stated, strict=True)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(issuer.subject)
        .public_key(parse_public(evidence.ak_public).key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(not_before_ms // 1000, UTC))
        .not_valid_after(datetime.fromtimestamp(not_after_ms // 1000, UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([AK_PURPOSE]), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DirectoryName(names)]), critical=False)
    )
    return builder.sign(authority_key, SHA256()).public_bytes(Encoding.DER)


def certified_chip(certificate: x509.Certificate) -> ChipId:
    """Return by what the custodian knows the TPM whose attestation key it certified.

    Raises:
        EvidenceError: `tpm_identity`: its certificate does not say.
    """
    found = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    if len(found) != 1 or not isinstance(found[0], str) or not _CHIP.fullmatch(found[0]):
        raise EvidenceError("the custodian's certificate does not say which TPM it is of", reason="tpm_identity")
    return ChipId(found[0])


_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=False,
    crl_sign=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)
