"""What evidence needs of its vendor's endorsements and did not bring, and the evidence with it.

Guests often have no way to the vendor, and what they bring may be old. So whoever verifies asks the vendor itself, by
addresses that are made here from strictly parsed fields, and adds what comes back. Nothing is believed by being added:
the verifier looks at all of it as if it had come along.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.errors import EvidenceError, InputError


@dataclass(frozen=True, slots=True)
class Wanted:
    """Addresses at which something is needed, and others at which something is better to have.

    Of each group in `needed` one address must answer; those of `useful` may all stay silent, which a policy can refuse.
    """

    needed: tuple[tuple[str, ...], ...] = ()
    useful: tuple[str, ...] = ()


NOTHING: Final = Wanted()


def wanted(evidence: Evidence) -> Wanted:
    """Return what evidence needs and did not bring; nothing where it cannot be read: its verifier will say why."""
    try:
        match evidence.tee:
            case TeeType.SEV_SNP:
                return _wanted_snp(evidence)
            case TeeType.TDX | TeeType.SGX:
                return _wanted_intel(evidence)
            case _:
                return NOTHING
    except EvidenceError:
        return NOTHING


def completed(evidence: Evidence, found: Mapping[str, Fetched]) -> Evidence:
    """Return the evidence with what was found at the addresses of `wanted`.

    Raises:
        EvidenceError: what was found is not of its form (`endorsement_unusable`), or too large together.
    """
    if not found:
        return evidence
    brought, added = list(evidence.endorsements), list[bytes]()
    match evidence.tee:
        case TeeType.SEV_SNP:
            added = [answer.body for answer in found.values()]
        case TeeType.TDX | TeeType.SGX if _answers_all(evidence, found):
            brought = [part for part in brought if part not in _collaterals(evidence)]
            added = [_collateral(evidence, found)]
        case _:
            pass
    try:
        return msgspec.structs.replace(evidence, endorsements=(*brought, *added))
    except InputError as error:
        raise EvidenceError(error.message, reason=error.reason) from None


def _wanted_snp(evidence: Evidence) -> Wanted:
    from aigovtool.attestation.tee.snp.endorsements import read_endorsements  # noqa: PLC0415
    from aigovtool.attestation.tee.snp.wanted import wanted as addresses  # noqa: PLC0415

    leaves: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    for url in addresses(evidence.data):
        kind = url.partition("?")[0].rpartition("/")[2]
        if kind == "crl":
            lists = (*lists, url)
        elif kind != "cert_chain":  # AMD's authorities come with this package
            leaves = (*leaves, url)
    # A list of one's own does not spare anybody the newest one: it may be from before a revocation.
    try:
        read_endorsements(evidence.endorsements)
    except EvidenceError as error:
        if error.reason != "leaf_missing":
            return NOTHING
        return Wanted(needed=(leaves,) if leaves else (), useful=lists[:1])
    return Wanted(useful=lists[:1])


def _wanted_intel(evidence: Evidence) -> Wanted:
    from aigovtool.attestation.tee.intel.wanted import wanted as addresses  # noqa: PLC0415

    urls = addresses(evidence.data)
    # Collateral that came along may be from before a new advisory, as long as it is valid: the vendor's own is better.
    return Wanted(useful=urls) if _collaterals(evidence) else Wanted(needed=tuple((url,) for url in urls))


def _collaterals(evidence: Evidence) -> list[bytes]:
    from aigovtool.attestation.tee.intel.collateral import COLLATERAL_PREFIX  # noqa: PLC0415

    return [part for part in evidence.endorsements if part.startswith(COLLATERAL_PREFIX)]


def _answers_all(evidence: Evidence, found: Mapping[str, Fetched]) -> bool:
    from aigovtool.attestation.tee.intel.wanted import wanted as addresses  # noqa: PLC0415

    return set(addresses(evidence.data)) <= found.keys()


def _collateral(evidence: Evidence, found: Mapping[str, Fetched]) -> bytes:
    from aigovtool.attestation.tee.intel.wanted import assembled  # noqa: PLC0415

    return assembled(evidence.data, {url: (answer.body, answer.headers) for url, answer in found.items()})
