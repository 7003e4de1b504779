"""Evidence with the endorsements that it needs and did not bring: from the cache, or from the vendor."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aigovtool.attestation.model import Evidence
from aigovtool.attestation.tee.completion import completed, wanted
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.custodian.endorsements.cache import EndorsementCache
from aigovtool.errors import UnreachableError

_NO_CACHE: Final = "this custodian keeps no endorsements"


async def complete(cache: EndorsementCache | None, evidence: Evidence) -> Evidence:
    """Return the evidence, and what its vendor adds to it.

    Without what is only useful (a revocation list, for example) it stays as it is: the verifier reports that nothing
    was checked, and the policy decides.

    Raises:
        UnreachableError: something that is needed is not known here, and its vendor does not answer.
        EvidenceError: what the vendor answered is of no use.
    """
    if cache is None:
        return evidence
    want = wanted(evidence)
    found: dict[str, Fetched] = {}
    for alternatives in want.needed:
        found.update(await _first(cache, alternatives))
    for url in want.useful:
        with suppress(UnreachableError):
            found.update(await cache.get([url]))
    return completed(evidence, found)


async def _first(cache: EndorsementCache, urls: Sequence[str]) -> dict[str, Fetched]:
    failure = UnreachableError(_NO_CACHE, reason="vendor_unreachable")
    for url in urls:
        try:
            return await cache.get([url])
        except UnreachableError as error:
            failure = error
    raise failure
