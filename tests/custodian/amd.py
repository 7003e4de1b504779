"""A vendor like AMD, whose chain and lists are of the time of a test, and who answers, or not, as a test wants it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation.tee.snp import maker as snp

from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.attestation.tee.snp.authorities import Authorities
from aigovtool.attestation.tee.snp.endorsement_key import KeyKind, read_endorsement_key
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.snp.wanted import leaf_address, list_address
from aigovtool.errors import UnreachableError

MILAN = Product.MILAN
LIST = list_address(MILAN, KeyKind.VCEK)


@dataclass
class Amd:
    """The vendor. `gone` are addresses at which nothing is; `page` is what it answers in place of anything else."""

    now_ms: int
    away: bool = False
    revoked: tuple[int, ...] = ()
    page: bytes | None = None
    asked: list[str] = field(default_factory=list)
    list_made: bytes = b""
    gone: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        now = datetime.fromtimestamp(self.now_ms // 1000, UTC)
        self.span: dict[str, Any] = {"since": now - 30 * snp.DAY, "until": now + 300 * snp.DAY}
        ark = snp.authority("ARK-Milan", "ARK-Milan", "root", serial=10, **self.span)
        ask = snp.authority("SEV-Milan", "ARK-Milan", path_length=0, serial=11, **self.span)
        self.roots = {MILAN: Authorities(ark=ark, ask=ask, asvk=ask)}
        self.leaf = snp.leaf(**self.span)
        self.leaf_url = leaf_address(MILAN, snp.CHIP[MILAN], read_endorsement_key(self.leaf).tcb)

    def list(self) -> bytes:
        since = datetime.fromtimestamp(self.now_ms // 1000, UTC) - snp.DAY
        made = snp.revocation_list(*self.revoked, since=since, until=self.span["until"])
        self.list_made = made.public_bytes(Encoding.DER)
        return self.list_made

    async def fetch(self, url: str, now_ms: int) -> Fetched:
        self.asked.append(url)
        if url in self.gone:
            raise UnreachableError("nothing is there", reason="not_at_vendor")
        if self.away:
            raise UnreachableError("away", reason="vendor_unreachable")
        body = self.list() if url == LIST else self.leaf.public_bytes(Encoding.DER)
        return Fetched(url=url, fetched_at_ms=now_ms, body=self.page or body, headers={})
