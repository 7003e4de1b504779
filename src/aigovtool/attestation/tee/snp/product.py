"""Processor families with SEV-SNP, and how each writes the version of its TCB (AMD 56860, TCB_VERSION; 57230, 3.1)."""

from enum import StrEnum
from typing import Final

from aigovtool.errors import EvidenceError

TCB_BYTES: Final = 8


class Product(StrEnum):
    """A line of processors with a root key of its own; Bergamo and Siena are Genoa here, as AMD certifies them."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"

    @property
    def hardware_id_bytes(self) -> int:
        """How many bytes of a chip id are used; the others of a report's 64 are zero."""
        return 8 if self is Product.TURIN else 64


#: Byte by byte, first byte first; None is reserved. FMC is the firmware of the first boot stage.
_LAYOUT: Final[tuple[str | None, ...]] = ("bootloader", "tee", None, None, None, None, "snp", "microcode")
_LAYOUT_TURIN: Final[tuple[str | None, ...]] = ("fmc", "bootloader", "tee", "snp", None, None, None, "microcode")
#: Family, first and last model, product (AMD 56860, CPUID fields; processor programming references).
_MODELS: Final = (
    (0x19, 0x00, 0x0F, Product.MILAN),
    (0x19, 0x10, 0x1F, Product.GENOA),
    (0x19, 0xA0, 0xAF, Product.GENOA),
    (0x1A, 0x00, 0x11, Product.TURIN),
)


def product_of(family: int, model: int) -> Product:
    """Return the product with this CPUID family and model (extended ones combined, as a report has them).

    Raises:
        EvidenceError: `product_unknown`.
    """
    for of_family, first, last, product in _MODELS:
        if family == of_family and first <= model <= last:
            return product
    raise EvidenceError(
        f"no product with SEV-SNP is known with CPUID family {family} and model {model}", reason="product_unknown"
    )


def layout_of(product: Product) -> tuple[str | None, ...]:
    """Return the components of a TCB_VERSION of `product` by byte, the first byte first; None is a reserved byte."""
    return _LAYOUT_TURIN if product is Product.TURIN else _LAYOUT


def read_tcb(raw: bytes, product: Product) -> dict[str, int]:
    """Return the version of each component in a TCB_VERSION (8 bytes), in the order of its bytes.

    Raises:
        EvidenceError: `report_reserved` when a reserved byte of this product's layout is not zero.
    """
    pairs = list(zip(layout_of(product), raw, strict=True))
    if any(byte for name, byte in pairs if name is None):
        raise EvidenceError(
            f"a TCB version of {product} has reserved bytes that are not zero", reason="report_reserved"
        )
    return {name: byte for name, byte in pairs if name is not None}
