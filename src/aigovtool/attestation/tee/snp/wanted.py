"""Which of AMD's endorsements a report needs, as addresses of AMD's key distribution service (AMD 57230, 4).

For whoever fetches endorsements before they are needed; nothing is fetched here. A report is not genuine yet when this
is asked, so host and form of every address are fixed, and only numbers, hexadecimal digits and known names go into it.
"""

from typing import Final

from aigovtool.attestation.tee.snp.azure import open_container
from aigovtool.attestation.tee.snp.product import Product, read_tcb
from aigovtool.attestation.tee.snp.report import UNSIGNED, VCEK, Report, parse_report
from aigovtool.errors import EvidenceError

_HOST: Final = "https://kdsintf.amd.com"
#: The names of the components in a query, in AMD's order.
_LEVELS: Final = (
    ("fmc", "fmcSPL"),
    ("bootloader", "blSPL"),
    ("tee", "teeSPL"),
    ("snp", "snpSPL"),
    ("microcode", "ucodeSPL"),
)
#: Version 2 of the report tells no product, and Turin never wrote it.
_WITHOUT_CPUID: Final = (Product.MILAN, Product.GENOA)


def wanted(data: bytes) -> tuple[str, ...]:
    """Return the addresses of leaf, chain and revocation list for a report (or an Azure container of one).

    A VLEK is given to its cloud provider only, so there is no address of it. A report of version 2 does not tell its
    product: the addresses for Milan are followed by those for Genoa, and one of the leaves does not exist.

    Raises:
        EvidenceError: `container`, those of `report.parse_report`, `unsigned` where nothing can endorse the report,
            `chip_masked` where a VCEK is needed and the report hides its chip, and `report_reserved` for a chip id or
            a TCB version that its product does not have.
    """
    report = parse_report(open_container(data).report)
    if report.mask_chip_key or report.signing_key == UNSIGNED:
        raise EvidenceError("the host has the processor sign no reports", reason="unsigned")
    products = _WITHOUT_CPUID if report.product is None else (report.product,)
    return tuple(address for product in products for address in _addresses(report, product))


def _addresses(report: Report, product: Product) -> tuple[str, ...]:
    kind = "vcek" if report.signing_key == VCEK else "vlek"
    base = f"{_HOST}/{kind}/v1/{product}"
    leaf = (f"{base}/{_hardware_id(report, product)}?{_query(report, product)}",) if kind == "vcek" else ()
    return (*leaf, f"{base}/cert_chain", f"{base}/crl")


def _hardware_id(report: Report, product: Product) -> str:
    size = product.hardware_id_bytes
    if not any(report.chip_id):
        raise EvidenceError("the host hides which chip this is", reason="chip_masked")
    if any(report.chip_id[size:]):
        raise EvidenceError(f"a chip id of {product} has {size} bytes", reason="report_reserved")
    return report.chip_id[:size].hex()


def _query(report: Report, product: Product) -> str:
    versions = read_tcb(report.reported_tcb, product)
    return "&".join(f"{name}={versions[component]:02d}" for component, name in _LEVELS if component in versions)
