"""`aigovtool endorsements`: fetch what vendors say about a platform, and bring it to who cannot ask them.

A custodian fetches by itself what it needs. One without a way to the vendors is fed by files: what evidence needs is
fetched elsewhere, and added to its cache. Nothing is believed by being added: all of it is verified with the evidence.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.directory import require_custodian
from aigovtool.cli.document import write_document
from aigovtool.cli.endorsements.answers import read_answers
from aigovtool.cli.evidence.files import about, read_evidence
from aigovtool.cli.evidence.verb import TEES
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import ANYTHING, DIRECTORY, FILE, Verb, VerbGroup
from aigovtool.cli.words import span, when
from aigovtool.errors import NotFoundError, UnreachableError

if TYPE_CHECKING:
    from aigovtool.attestation.model import Evidence
    from aigovtool.attestation.tee.completion import Vendors
    from aigovtool.attestation.tee.fetched import Fetched, FetchedAnswers
    from aigovtool.custodian.endorsements.cache import EndorsementCache
    from aigovtool.custodian.endorsements.vendor import VendorServices

_OF_A_PROVIDER: Final = "the report is signed with a VLEK, and AMD gives the certificate of one to its provider alone"
#: What to do, by reason, where a vendor has no answer: what the custodian would be told is of no use here.
_UNANSWERED: Final = MappingProxyType(
    {
        "vendor_unreachable": "run this where there is a network, and bring the file that it writes",
        "vendor_busy": "try again later",
        "not_at_vendor": "see that the evidence is of such a machine; what there is already goes with --endorsements",
    }
)
directory_argument = click.argument("directory", metavar="DIRECTORY", type=DIRECTORY)


class Answer(Struct, frozen=True, kw_only=True):
    """What a vendor answered at an address, and when."""

    address: str
    fetched_ms: int
    bytes: int


class Answers(Struct, frozen=True, kw_only=True):
    """What vendors answered; `missing` are addresses at which nothing was there, none of which is needed."""

    answers: list[Answer]
    missing: list[str]
    file: str | None = None


@click.group(cls=VerbGroup, example="aigovtool endorsements fetch report.bin --tee sev-snp -o endorsements.json")
def endorsements() -> None:
    """What vendors say about platforms: fetch it, and bring it to a custodian that cannot."""


@endorsements.command(cls=Verb, example="aigovtool endorsements fetch report.bin --tee sev-snp -o endorsements.json")
@click.argument("file", metavar="FILE", type=ANYTHING)
@click.option("--tee", type=click.Choice(TEES), help="Whose evidence it is, where the file does not say.")
@click.option(
    "--endorsements",
    "brought",
    multiple=True,
    type=ANYTHING,
    help="What is there already, as a VLEK's certificate: what is fetched depends on it; repeat.",
)
@click.option("-o", "--out", type=FILE, required=True, help="Where the answers are written.")
@click.pass_obj
def fetch(screen: Screen, *, file: Path, tee: str | None, brought: tuple[Path, ...], out: Path) -> None:
    """Fetch what evidence needs and does not bring, from its vendor's fixed hosts and from nowhere else.

    `aigovtool evidence verify --fetched` and `aigovtool endorsements add` take the file that is written.
    """
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415

    evidence = read_evidence(None if tee is None else TeeType(tee), file, brought, None)
    about(file, lambda: _require_wanting(evidence))
    try:
        found, missing = asyncio.run(_asked(evidence))
    except UnreachableError as error:
        fix = _UNANSWERED.get(error.reason or "")
        raise UnreachableError(error.message, reason=error.reason, fix=fix, retry_after_s=error.retry_after_s) from None
    write_document(out, found, replace=False)
    shown = Answers(answers=[_of(one) for one in found.answers], missing=missing, file=str(out))

    def render() -> None:
        _table(screen, shown)
        for address in missing:
            screen.line(f"not there, and not needed: {address}")
        screen.line(f"written to {out}", style="green")

    screen.show(shown, render)


@endorsements.command(cls=Verb, example="aigovtool endorsements add /var/lib/aigovtool/custodian endorsements.json")
@directory_argument
@click.argument("file", metavar="FILE", type=FILE)
@click.pass_obj
def add(screen: Screen, *, directory: Path, file: Path) -> None:
    """Put what `endorsements fetch` wrote into the cache of the custodian in DIRECTORY, also while it serves.

    Run it as the user that the custodian runs as. An answer that is there already and newer stays.
    """
    cache, answers = _cache(directory), read_answers(file)
    taken = [one for one in answers if cache.add(one)]
    shown = Answers(answers=[_of(one) for one in taken], missing=[])

    def render() -> None:
        _table(screen, shown)
        kept = len(answers) - len(taken)
        if kept:
            screen.line(f"{kept} were there already, as new or newer")

    screen.show(shown, render)


@endorsements.command("list", cls=Verb, example="aigovtool endorsements list /var/lib/aigovtool/custodian")
@directory_argument
@click.pass_obj
def list_(screen: Screen, *, directory: Path) -> None:
    """List what the custodian in DIRECTORY has in its cache."""
    shown = Answers(answers=[_of(one) for one in _cache(directory).answers()], missing=[])
    screen.show(shown, lambda: _table(screen, shown))


def _require_wanting(evidence: "Evidence") -> None:
    """Require that evidence can be read, and needs something of its vendor.

    Raises:
        EvidenceError: it cannot be read.
        NotFoundError: it needs nothing of a vendor (`nothing_wanted`), or what its vendor gives to others alone
            (`leaf_of_provider`).
    """
    from aigovtool.attestation.model import TeeType  # noqa: PLC0415
    from aigovtool.attestation.tee.completion import Vendors  # noqa: PLC0415

    if Vendors().wanted_or_refused(evidence).addresses:
        return
    if evidence.tee is TeeType.SEV_SNP:
        raise NotFoundError(_OF_A_PROVIDER, reason="leaf_of_provider", fix="bring it with --endorsements")
    raise NotFoundError(
        f"evidence of {evidence.tee.value} needs nothing of a vendor's services", reason="nothing_wanted"
    )


async def _asked(evidence: "Evidence") -> "tuple[FetchedAnswers, list[str]]":
    """Ask the vendor for all that is wanted; what is only useful may be missing.

    Raises:
        UnreachableError: something that is needed is not there, or nothing is.
        EvidenceError: what is there is not the vendor's.
    """
    from aigovtool.attestation.tee.completion import Vendors  # noqa: PLC0415
    from aigovtool.attestation.tee.fetched import FetchedAnswers  # noqa: PLC0415
    from aigovtool.custodian.endorsements.vendor import VendorServices  # noqa: PLC0415

    services, vendors, missing = VendorServices(), Vendors(), list[str]()
    found: dict[str, Fetched] = {}
    try:
        want = vendors.wanted(evidence)
        for alternatives in want.needed:
            answer = await _first(services, vendors, alternatives)
            found[answer.url] = answer
        want = vendors.wanted(vendors.completed(evidence, found)) if found else want
        for url in want.useful:
            try:
                found[url] = found[url] if url in found else await _judged(services, vendors, url)
            except UnreachableError:
                missing.append(url)
                if not found and url == want.useful[-1]:  # a file without any answer is of no use
                    raise
    finally:
        await services.close()
    return FetchedAnswers(answers=tuple(found.values())), missing


async def _first(services: "VendorServices", vendors: "Vendors", urls: Sequence[str]) -> "Fetched":
    """Return the first answer; raises `UnreachableError` of the last address if there is none."""
    for url in urls[:-1]:
        with suppress(UnreachableError):
            return await _judged(services, vendors, url)
    return await _judged(services, vendors, urls[-1])


async def _judged(services: "VendorServices", vendors: "Vendors", url: str) -> "Fetched":
    answer = await services.fetch(url, time.time_ns() // 1_000_000)
    vendors.issued(answer, answer.fetched_at_ms)
    return answer


def _cache(directory: Path) -> "EndorsementCache":
    """Open the cache of a custodian, which fetches nothing here."""
    from aigovtool.custodian.endorsements.cache import CACHE_DIRECTORY, EndorsementCache  # noqa: PLC0415

    require_custodian(directory)
    return EndorsementCache(directory / CACHE_DIRECTORY, None, lambda: time.time_ns() // 1_000_000)


def _of(answer: "Fetched") -> Answer:
    return Answer(address=answer.url, fetched_ms=answer.fetched_at_ms, bytes=len(answer.body))


def _table(screen: Screen, shown: Answers) -> None:
    now_ms = time.time_ns() // 1_000_000
    rows = [
        (one.address, f"{one.bytes:,}", when(one.fetched_ms), span(max(0, now_ms - one.fetched_ms) // 1000 * 1000))
        for one in shown.answers
    ]
    screen.table(("address", ">bytes", "fetched", ">age"), rows, "nothing")
