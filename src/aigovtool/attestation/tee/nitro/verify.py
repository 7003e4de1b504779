"""Is an attestation document of AWS Nitro Enclaves genuine? (spec: attestation/nitro, 2).

The steps are numbered in `STEPS`. The document brings its whole chain, so nothing travels beside it, and AWS publishes
no revocation for it: certificates of documents live for hours ("We do not use CRL", AWS: attestation_process.md,
3.2.4).

What the caller still owes: the binding of report data, nonce and HPKE key (`attestation.binding`), and the appraisal
(`attestation.appraisal`).
"""

from collections.abc import Collection
from hashlib import sha256
from importlib.resources import files
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from aigovtool.attestation.certificates import (
    Period,
    Profile,
    fingerprint,
    read_certificates,
    require_chain,
    require_period,
)
from aigovtool.attestation.examination import Examination, Examined, Step
from aigovtool.attestation.model import (
    REPORT_DATA_BYTES,
    Clock,
    Evidence,
    Fact,
    Label,
    Measurement,
    MeasurementHex,
    Tcb,
    TeeType,
    VerifiedEvidence,
)
from aigovtool.attestation.tee.nitro.document import (
    DIGEST,
    IMAGE_PCRS,
    SIGNATURE_BYTES,
    Document,
    SignedDocument,
    read_document,
    read_signed,
    require_headers,
)
from aigovtool.errors import EvidenceError

PROFILE: Final = Profile(
    vendor="AWS Nitro Enclaves",
    signatures=frozenset({("ecdsa", "sha384")}),
    curves=frozenset({"secp384r1"}),
    rsa_bits=0,
)
#: How far the document's clock may be ahead of the reader's: machines that ask any time server differ by less.
MAX_AHEAD_MS: Final = 10_000
#: Bytes of a nonce and of an HPKE key as our attester gives them; others are no claims of ours.
CLAIM_BYTES: Final = 32

_AWS: Final = "AWS attestation_process.md, "
STEPS: Final = (
    Step(Label("label"), "the evidence is labelled nitro, and brings nothing beside the document", "nitro spec, 2"),
    Step(Label("envelope"), "an untagged COSE_Sign1 structure, strictly encoded", "RFC 9052, 4.2"),
    Step(Label("headers"), "ES384 in the protected header, nothing in the other", _AWS + "3.1; RFC 9053, 2.1"),
    Step(Label("document"), "the document has the members that AWS specifies", _AWS + "2.2, 3.2.2"),
    Step(Label("certificates"), "every certificate can be read", _AWS + "3.2.3"),
    Step(Label("chain"), "leaf, by the bundle in reverse, by the pinned root", _AWS + "3.2.3, 3.2.4; RFC 5280, 6"),
    Step(Label("leaf"), "the leaf may sign documents, and is no authority", _AWS + "3.2.3.3"),
    Step(Label("validity"), "every certificate is valid now", _AWS + "3.2.3.1"),
    Step(Label("signature"), "the document is signed by the key of the leaf", "RFC 9052, 4.4"),
    Step(Label("time"), "the document was made in the validity of its chain, and not after now", _AWS + "2.2"),
)


def pinned_roots() -> frozenset[str]:
    """Return the SHA-256 of the roots that AWS publishes, in hexadecimal (`trust/SOURCES.toml`)."""
    folder = files("aigovtool.attestation.tee.nitro") / "trust"
    certificates = read_certificates(folder.joinpath("aws_nitro_enclaves_root_g1.pem").read_bytes())
    return frozenset(fingerprint(one) for one in certificates)


class NitroVerifier:
    """Verifies documents of Nitro Enclaves; an `aigovtool.attestation.verifier.Verifier`.

    Args:
        roots: SHA-256 of the DER encodings of accepted roots; those of AWS if not given.
    """

    __slots__ = ("_roots",)

    def __init__(self, roots: Collection[str] | None = None) -> None:
        self._roots: Final = pinned_roots() if roots is None else frozenset(roots)

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        """Make every step. Reasons: spec, 2."""
        look = Examination(STEPS)
        look.run("label", lambda: _require_label(evidence))
        signed = look.run("envelope", lambda: read_signed(evidence.data))
        look.run("headers", lambda: require_headers(signed.found()))
        document = look.run("document", lambda: read_document(signed.found().payload))
        chain = look.run("certificates", lambda: _read_chain(document.found()))
        look.run("chain", lambda: require_chain(chain.found(), self._roots, PROFILE))
        look.run("leaf", lambda: _require_signer(chain.found()[0]))
        period = look.run("validity", lambda: require_period(chain.found(), now_ms, PROFILE))
        look.run("signature", lambda: _require_signed(signed.found(), chain.found()[0]))
        look.run("time", lambda: _require_time(document.found(), period.found(), now_ms))
        return look.ended(lambda: _verified(document.found(), period.found()))


def _require_label(evidence: Evidence) -> None:
    if evidence.tee is not TeeType.NITRO:
        raise EvidenceError(f"evidence labelled {evidence.tee} is not of Nitro Enclaves", reason="tee_mismatch")
    if evidence.endorsements:
        raise EvidenceError("a Nitro document holds its chain; nothing travels beside it", reason="endorsements")


def _read_chain(document: Document) -> tuple[x509.Certificate, ...]:
    """Return the certificates from the leaf to the root."""
    encodings = (document.certificate, *reversed(document.cabundle))
    if not all(one.startswith(b"\x30") for one in encodings):
        raise EvidenceError("a certificate of the document is not in DER", reason="certificate_encoding")
    return tuple(certificate for one in encodings for certificate in read_certificates(one))


def _require_signer(leaf: x509.Certificate) -> None:
    found = {type(extension.value): extension.value for extension in leaf.extensions}
    constraints, usage = found.get(x509.BasicConstraints), found.get(x509.KeyUsage)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        raise EvidenceError("the leaf is an authority, which signs no documents", reason="leaf_authority")
    if not isinstance(usage, x509.KeyUsage) or not usage.digital_signature:
        raise EvidenceError("the leaf's key is not for signatures", reason="leaf_usage")


def _require_signed(signed: SignedDocument, leaf: x509.Certificate) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in PROFILE.curves:
        raise EvidenceError("the leaf has a key of another kind than ES384 uses", reason="signature")
    half = SIGNATURE_BYTES // 2
    r, s = (int.from_bytes(part, "big") for part in (signed.signature[:half], signed.signature[half:]))
    try:
        key.verify(encode_dss_signature(r, s), signed.signed_bytes(), ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise EvidenceError("the document is not signed by the key of its leaf", reason="signature") from None


def _require_time(document: Document, period: Period, now_ms: int) -> None:
    """Freshness is the nonce's business; this finds documents of broken clocks, and chains put under old documents."""
    if not period.since_ms <= document.timestamp_ms <= period.until_ms:
        raise EvidenceError("the document was not made while its certificates were valid", reason="document_time")
    if document.timestamp_ms > now_ms + MAX_AHEAD_MS:
        raise EvidenceError("the document was made after now: one of the clocks is wrong", reason="document_ahead")


def _verified(document: Document, period: Period) -> VerifiedEvidence:
    registers = dict(document.pcrs)
    bound, facts = _claims(document)
    user_data = document.user_data or b""
    return VerifiedEvidence(
        tee=TeeType.NITRO,
        measurements=tuple(
            Measurement(name=Label(f"pcr{index}"), digest=MeasurementHex(value.hex())) for index, value in document.pcrs
        ),
        # No claims have the SHA-512 of zeros, so a document without report data is bound to nothing.
        report_data=user_data if len(user_data) == REPORT_DATA_BYTES else bytes(REPORT_DATA_BYTES),
        debug=not all(any(registers[index]) for index in IMAGE_PCRS),
        tcb=Tcb(components=()),
        memory_encryption=True,
        chip_id=None,
        facts=(
            Fact(name=Label("module_id"), value=document.module_id),
            Fact(name=Label("digest"), value=DIGEST),
            *facts,
        ),
        endorsed_until_ms=period.until_ms,
        also_bound=bound,
        clock=Clock.PLATFORM,  # AWS's hypervisor keeps it, not the instance beside the enclave
    )


def _claims(document: Document) -> tuple[tuple[tuple[str, bytes], ...], tuple[Fact, ...]]:
    """Return what is compared with claims; and, as facts, what the document carries that no claim of ours is."""
    bound: list[tuple[str, bytes]] = []
    facts: list[Fact] = []
    for label, value, size, claim in (
        ("user_data", document.user_data, REPORT_DATA_BYTES, None),
        ("nonce", document.nonce, CLAIM_BYTES, "nonce"),
        ("public_key", document.public_key, CLAIM_BYTES, "hpke_key"),
    ):
        if value is not None and len(value) != size:
            facts.append(Fact(name=Label(label), value=f"{len(value)} bytes, sha256:{sha256(value).hexdigest()}"))
        elif value is not None and claim is not None:
            bound.append((claim, value))
    return tuple(bound), tuple(facts)
