"""Is evidence of SEV-SNP genuine? (spec: attestation/snp, 4).

The steps are numbered in `STEPS`. What the caller still owes: the binding of the report data (`attestation.binding`),
and the appraisal (`attestation.appraisal`) of everything that is reported. Behind Azure's paravisor the report data is
the hash of what the paravisor said, and never that of a binding.
"""

from collections.abc import Mapping, Sequence
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
    require_chain,
    require_not_revoked,
    require_period,
)
from aigovtool.attestation.examination import Examination, Examined, Step
from aigovtool.attestation.model import Evidence, Label, TeeType
from aigovtool.attestation.tee.snp.authorities import VENDOR, Authorities
from aigovtool.attestation.tee.snp.azure import open_container, require_claims
from aigovtool.attestation.tee.snp.endorsement_key import EndorsementKey, KeyKind, read_endorsement_key
from aigovtool.attestation.tee.snp.endorsements import Endorsements, read_endorsements
from aigovtool.attestation.tee.snp.facts import verified_evidence
from aigovtool.attestation.tee.snp.product import Product, read_tcb
from aigovtool.attestation.tee.snp.report import UNSIGNED, VLEK, Report, parse_report
from aigovtool.errors import EvidenceError

STEPS: Final = (
    Step(Label("label"), "the evidence is labelled sev-snp", "attestation/snp spec, 4"),
    Step(Label("container"), "the report is bare, or in a container of Azure's paravisor", "attestation/snp spec, 2"),
    Step(Label("report"), "the report is strictly encoded", "AMD 56860, ATTESTATION_REPORT"),
    Step(
        Label("runtime_claims"),
        "in such a container, the report data is the hash of the paravisor's claims",
        "attestation/snp spec, 2",
    ),
    Step(Label("endorsements"), "everything that came along is known and there once", "AMD 56421, certificate table"),
    Step(Label("leaf"), "the certificate of the signing key is a VCEK's or a VLEK's", "AMD 57230, 3.1 and 3.2"),
    Step(Label("chain"), "leaf, by AMD's authority, by the product's pinned root", "AMD 57230, 2; RFC 5280, 6"),
    Step(Label("validity"), "every certificate is valid now", "RFC 5280, 6.1.3"),
    Step(Label("revocation"), "no list that came along revokes one, and each list is good now", "RFC 5280, 6.3"),
    Step(Label("product"), "report and leaf are of the same product", "AMD 56860, CPUID fields"),
    Step(Label("signing_key"), "the report says that such a key signed it", "AMD 56860, SIGNING_KEY"),
    Step(Label("signature"), "the report is signed with the certified key", "AMD 56860, signature of reports"),
    Step(Label("chip"), "a VCEK is that of the chip which the report names", "AMD 57230, hwID"),
    Step(Label("tcb"), "the key is that of the reported TCB, and nothing exceeds what runs", "AMD 56860, TCB_VERSION"),
)

#: What AMD's certificates and lists look like.
PROFILE: Final = Profile(
    vendor="AMD",
    signatures=frozenset({("rsa-pss", "sha384")}),
    curves=frozenset({"secp384r1"}),
    rsa_bits=4096,
)


class SnpVerifier:
    """Verifies evidence of SEV-SNP; an `aigovtool.attestation.verifier.Verifier`.

    Args:
        roots: for each product line its authorities, of which the root is the trust anchor. AMD's own by default.
    """

    __slots__ = ("_roots",)

    def __init__(self, roots: Mapping[Product, Authorities] = VENDOR) -> None:
        self._roots: Final = dict(roots)

    def examine(self, evidence: Evidence, now_ms: int) -> Examined:
        """Make every step; their reasons are in section 4 of the specification."""
        look = Examination(STEPS)
        look.run("label", lambda: _require_label(evidence))
        container = look.run("container", lambda: open_container(evidence.data))
        report = look.run("report", lambda: parse_report(container.found().report))
        look.run("runtime_claims", lambda: require_claims(container.found(), report.found().report_data))
        parts = look.run("endorsements", lambda: read_endorsements(evidence.endorsements))
        key = look.run("leaf", lambda: read_endorsement_key(parts.found().leaf))
        chain = look.run("chain", lambda: _chain(parts.found(), key.found(), self._roots))
        period = look.run("validity", lambda: require_period(chain.found(), now_ms, PROFILE))
        lists = look.run("revocation", lambda: _require_not_revoked(parts.found(), chain.found(), now_ms))
        look.run("product", lambda: _require_product(report.found(), key.found()))
        look.run("signing_key", lambda: _require_signing_key(report.found(), key.found()))
        look.run("signature", lambda: _require_signed(report.found(), key.found()))
        look.run("chip", lambda: _require_chip(report.found(), key.found()))
        look.run("tcb", lambda: _require_tcb(report.found(), key.found()))
        return look.ended(
            lambda: verified_evidence(
                container.found(),
                report.found(),
                key.found(),
                endorsed_until_ms=min(one.until_ms for one in (period.found(), *lists.found())),
                newest_list_ms=max((one.since_ms for one in lists.found()), default=None),
            )
        )


def _require_label(evidence: Evidence) -> None:
    if evidence.tee is not TeeType.SEV_SNP:
        raise EvidenceError(f"evidence labelled {evidence.tee} is not sev-snp", reason="tee_mismatch")


def _chain(
    parts: Endorsements, key: EndorsementKey, roots: Mapping[Product, Authorities]
) -> tuple[x509.Certificate, ...]:
    """Return the verified chain. What did not come along is taken from here; what came along is part of it."""
    known = roots.get(key.product)
    if known is None:
        raise EvidenceError(f"no root of {key.product} is trusted", reason="chain_root")
    chain = (parts.leaf, parts.authority or known.issuer_of(key.kind), parts.root or known.ark)
    require_chain(chain, {fingerprint(known.ark)}, PROFILE)
    return chain


def _require_not_revoked(parts: Endorsements, chain: Sequence[x509.Certificate], now_ms: int) -> tuple[Period, ...]:
    """Return the period of each list. AMD revokes authorities, and their root signs the lists."""
    return tuple(require_not_revoked(chain, one, chain[-1], now_ms, PROFILE) for one in parts.lists)


def _require_product(report: Report, key: EndorsementKey) -> None:
    """A report of version 2 does not tell its product, but its TCB versions have a layout."""
    if report.product not in {None, key.product}:
        raise EvidenceError(f"a report of {report.product} with a key of {key.product}", reason="product_mismatch")
    for tcb in (report.current_tcb, report.reported_tcb, report.committed_tcb, report.launch_tcb):
        read_tcb(tcb, key.product)


def _require_signing_key(report: Report, key: EndorsementKey) -> None:
    if report.mask_chip_key or report.signing_key == UNSIGNED:
        raise EvidenceError("the host has the processor sign no reports", reason="unsigned")
    if (report.signing_key == VLEK) != (key.kind is KeyKind.VLEK):
        raise EvidenceError("the report names another kind of signing key than its leaf", reason="signing_key_mismatch")


def _require_signed(report: Report, key: EndorsementKey) -> None:
    try:
        key.public_key.verify(encode_dss_signature(report.r, report.s), report.signed, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise EvidenceError("the report is not signed with the certified key", reason="signature") from None


def _require_chip(report: Report, key: EndorsementKey) -> None:
    if key.hardware_id is not None and report.chip_id != key.hardware_id.ljust(64, b"\0"):
        raise EvidenceError("the signing key belongs to another chip", reason="chip_mismatch")


def _require_tcb(report: Report, key: EndorsementKey) -> None:
    """The firmware derives the key from the reported TCB, and lets the host neither report nor commit a newer one."""
    if report.reported_tcb != key.tcb:
        raise EvidenceError("the signing key belongs to another TCB version", reason="tcb_mismatch")
    for tcb in (report.reported_tcb, report.committed_tcb):
        if any(part > running for part, running in zip(tcb, report.current_tcb, strict=True)):
            raise EvidenceError("the report names a newer TCB version than the one that runs", reason="tcb_order")
    if report.committed_firmware > report.current_firmware:
        raise EvidenceError("the report names newer firmware than the one that runs", reason="tcb_order")
