"""What evidence needs of its vendor's endorsements and did not bring, and the evidence with it.

Guests often have no way to the vendor, and what they bring may be old. So whoever verifies asks the vendor itself, by
addresses that are made here from strictly parsed fields, and adds what comes back. An answer is judged by itself before
it is kept or used, and nothing is believed by being added: the verifier looks at all of it as if it had come along.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.attestation.tee.fetched import Fetched, Issued
from aigovtool.attestation.tee.supplement import COLLATERAL_PREFIX, supplemented
from aigovtool.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from aigovtool.attestation.tee.intel.authentic import Root
    from aigovtool.attestation.tee.intel.collateral import Collateral
    from aigovtool.attestation.tee.snp.authorities import Authorities
    from aigovtool.attestation.tee.snp.product import Product

_AMD: Final = "https://kdsintf.amd.com/"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Addresses at which something is needed, and others at which something is better to have.

    Of each group in `needed` one address must answer; those of `useful` may all stay silent, which a policy can refuse.
    """

    needed: tuple[tuple[str, ...], ...] = ()
    useful: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys([*(url for group in self.needed for url in group), *self.useful]))


NOTHING: Final = Wanted()


def is_of_one_machine(url: str) -> bool:
    """Return whether the answer at an address is about one machine, as the certificate of a chip is.

    Of others there are few: lists and statements about kinds of processors.
    """
    return url.startswith(_AMD) and "?" in url


@dataclass(frozen=True, slots=True)
class Vendors:
    """The vendors whose statements can be fetched; AMD and Intel, unless other roots are given for tests."""

    amd: "Mapping[Product, Authorities] | None" = None
    intel: bytes | None = None

    def wanted(self, evidence: Evidence) -> Wanted:
        """Return what evidence needs and did not bring, so far as it can be told now.

        Ask again once what is needed was added: which list is useful may depend on it. Nothing is wanted where evidence
        cannot be read: its verifier will say why. Intel's platforms are named by certificates whose chain is verified
        for that; a report of AMD's names its chip without any proof, before its certificate is there.
        """
        try:
            return self.wanted_or_refused(evidence)
        except EvidenceError:
            return NOTHING

    def wanted_or_refused(self, evidence: Evidence) -> Wanted:
        """Return the same as `wanted`, for whoever is there to be told why evidence cannot be read.

        Raises:
            EvidenceError: it cannot be read.
        """
        match evidence.tee:
            case TeeType.SEV_SNP:
                return _wanted_snp(evidence)
            case TeeType.TDX | TeeType.SGX:
                return _wanted_intel(evidence, self._intel())
            case _:
                return NOTHING

    def issued(self, answer: Fetched, now_ms: int) -> Issued:
        """Return when a vendor issued an answer, once it is known to be the vendor's, and valid at `now_ms`.

        Raises:
            EvidenceError: it is not.
        """
        if answer.url.startswith(_AMD):
            from aigovtool.attestation.tee.snp import answers as amd  # noqa: PLC0415
            from aigovtool.attestation.tee.snp.authorities import VENDOR  # noqa: PLC0415

            return amd.issued(answer.url, answer.body, now_ms, VENDOR if self.amd is None else self.amd)
        from aigovtool.attestation.tee.intel import answers as intel  # noqa: PLC0415
        from aigovtool.attestation.tee.intel.collateral import PcsAnswer  # noqa: PLC0415

        return intel.issued(answer.url, PcsAnswer(answer.body, answer.headers), now_ms, self._intel())

    def completed(self, evidence: Evidence, found: Mapping[str, Fetched], *, own_lists: bool = False) -> Evidence:
        """Return the evidence with what was found at the addresses of `wanted`.

        Args:
            evidence: as it came.
            found: answers, each of which `issued` has judged.
            own_lists: leave out AMD's revocation lists that came along. Nothing in a list says which of AMD's two
                authorities of a product it is about, so whoever asks AMD believes what it was told there alone.

        Raises:
            EvidenceError: all of it together is too large.
        """
        try:
            match evidence.tee:
                case TeeType.SEV_SNP:
                    whole = _without_lists(evidence) if own_lists else evidence
                    return supplemented(whole, [answer.body for answer in found.values()])
                case TeeType.TDX | TeeType.SGX if found:
                    return _with_collateral(evidence, found)
                case _:
                    return evidence
        except InputError as error:
            raise EvidenceError(error.message, reason=error.reason) from None

    def _intel(self) -> "Root":
        from aigovtool.attestation.tee.intel.authentic import trusted  # noqa: PLC0415

        return trusted(self.intel)


def added(before: Evidence, completed: Evidence) -> tuple[bytes, ...]:
    """Return what completed evidence has beside what came along, for `supplemented`."""
    return tuple(part for part in completed.endorsements if part not in before.endorsements)


def _wanted_snp(evidence: Evidence) -> Wanted:
    from aigovtool.attestation.tee.snp.endorsement_key import read_endorsement_key  # noqa: PLC0415
    from aigovtool.attestation.tee.snp.endorsements import Role, read_parts  # noqa: PLC0415
    from aigovtool.attestation.tee.snp.wanted import list_address  # noqa: PLC0415
    from aigovtool.attestation.tee.snp.wanted import wanted as addresses  # noqa: PLC0415

    certificates, _ = read_parts(evidence.endorsements)
    if Role.VCEK not in certificates:
        leaves = tuple(url for url in addresses(evidence.data) if is_of_one_machine(url))
        return Wanted(needed=(leaves,) if leaves else ())
    key = read_endorsement_key(certificates[Role.VCEK])
    # A list of one's own does not spare anybody the newest one: it may be from before a revocation.
    return Wanted(useful=(list_address(key.product, key.kind),))


def _without_lists(evidence: Evidence) -> Evidence:
    """Return evidence of SEV-SNP with the certificates that came along, and nothing else of it."""
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    from aigovtool.attestation.tee.snp.endorsements import read_parts  # noqa: PLC0415

    try:
        certificates, lists = read_parts(evidence.endorsements)
    except EvidenceError:  # the verifier will say why
        return evidence
    if not lists:
        return evidence
    kept = tuple(one.public_bytes(Encoding.DER) for one in certificates.values())
    return msgspec.structs.replace(evidence, endorsements=kept)


def _wanted_intel(evidence: Evidence, root: "Root") -> Wanted:
    from aigovtool.attestation.tee.intel.authentic import pck_chain  # noqa: PLC0415
    from aigovtool.attestation.tee.intel.quote import read_quote  # noqa: PLC0415
    from aigovtool.attestation.tee.intel.wanted import wanted as addresses  # noqa: PLC0415

    pck_chain(read_quote(evidence.data), root.fingerprint)
    urls = addresses(evidence.data)
    # Collateral that came along may be from before a new advisory, as long as it is valid: the vendor's own is better.
    return Wanted(useful=urls) if _collaterals(evidence) else Wanted(needed=tuple((url,) for url in urls))


def _with_collateral(evidence: Evidence, found: Mapping[str, Fetched]) -> Evidence:
    from aigovtool.attestation.tee.intel.collateral import PcsAnswer  # noqa: PLC0415
    from aigovtool.attestation.tee.intel.wanted import merged  # noqa: PLC0415

    answers = {url: PcsAnswer(answer.body, answer.headers) for url, answer in found.items()}
    try:
        data = merged(evidence.data, answers, _brought(_collaterals(evidence)))
    except EvidenceError:  # what came along is unusable, and the vendor is silent: the verifier will say why
        return evidence
    return supplemented(evidence, [data])


def _brought(collaterals: Sequence[bytes]) -> "Collateral | None":
    from aigovtool.attestation.tee.intel.collateral import read_collateral  # noqa: PLC0415

    try:
        return read_collateral(collaterals[0]) if len(collaterals) == 1 else None
    except EvidenceError:
        return None


def _collaterals(evidence: Evidence) -> list[bytes]:
    return [part for part in evidence.endorsements if part.startswith(COLLATERAL_PREFIX)]
