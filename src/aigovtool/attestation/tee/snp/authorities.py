"""AMD's authorities, which come with this package and are pinned here (trust/SOURCES.toml says where from).

Each product line has a root key (ARK), and below it one authority for VCEKs (ASK) and one for VLEKs (ASVK). Of those
the root is what is trusted; the other two are here so that they need not travel, and another that the root has signed
does as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from cryptography import x509

from aigovtool.attestation.certificates import fingerprint, read_certificates
from aigovtool.attestation.tee.snp.endorsement_key import KeyKind, common_name
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.errors import ConfigurationError, InvalidValueError

#: SHA-256 of the DER encodings.
PINS: Final = MappingProxyType(
    {
        "ark_milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "ask_milan": "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
        "asvk_milan": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
        "ark_genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "ask_genoa": "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
        "asvk_genoa": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
        "ark_turin": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
        "ask_turin": "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
        "asvk_turin": "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
    }
)


@dataclass(frozen=True, slots=True)
class Authorities:
    """The three authorities of one product line; the root is the trust anchor, by its whole encoding."""

    ark: x509.Certificate
    ask: x509.Certificate
    asvk: x509.Certificate

    def issuer_of(self, kind: KeyKind) -> x509.Certificate:
        """Return the authority for keys of this kind."""
        return self.ask if kind is KeyKind.VCEK else self.asvk


def authorities_of(encodings: Sequence[bytes]) -> Mapping[Product, Authorities]:
    """Return whom to believe instead of AMD: of each product a root, `ARK-<Product>`, and maybe its authorities.

    An authority (`SEV-<Product>`, `SEV-VLEK-<Product>`) that is not given must come with the evidence.

    Args:
        encodings: certificates in DER, in any order, told apart by the common names of their subjects.

    Raises:
        EvidenceError: `certificate_encoding`, `certificate_too_large`.
        InvalidValueError: `bad_root`: a certificate of another name, one of a kind twice, or no root.
    """
    certificates = [one for encoding in encodings for one in read_certificates(encoding)]
    named = {common_name(one.subject): one for one in certificates}
    found: dict[Product, Authorities] = {}
    used = 0
    for product in Product:
        ark, ask, asvk = (named.get(f"{kind}-{product}") for kind in ("ARK", "SEV", "SEV-VLEK"))
        if ark is not None:
            # No leaf names the root as its issuer, so in place of an authority the root endorses nothing.
            found[product] = Authorities(ark=ark, ask=ask or ark, asvk=asvk or ark)
            used += sum(one is not None for one in (ark, ask, asvk))
    if not found or used != len(certificates):
        raise InvalidValueError(
            "these are not the roots of AMD's product lines",
            reason="bad_root",
            fix="give certificates named ARK-Milan, SEV-Milan, SEV-VLEK-Milan, or the same of Genoa or Turin",
        )
    return found


def _load(name: str) -> x509.Certificate:
    data = files(__package__).joinpath("trust", f"{name}.pem").read_bytes()
    (certificate,) = read_certificates(data)
    if fingerprint(certificate) != PINS[name]:
        raise ConfigurationError(f"{name}.pem of this installation is not AMD's certificate", reason="trust_anchor")
    return certificate


def _vendor(product: Product) -> Authorities:
    suffix = product.lower()
    return Authorities(ark=_load(f"ark_{suffix}"), ask=_load(f"ask_{suffix}"), asvk=_load(f"asvk_{suffix}"))


#: AMD's own, read when this module is imported.
VENDOR: Final[Mapping[Product, Authorities]] = MappingProxyType({product: _vendor(product) for product in Product})
