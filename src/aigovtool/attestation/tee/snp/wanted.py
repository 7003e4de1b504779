"""Which of AMD's endorsements a report needs, as addresses of AMD's key distribution service (AMD 57230, 4).

For whoever fetches endorsements before they are needed; nothing is fetched here. A report is not genuine yet when this
is asked, so host and form of every address are fixed, and only numbers, hexadecimal digits and known names go into it.
"""

from typing import Final

from aigovtool.attestation.tee.snp.azure import open_container
from aigovtool.attestation.tee.snp.endorsement_key import KeyKind
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


def leaf_address(product: Product, hardware_id: bytes, tcb: bytes) -> str:
    """Return where the certificate of a chip's VCEK for a TCB_VERSION (8 bytes) is.

    Raises:
        EvidenceError: `report_reserved` for a TCB version that the product does not have.
    """
    versions = read_tcb(tcb, product)
    query = "&".join(f"{name}={versions[component]:02d}" for component, name in _LEVELS if component in versions)
    return f"{_HOST}/vcek/v1/{product}/{hardware_id.hex()}?{query}"


def list_address(product: Product, kind: KeyKind) -> str:
    """Return where the list of revoked authorities for keys of a kind is."""
    return f"{_HOST}/{kind}/v1/{product}/crl"


def _addresses(report: Report, product: Product) -> tuple[str, ...]:
    kind = KeyKind.VCEK if report.signing_key == VCEK else KeyKind.VLEK
    leaf: tuple[str, ...] = ()
    if kind is KeyKind.VCEK:
        leaf = (leaf_address(product, _hardware_id(report, product), report.reported_tcb),)
    return (*leaf, f"{_HOST}/{kind}/v1/{product}/cert_chain", list_address(product, kind))


def _hardware_id(report: Report, product: Product) -> bytes:
    size = product.hardware_id_bytes
    if not any(report.chip_id):
        raise EvidenceError("the host hides which chip this is", reason="chip_masked")
    if any(report.chip_id[size:]):
        raise EvidenceError(f"a chip id of {product} has {size} bytes", reason="report_reserved")
    return report.chip_id[:size]
