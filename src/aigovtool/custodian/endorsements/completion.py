"""Evidence with the endorsements that it needs and did not bring: from the cache, or from the vendor."""

import asyncio
from dataclasses import dataclass

from aigovtool.attestation.model import Evidence
from aigovtool.attestation.tee.completion import added
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.custodian.endorsements.cache import EndorsementCache
from aigovtool.errors import UnreachableError


@dataclass(frozen=True, slots=True)
class Completed:
    """Evidence with all that is known of its platform; `answers` are to be confirmed once it is genuine."""

    evidence: Evidence
    added: tuple[bytes, ...] = ()
    answers: tuple[Fetched, ...] = ()


async def complete(cache: EndorsementCache | None, evidence: Evidence, borrower: str) -> Completed:
    """Return the evidence of a borrower's enclave, and what its vendor adds to it.

    Without what is only useful (a revocation list, for example) it is not refused here: the verifier reports that
    nothing was checked, and the policy decides.

    Raises:
        UnreachableError: something that is needed is not known here, and its vendor does not give it.
        EvidenceError: all of it together is too large.
    """
    if cache is None:
        return Completed(evidence)
    answers: dict[str, Fetched] = {}
    whole, want = evidence, cache.vendors.wanted(evidence)
    if want.needed:
        for found in await asyncio.gather(*(cache.get_one(group, borrower) for group in want.needed)):
            if not found:
                raise _unknown()
            answers |= found
        whole = cache.vendors.completed(whole, answers)
        want = cache.vendors.wanted(whole)  # which list is useful depends on what was found
    useful = {url: answers[url] for url in want.useful if url in answers}
    useful |= await cache.get([url for url in want.useful if url not in answers], borrower)
    whole = cache.vendors.completed(whole, useful, own_lists=True)
    return Completed(whole, added(evidence, whole), (*answers.values(), *useful.values()))


def completed_again(cache: EndorsementCache | None, evidence: Evidence) -> Evidence:
    """Return evidence that was genuine before with what the cache has learned since; nobody is asked.

    Raises:
        EvidenceError: all of it together is too large.
    """
    if cache is None:
        return evidence
    found = cache.known(cache.vendors.wanted(evidence).addresses)
    # The newest list takes the place of the one before: else they would be too many, and too much, some day.
    return cache.vendors.completed(evidence, found, own_lists=bool(found))


def _unknown() -> UnreachableError:
    return UnreachableError(
        "an endorsement of this platform is not in the custodian's cache, and cannot be fetched now",
        reason="vendor_unreachable",
        fix="let the custodian reach the vendor's service, or put it into the cache: `aigovtool endorsements add`",
        retry_after_s=30,
    )
