"""Real evidence from public repositories; it is not in this repository (`AIGOVTOOL_EVIDENCE_DIR` names its folder)."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from aigovtool.attestation.model import Evidence, TeeType

FOLDER = os.environ.get("AIGOVTOOL_EVIDENCE_DIR")
needs_evidence = pytest.mark.skipif(
    FOLDER is None, reason="AIGOVTOOL_EVIDENCE_DIR is not set: no real report of AMD SEV-SNP was verified"
)


def file(name: str) -> bytes:
    return (Path(FOLDER or "") / name).read_bytes()


def certificates(name: str) -> tuple[bytes, ...]:
    """Return the certificates of a file in DER; some are not written in the usual form of PEM."""
    data = file(name)
    read = (
        x509.load_pem_x509_certificates(data) if data.startswith(b"-----") else [x509.load_der_x509_certificate(data)]
    )
    return tuple(one.public_bytes(Encoding.DER) for one in read)


def der_of(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def date(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass(frozen=True)
class Vector:
    """A report, the leaf that belongs to it, the rest of the chain, and a time at which all are valid."""

    data: str
    leaf: str
    chain: str
    time: datetime

    @property
    def now_ms(self) -> int:
        return int(self.time.timestamp() * 1000)

    def whole_chain(self) -> tuple[bytes, ...]:
        """Return leaf, authority and root in DER."""
        return (certificates(self.leaf)[0], *certificates(self.chain))

    def evidence(self, *, chain: bool = True) -> Evidence:
        parts = self.whole_chain()
        return Evidence(tee=TeeType.SEV_SNP, data=file(self.data), endorsements=parts if chain else parts[:1])


VECTORS = {
    "milan_v3": Vector(
        "snp/ms_milan_attestation_report.bin",
        "snp/ms_milan_vcek.pem",
        "snp/gosev_ask_ark_milan.pem",
        date("2026-06-01"),
    ),
    "turin_v5": Vector(
        "snp/ms_turin_attestation_report.bin",
        "snp/ms_turin_vcek.pem",
        "snp/gosev_ask_ark_turin_vcek.pem",
        date("2026-06-01"),
    ),
    "milan_vlek": Vector(
        "snp/trustee_test-vlek-report.bin",
        "snp/trustee_test-vlek.der",
        "snp/gosev_ask_ark_milan_vlek.pem",
        date("2025-06-01"),
    ),
    "milan_debug": Vector(
        "snp/gosev_milan_report.bin",
        "snp/gosev_milan_vcek.der",
        "snp/gosev_ask_ark_milan.pem",
        date("2023-07-01"),
    ),
    "milan_v2": Vector(
        "snp/trustee_test-report.bin",
        "snp/trustee_test-vcek.der",
        "snp/gosev_ask_ark_milan.pem",
        date("2024-01-01"),
    ),
    "azure": Vector(
        "az/trustee_az_snp_hcl-report.bin",
        "az/trustee_az_snp_vcek.pem",
        "snp/gosev_ask_ark_milan.pem",
        date("2024-01-01"),
    ),
}
GENOA_REPORT, GENOA_TABLE, GENOA_TIME = (
    "snp/veraison_genoa_outblob.bin",
    "snp/veraison_genoa_auxblob.bin",
    date("2026-01-01"),
)


def genoa() -> Evidence:
    """Return what configfs-tsm gave on a Genoa: report and table."""
    return Evidence(tee=TeeType.SEV_SNP, data=file(GENOA_REPORT), endorsements=(file(GENOA_TABLE),))
