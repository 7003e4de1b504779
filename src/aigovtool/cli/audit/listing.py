"""`aigovtool audit list`: the log as a person reads it.

It shows the custodian's word; proof is what `audit export` and `audit verify` give.
"""

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.credentials import connected
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import Verb, operator_option
from aigovtool.cli.words import count, when

if TYPE_CHECKING:
    from aigovtool.operator.client import OperatorClient

KINDS: Final = (
    "genesis",
    "key_set_published",
    "party_added",
    "party_revoked",
    "model_added",
    "model_terms_set",
    "model_withdrawn",
    "appraisal_policy_set",
    "budget_set",
    "attested",
    "attestation_refused",
    "attestation_withdrawn",
    "key_released",
    "release_refused",
    "command_refused",
    "refused",
    "lease_granted",
    "lease_closed",
    "lease_expired",
    "lease_written_off",
    "gap_found",
    "clock_accepted",
    "restored",
    "charged",
    "forked",
    "asked",
    "ask_decided",
    "stopped",
    "resumed",
    "wiped",
    "witness_enrolled",
    "witness_retired",
)
#: So common that some are in any page.
_EVERYDAY: Final = {"lease_granted", "lease_closed"}
_PAGE: Final = 1_000
_MOST: Final = 100_000


class Listed(Struct, frozen=True, kw_only=True):
    """One entry: when, who, what."""

    index: int
    at_ms: int
    kind: str
    who: str
    what: str


class Listing(Struct, frozen=True, kw_only=True):
    """The newest entries that were asked for, oldest first, of `size` entries in all."""

    size: int
    entries: list[Listed]


@click.command("list", cls=Verb, example="aigovtool audit list --kind stopped --kind resumed --last 20")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only this kind; repeat for more.")
@click.option(
    "--last", type=click.IntRange(1, _MOST), default=50, show_default=True, help="How many, counted from the end."
)
@operator_option
@click.pass_obj
def list_entries(screen: Screen, kinds: tuple[str, ...], last: int, operator_file: Path | None) -> None:
    """Show who did what and when: the newest entries of the log, as the custodian tells them.

    To have proof instead of its word, use `aigovtool audit export` and `aigovtool audit verify`.
    """
    with connected(operator_file) as client:
        _, checkpoint = client.verified_head()
        newest = _newest(client, checkpoint.size, kinds)
        found = [entry for entry, _ in zip(newest, range(last), strict=False)]
    listing = Listing(size=checkpoint.size, entries=found[::-1])
    rows = [(count(one.index), when(one.at_ms), one.who, one.what) for one in listing.entries]
    columns = (">entry", "at", "who", "what")
    screen.show(listing, lambda: screen.table(columns, rows, "there is no such entry"))


def _newest(client: "OperatorClient", size: int, kinds: tuple[str, ...]) -> Iterator[Listed]:
    """Yield entries from the newest to the oldest; rare kinds are looked up, for common ones all pages are read."""
    if not kinds or set(kinds) & _EVERYDAY:
        found = (line for line in _pages(client, size) if not kinds or line.kind in kinds)
    else:
        each = [map(_listed, client.log_found(kind, before=size)) for kind in sorted(set(kinds))]
        found = heapq.merge(*each, key=lambda line: line.index, reverse=True)
    yield from found


def _pages(client: "OperatorClient", size: int) -> Iterator[Listed]:
    for end in range(size, 0, -_PAGE):
        page = list(client.log_entries(max(0, end - _PAGE), end=end))
        yield from map(_listed, reversed(page))


def _listed(raw: bytes) -> Listed:
    from aigovtool.cli.audit.entries import describe  # noqa: PLC0415
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.ledger.entry import Entry  # noqa: PLC0415

    entry = decode(raw, Entry)
    line = describe(entry.body)
    return Listed(index=entry.index, at_ms=entry.at_ms, kind=line.kind, who=line.who, what=line.what)
