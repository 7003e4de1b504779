"""Is what AMD's key distribution service answered what was asked for? (AMD 57230, 4).

An answer is judged by itself, before it is kept or put beside evidence: a page of a proxy, another chip's certificate
or an outdated list must not make genuine evidence look bad, nor stay in a cache.
"""

import re
from collections.abc import Mapping
from typing import Final

from aigovtool.attestation.certificates import (
    fingerprint,
    read_certificates,
    read_revocation_list,
    require_chain,
    require_not_revoked,
    require_period,
)
from aigovtool.attestation.tee.fetched import Issued
from aigovtool.attestation.tee.snp.authorities import Authorities
from aigovtool.attestation.tee.snp.endorsement_key import KeyKind, read_endorsement_key
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.snp.verify import PROFILE
from aigovtool.attestation.tee.snp.wanted import leaf_address, list_address
from aigovtool.errors import EvidenceError

_LIST: Final = re.compile(r"https://kdsintf\.amd\.com/(vcek|vlek)/v1/(Milan|Genoa|Turin)/crl")


def issued(url: str, body: bytes, now_ms: int, roots: Mapping[Product, Authorities]) -> Issued:
    """Return when AMD issued what was answered at an address: a revocation list, or the certificate of a VCEK.

    Raises:
        EvidenceError: it is not that, not by AMD's authorities, or not valid at `now_ms`; reasons as in the steps
            `leaf`, `chain`, `validity` and `revocation` of verification, `answer_other` for another chip's certificate,
            and `chain_root` for a product of which no root is trusted.
    """
    found = _LIST.fullmatch(url)
    if found is None:
        return _of_leaf(url, body, now_ms, roots)
    product, kind = Product(found[2]), KeyKind(found[1])
    if url != list_address(product, kind):
        raise _other(url)
    root = _known(roots, product).ark
    return Issued(0, require_not_revoked((), read_revocation_list(body), root, now_ms, PROFILE).since_ms)


def _of_leaf(url: str, body: bytes, now_ms: int, roots: Mapping[Product, Authorities]) -> Issued:
    certificates = read_certificates(body)
    key = read_endorsement_key(certificates[0])
    if len(certificates) != 1 or key.hardware_id is None or url != leaf_address(key.product, key.hardware_id, key.tcb):
        raise _other(url)
    known = _known(roots, key.product)
    chain = (certificates[0], known.issuer_of(key.kind), known.ark)
    require_chain(chain, {fingerprint(known.ark)}, PROFILE)
    require_period(chain, now_ms, PROFILE)
    return Issued(0, int(certificates[0].not_valid_before_utc.timestamp()) * 1000)


def _known(roots: Mapping[Product, Authorities], product: Product) -> Authorities:
    if product not in roots:
        raise EvidenceError(f"no root of {product} is trusted", reason="chain_root")
    return roots[product]


def _other(url: str) -> EvidenceError:
    return EvidenceError(f"the answer is not what was asked for at {url.partition('?')[0]}", reason="answer_other")
