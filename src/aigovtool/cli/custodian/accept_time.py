"""`aigovtool custodian status` and `accept-time`: whether a custodian grants, and a clock that it does not believe."""

from pathlib import Path
from typing import Final

import click
from msgspec import Struct

from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected
from aigovtool.cli.directory import require_custodian
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import DIRECTORY, Verb, operator_option
from aigovtool.cli.words import count, span, when

LEAPT: Final = (
    "THE CLOCK OF THE CUSTODIAN'S HOST IS NOT BELIEVED: it leapt ahead. Nothing is granted until it is right, or "
    "confirmed with `aigovtool custodian accept-time`. Stops work."
)


class Status(Struct, frozen=True, kw_only=True):
    """Whether the custodian serves: `status` is `serving`, or `clock_leapt` when it does not believe its clock."""

    status: str
    version: str
    custodian: str
    generation: int
    epoch: int


class TimeConfirmed(Struct, frozen=True, kw_only=True):
    """The ledger's time before, and from then on."""

    before_ms: int
    accepted_ms: int


@click.command(cls=Verb, example="aigovtool custodian status")
@operator_option
@click.pass_obj
def status(screen: Screen, operator_file: Path | None) -> None:
    """Show whether the custodian serves, and whether it believes the clock of its host."""
    with connected(operator_file) as client:
        health = client.health()
    found = Status(
        status=health.status,
        version=health.version,
        custodian=health.custodian,
        generation=health.generation,
        epoch=health.epoch,
    )
    if found.status == "clock_leapt":
        screen.banner(LEAPT)
    screen.show(
        found,
        lambda: screen.facts(
            [
                ("status", found.status.replace("_", " ")),
                ("custodian", found.custodian),
                ("version", found.version),
                ("generation", count(found.generation)),
                ("epoch", count(found.epoch)),
            ]
        ),
    )


@click.command("accept-time", cls=Verb, example="aigovtool custodian accept-time ./custodian")
@click.argument("directory", type=DIRECTORY)
@yes_option
@click.pass_obj
def accept_time(screen: Screen, *, directory: Path, yes: bool) -> None:
    """Confirm that the clock of this host is right, although it is far ahead of the time in DIRECTORY's ledger.

    A custodian does not believe a clock that leaps by more than five minutes while it runs, or that shows more than 60
    days after the ledger was written last: the ledger's time never goes back, so one wrong reading would end every
    credential for good. Make sure of the time first, by another clock. On SQLite the custodian must be stopped.
    """
    from aigovtool.custodian.time_order import accept_time as accept  # noqa: PLC0415
    from aigovtool.custodian.time_order import look_at_time  # noqa: PLC0415

    require_custodian(directory)
    if not yes:
        seen = look_at_time(directory)
        notes = [
            f"the ledger's time is {when(seen.before_ms)}, and this host's is {when(seen.accepted_ms)}",
            "it never goes back: what ends before that time ends now, and for good",
        ]
        confirm(screen, "accept this host's time", notes)
    accepted = accept(directory)
    made = TimeConfirmed(before_ms=accepted.before_ms, accepted_ms=accepted.accepted_ms)

    def render() -> None:
        ahead = span((made.accepted_ms - made.before_ms) // 1000 * 1000)
        screen.line(f"the ledger's time is {when(made.accepted_ms)} now, {ahead} after what it was", style="green")

    screen.show(made, render)
