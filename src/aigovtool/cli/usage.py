"""`aigovtool usage`: what was used, by model and consumer."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aigovtool.cli.credentials import connected
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import Seconds, Verb, operator_option
from aigovtool.cli.words import count

if TYPE_CHECKING:
    from aigovtool.protocol.views import Usage, UsageView


@click.command(cls=Verb, example="aigovtool usage --follow")
@click.option(
    "--follow",
    "every_s",
    is_flag=False,
    flag_value=2.0,
    type=Seconds(0.5, 3600),
    help="Look again every so many seconds (2), and show it again whenever it has changed, until interrupted.",
)
@operator_option
@click.pass_obj
def usage(screen: Screen, every_s: float | None, operator_file: Path | None) -> None:
    """Show what each consumer used of each model.

    Leased is what enclaves were given to use, also what they gave back. Charged is what the ledger holds against the
    budget: what was used, and all of a lease whose enclave has not yet closed it or never did.
    """
    if every_s is not None:
        screen.go_on()
    with connected(operator_file) as client:
        shown = client.usage()
        _show(screen, shown)
        while every_s is not None:
            time.sleep(every_s)
            if (view := client.usage()) != shown:
                screen.note(datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ"))
                _show(screen, view)
                shown = view


def _show(screen: Screen, view: "Usage") -> None:
    rows = [row for one in view.usage for row in _rows(one)]
    columns = (
        "model / borrower / consumer",
        "counts",
        ">leased",
        ">charged",
        ">used",
        ">answers",
        ">failures",
        ">open leases",
    )
    screen.show(view, lambda: screen.table(columns, rows, "nothing was used yet"))


def _rows(one: "UsageView") -> list[tuple[str, ...]]:
    """Return a row for each dimension that was leased; what is no matter of units stands in the first."""
    path = f"{one.model} / {one.borrower} / {one.consumer}"
    numbers = (count(one.ok), count(one.err), count(one.open_leases))
    rows: list[tuple[str, ...]] = []
    for dimension, granted in one.granted.items():
        units = (count(granted), count(one.charged.get(dimension)), count(one.used.get(dimension)))
        first = not rows
        rows.append((path if first else "", dimension.value, *units, *(numbers if first else ("", "", ""))))
    return rows
