"""The certificate of the key that signs reports: VCEK of one chip, or VLEK of one cloud (AMD 57230, 3.1 and 3.2).

The key is derived for one version of the TCB, so the certificate names it; a VCEK's also names the chip, a VLEK's the
cloud service provider.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aigovtool.attestation.tee.snp.product import Product, layout_of
from aigovtool.errors import EvidenceError

_ARC: Final = "1.3.6.1.4.1.3704.1."
_STRUCTURE: Final = "1"
_PRODUCT: Final = "2"
_HARDWARE_ID: Final = "4"
_PROVIDER: Final = "5"
_LEVELS: Final = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
#: The certificate's names for the reserved bytes of a TCB_VERSION, in the order of those bytes.
_RESERVED_LEVELS: Final = ("3.4", "3.5", "3.6", "3.7")
_RESERVED_LEVELS_TURIN: Final = ("3.5", "3.6", "3.7")
#: For example Milan-B0: product and stepping. A VLEK is for all steppings.
_PRODUCT_NAME: Final = re.compile(r"(Milan|Genoa|Turin)(?:-[A-Z][0-9])?")
_PRINTABLE: Final = re.compile(rb"[ -~]{1,127}")


class KeyKind(StrEnum):
    """Which key signs."""

    VCEK = "vcek"
    VLEK = "vlek"


@dataclass(frozen=True, slots=True)
class EndorsementKey:
    """What a certificate says of its key.

    Attributes:
        tcb: the TCB_VERSION (8 bytes) that the key was derived for.
        hardware_id: the chip of a VCEK, 64 bytes, of Turin 8; None for a VLEK.
        provider: the cloud service provider of a VLEK, printable ASCII; None for a VCEK.
    """

    kind: KeyKind
    product: Product
    tcb: bytes
    hardware_id: bytes | None
    provider: str | None
    public_key: ec.EllipticCurvePublicKey


def read_endorsement_key(certificate: x509.Certificate) -> EndorsementKey:
    """Return what `certificate` says; nobody has verified it yet.

    Raises:
        EvidenceError: `leaf_key` (not P-384), `leaf_extension` (missing, unknown, or not strictly encoded),
            `leaf_product` (unknown product, or a structure that is not this product's), `leaf_name` (the names of the
            certificate are not those of this kind of key and product).
    """
    values = _values(certificate)
    product = _product(values)
    kind = _kind(values)
    key = _public_key(certificate)
    _require_names(certificate, kind, product)
    _require_nothing_else(values, kind, product)
    return EndorsementKey(
        kind=kind,
        product=product,
        tcb=_tcb(values, product),
        hardware_id=_hardware_id(values[_HARDWARE_ID], product) if kind is KeyKind.VCEK else None,
        provider=_text(values, _PROVIDER) if kind is KeyKind.VLEK else None,
        public_key=key,
    )


def issuer_name(kind: KeyKind, product: Product) -> str:
    """Return the common name of the authority that issues such keys: ASK for VCEKs, ASVK for VLEKs."""
    return f"SEV-{product}" if kind is KeyKind.VCEK else f"SEV-VLEK-{product}"


def common_name(name: x509.Name) -> str:
    """Return the only common name in `name`, or the empty string."""
    found = [one.value for one in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""


def _values(certificate: x509.Certificate) -> dict[str, bytes]:
    """Return AMD's own extensions by the end of their OIDs."""
    found = {}
    for extension in certificate.extensions:
        oid = extension.oid.dotted_string
        if oid.startswith(_ARC) and isinstance(extension.value, x509.UnrecognizedExtension):
            found[oid.removeprefix(_ARC)] = extension.value.value
    return found


def _product(values: Mapping[str, bytes]) -> Product:
    name = _PRODUCT_NAME.fullmatch(_text(values, _PRODUCT))
    if name is None:
        raise EvidenceError("the leaf is of no product that is known here", reason="leaf_product")
    product = Product(name[1])
    if _small_integer(values, _STRUCTURE) != (1 if product is Product.TURIN else 0):
        raise EvidenceError("the leaf has the structure of another product", reason="leaf_product")
    return product


def _kind(values: Mapping[str, bytes]) -> KeyKind:
    match _HARDWARE_ID in values, _PROVIDER in values:
        case True, False:
            return KeyKind.VCEK
        case False, True:
            return KeyKind.VLEK
        case _:
            raise _bad("neither one chip nor one provider is named")


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise EvidenceError("the leaf's key is not on P-384", reason="leaf_key")
    return key


def _require_names(certificate: x509.Certificate, kind: KeyKind, product: Product) -> None:
    names = common_name(certificate.subject), common_name(certificate.issuer)
    if names != (f"SEV-{kind.upper()}", issuer_name(kind, product)):
        raise EvidenceError("the leaf's names are not those of its kind and product", reason="leaf_name")


def _require_nothing_else(values: Mapping[str, bytes], kind: KeyKind, product: Product) -> None:
    levels = {_LEVELS[name] for name in layout_of(product) if name is not None} | set(_reserved_levels(product))
    identity = _HARDWARE_ID if kind is KeyKind.VCEK else _PROVIDER
    if values.keys() != levels | {_STRUCTURE, _PRODUCT, identity}:
        raise _bad("they are not the ones of its product")


def _reserved_levels(product: Product) -> tuple[str, ...]:
    return _RESERVED_LEVELS_TURIN if product is Product.TURIN else _RESERVED_LEVELS


def _tcb(values: Mapping[str, bytes], product: Product) -> bytes:
    reserved = iter(_reserved_levels(product))
    oids = [next(reserved) if name is None else _LEVELS[name] for name in layout_of(product)]
    return bytes(_small_integer(values, oid) for oid in oids)


def _hardware_id(value: bytes, product: Product) -> bytes:
    """Return the chip; AMD writes it without the header that DER demands, and may add that some day."""
    size = product.hardware_id_bytes
    if len(value) == size:
        return value
    if len(value) == size + 2 and value.startswith(bytes((0x04, size))):
        return value[2:]
    raise _bad("the hardware id has another size")


def _small_integer(values: Mapping[str, bytes], oid: str) -> int:
    """Return an INTEGER from 0 to 255 in its only DER encoding."""
    match tuple(values.get(oid, b"")):
        case (0x02, 0x01, number) if number < 0x80:
            return number
        case (0x02, 0x02, 0x00, number) if number >= 0x80:
            return number
        case _:
            raise _bad(f"{oid} is not a number from 0 to 255")


def _text(values: Mapping[str, bytes], oid: str) -> str:
    """Return an IA5String of 1 to 127 printable characters."""
    value = values.get(oid, b"")
    if value[:1] != b"\x16" or value[1:2] != bytes((len(value) - 2 & 0xFF,)) or not _PRINTABLE.fullmatch(value[2:]):
        raise _bad(f"{oid} is not a short text")
    return value[2:].decode("ascii")


def _bad(what: str) -> EvidenceError:
    return EvidenceError(f"AMD's extensions of the leaf: {what}", reason="leaf_extension")
