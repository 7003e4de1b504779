"""Who signed what, for whom, and until when: Intel's chains, lists and signatures (spec: attestation/intel, section 3).

Everything hangs on one pinned root by two chains: root, PCK CA, PCK certificate of the platform, which signs what the
quoting enclave is; and root, TCB signing certificate, which signs what Intel says about platforms. Shapes and names are
those of "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification": names are compared because
nothing else in these certificates keeps a key of the one chain from signing in place of one of the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from aigovtool.attestation.certificates import (
    Period,
    Profile,
    day,
    fingerprint,
    read_certificates,
    require_chain,
    require_not_revoked,
)
from aigovtool.attestation.tee.intel.collateral import Collateral, SignedDocument, read_chain, read_document, read_list
from aigovtool.attestation.tee.intel.quote import Quote
from aigovtool.errors import EvidenceError

Chain = tuple[x509.Certificate, ...]

PROFILE: Final = Profile(
    vendor="Intel", signatures=frozenset({("ecdsa", "sha256")}), curves=frozenset({"secp256r1"}), rsa_bits=0
)
ROOT_NAME: Final = "Intel SGX Root CA"
PCK_NAME: Final = "Intel SGX PCK Certificate"
SIGNING_NAME: Final = "Intel SGX TCB Signing"
#: The name of the authority of a PCK certificate, and what the PCS calls it.
PCK_AUTHORITIES: Final = {"Intel SGX PCK Platform CA": "platform", "Intel SGX PCK Processor CA": "processor"}


def pinned_root() -> bytes:
    """Return the DER encoding of the Intel SGX Root CA that this package carries."""
    pem = files("aigovtool.attestation.tee.intel").joinpath("trust/intel_sgx_root_ca.pem").read_bytes()
    return read_certificates(pem)[0].public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class Root:
    """The only root that is believed: its DER encoding, and its fingerprint."""

    der: bytes
    fingerprint: str


def trusted(der: bytes | None) -> Root:
    """Return the root with this DER encoding; Intel's if none is given.

    Raises:
        EvidenceError: `certificate_encoding`, `certificate_too_large`, `chain_length` for more than one certificate.
    """
    der = pinned_root() if der is None else der
    found = read_certificates(der)
    if len(found) != 1 or found[0].public_bytes(Encoding.DER) != der:
        raise EvidenceError("a root is one certificate in DER", reason="chain_length")
    return Root(der, fingerprint(found[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """The chains of what Intel signed for all platforms."""

    tcb_info: Chain
    qe_identity: Chain


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """What Intel signed for all platforms, with a signature that holds."""

    tcb_info: SignedDocument
    qe_identity: SignedDocument


def pck_chain(quote: Quote, root: str) -> Chain:
    """Return the PCK chain in a quote: leaf, CA, and the root with this fingerprint.

    Raises:
        EvidenceError: `certificate_encoding`, `certificate_too_large`, `chain_*` of `certificates.require_chain`,
            `chain_length`, `chain_name`.
    """
    chain = read_chain(quote.pck_chain.decode("ascii", "replace"))
    require_names(chain, [{PCK_NAME}, set(PCK_AUTHORITIES), {ROOT_NAME}])
    require_chain(chain, [root], PROFILE)
    return chain


def signers(collateral: Collateral, pck: Chain, root: str) -> Signers:
    """Return the chains of the collateral; that of the PCK revocation list must be the one above the PCK certificate.

    Raises:
        EvidenceError: as `pck_chain`, and `chain_mismatch`.
    """
    if read_chain(collateral.pck_crl_issuer_chain) != pck[1:]:
        raise EvidenceError("the PCK revocation list comes with another authority's chain", reason="chain_mismatch")
    found = Signers(
        tcb_info=read_chain(collateral.tcb_info_issuer_chain),
        qe_identity=read_chain(collateral.qe_identity_issuer_chain),
    )
    for chain in (found.tcb_info, found.qe_identity):
        require_names(chain, [{SIGNING_NAME}, {ROOT_NAME}])
        require_chain(chain, [root], PROFILE)
    return found


def documents(collateral: Collateral, by: Signers) -> Documents:
    """Return what Intel says about platforms, once it is known to be Intel who says so.

    Raises:
        EvidenceError: `tcb_info_signature`, `qe_identity_signature`, `document_encoding`.
    """
    for text, signature, chain, reason in (
        (collateral.tcb_info, collateral.tcb_info_signature, by.tcb_info, "tcb_info_signature"),
        (collateral.qe_identity, collateral.qe_identity_signature, by.qe_identity, "qe_identity_signature"),
    ):
        require_signed(key_of(chain[0]), bytes.fromhex(signature), text.encode(), reason)
    return Documents(tcb_info=read_document(collateral.tcb_info), qe_identity=read_document(collateral.qe_identity))


def in_time(pck: Chain, by: Signers, said: Documents, collateral: Collateral, now_ms: int) -> Period:
    """Require that all of it is valid at `now_ms`; return the period in which all is.

    `since_ms` is that of the oldest statement that Intel makes anew each month: TCB information, QE identity, and the
    list of revoked platforms. The root's list is made once a year, and no certificate states anything about today.

    Raises:
        EvidenceError: `not_yet_valid`, `collateral_expired`.
    """
    by_root, by_authority = _lists(collateral)
    parts = {
        "the platform's certificate chain": _of_chain(pck),
        "the chain of the TCB information": _of_chain(by.tcb_info),
        "the chain of the QE identity": _of_chain(by.qe_identity),
        "the TCB information": said.tcb_info.period,
        "the QE identity": said.qe_identity.period,
        "the root's revocation list": period_of(by_root),
        "the revocation list of platforms": period_of(by_authority),
    }
    latest = max(parts, key=lambda name: parts[name].since_ms)
    first = min(parts, key=lambda name: parts[name].until_ms)
    if now_ms < (since_ms := parts[latest].since_ms):
        raise EvidenceError(
            f"the collateral is not valid yet: {latest} begins on {day(since_ms)}", reason="not_yet_valid"
        )
    if now_ms > (until_ms := parts[first].until_ms):
        raise EvidenceError(
            f"the collateral has expired: {first} ended on {day(until_ms)}", reason="collateral_expired"
        )
    monthly = (said.tcb_info.period, said.qe_identity.period, parts["the revocation list of platforms"])
    return Period(since_ms=min(period.since_ms for period in monthly), until_ms=until_ms)


def _of_chain(chain: Chain) -> Period:
    """Return when all certificates are valid."""
    return Period(
        since_ms=max(_ms(one.not_valid_before_utc.timestamp()) for one in chain),
        until_ms=min(_ms(one.not_valid_after_utc.timestamp()) for one in chain),
    )


def not_revoked(pck: Chain, by: Signers, collateral: Collateral, now_ms: int) -> None:
    """Require that both lists are good at `now_ms`, and that neither has a certificate of these chains.

    Raises:
        EvidenceError: `revoked`, `revocation_*` of `certificates.require_not_revoked`.
    """
    leaf, authority, root = pck
    by_root, by_authority = _lists(collateral)
    below_root = [authority, root, by.tcb_info[0], by.qe_identity[0]]
    require_not_revoked(below_root, by_root, root, now_ms, PROFILE)
    require_not_revoked([leaf], by_authority, authority, now_ms, PROFILE)


def require_qe_report(quote: Quote, pck: Chain) -> None:
    """Require that the platform's key signed what the quoting enclave is, and that this names the attestation key.

    Raises:
        EvidenceError: `qe_report_signature`, `qe_key`.
    """
    require_signed(key_of(pck[0]), quote.qe_report_signature, quote.qe_report_bytes, "qe_report_signature")
    named = sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
    if quote.qe_report.report_data != named:
        raise EvidenceError("the quoting enclave vouches for another attestation key", reason="qe_key")


def require_quote_signed(quote: Quote) -> None:
    """Require that the attestation key signed header and body.

    Raises:
        EvidenceError: `quote_signature`.
    """
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote.attestation_key)
    except ValueError:
        raise EvidenceError("the attestation key is not on its curve", reason="quote_signature") from None
    require_signed(key, quote.signature, quote.signed, "quote_signature")


def common_name(certificate: x509.Certificate) -> str:
    """Return the subject's common name, or nothing where there is not exactly one."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def require_names(chain: Chain, names: Sequence[set[str]]) -> None:
    """Require that these certificates, by their names, are what the positions of the chain are for.

    Raises:
        EvidenceError: `chain_length`, `chain_name`.
    """
    if len(chain) != len(names):
        raise EvidenceError(f"Intel's chain has {len(names)} certificates, not {len(chain)}", reason="chain_length")
    for certificate, allowed in zip(chain, names, strict=True):
        if common_name(certificate) not in allowed:
            raise EvidenceError("a certificate in Intel's chain is for something else", reason="chain_name")


def _lists(collateral: Collateral) -> tuple[x509.CertificateRevocationList, x509.CertificateRevocationList]:
    """Return the lists of the root and of the PCK CA."""
    return read_list(collateral.root_ca_crl), read_list(collateral.pck_crl)


def period_of(revoked: x509.CertificateRevocationList) -> Period:
    """Return when a list is good: until before its next update, which is how the library counts, too."""
    if revoked.next_update_utc is None:
        raise EvidenceError("a revocation list never ends", reason="revocation_stale")
    return Period(
        since_ms=_ms(revoked.last_update_utc.timestamp()), until_ms=_ms(revoked.next_update_utc.timestamp()) - 1
    )


def _ms(seconds: float) -> int:
    return int(seconds) * 1000


def key_of(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Return the key of a certificate whose chain was verified."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):  # `require_chain` has refused it
        raise EvidenceError("a certificate has a key of another kind", reason="chain_algorithm")
    return key


def require_signed(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes, reason: str) -> None:
    """Require an ECDSA signature (r and s, 64 bytes) over `data`; raises `EvidenceError` with `reason`."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise EvidenceError(f"{reason.replace('_', ' ')}: it does not verify", reason=reason) from None
