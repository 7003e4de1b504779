"""`aigovtool budget`: grant, set and show budgets. Requests for more are in `asks`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.budget import asks
from aigovtool.cli.budget.time import end_of, rolling, shown_end, until_option
from aigovtool.cli.credentials import connected
from aigovtool.cli.scope import find_model, parse_scope, path, require_counted, scope_options
from aigovtool.cli.screen import Screen
from aigovtool.cli.units import MAX_UNITS, UNITS, UNLIMITED, UnitsVerb, parse_units
from aigovtool.cli.verb import Verb, VerbGroup, operator_option
from aigovtool.cli.words import count, span, when
from aigovtool.errors import InvalidValueError

if TYPE_CHECKING:
    from aigovtool.ledger.budget import Scope
    from aigovtool.protocol.views import BudgetView

_REQUESTS: Final = (asks.request, asks.own, asks.requests, asks.approve, asks.deny)


class Changed(Struct, frozen=True, kw_only=True):
    """A budget that was changed; `units` is null for no limit, `not_after_ms` for no end (and after a grant)."""

    model: str
    borrower: str | None
    consumer: str | None
    window: str
    units: int | None
    entry: int
    not_after_ms: int | None = None


@click.group(cls=VerbGroup, example="aigovtool budget show")
def budget() -> None:
    """How much may be used: no budget means no use."""


@budget.command(cls=UnitsVerb, example="aigovtool budget grant --model xray 1000")
@click.argument("units", type=UNITS)
@scope_options
@operator_option
@click.pass_obj
def grant(
    screen: Screen,
    *,
    units: int,
    model: str,
    borrower: str | None,
    consumer: str | None,
    window: str,
    dimension: str,
    operator_file: Path | None,
    force: bool,
) -> None:
    """Add UNITS to a budget, making it where there is none."""
    from aigovtool.ledger.budget import Window  # noqa: PLC0415
    from aigovtool.ledger.units import Dimension  # noqa: PLC0415
    from aigovtool.protocol.commands import GrantBudget  # noqa: PLC0415

    with connected(operator_file) as client:
        scope = parse_scope(client, model, borrower, consumer)
        require_counted(client, model, dimension, force=force)
        act = GrantBudget(scope=scope, dimension=Dimension(dimension), window=Window(window), units=units)
        entry = client.command(act).entry
    _say_changed(screen, "{units} added to {budget}", scope, window=window, units=units, entry=entry)


@budget.command("set", cls=UnitsVerb, example="aigovtool budget set --model xray --consumer radiology --window day 200")
@click.argument("units", metavar="UNITS|unlimited")
@scope_options
@until_option
@operator_option
@click.pass_obj
def set_limit(
    screen: Screen,
    *,
    units: str,
    model: str,
    borrower: str | None,
    consumer: str | None,
    window: str,
    dimension: str,
    until: str | None,
    operator_file: Path | None,
    force: bool,
) -> None:
    """Set a budget outright, with its end; below what is used it only means that nothing more is granted.

    Without --until it has no end, also where it had one. After its end nothing more is granted from it.
    """
    from aigovtool.ledger.budget import BudgetLimit, Window  # noqa: PLC0415
    from aigovtool.ledger.units import Dimension  # noqa: PLC0415
    from aigovtool.protocol.commands import SetBudget  # noqa: PLC0415

    limit = _limit(units)
    end_ms = None if until is None else end_of(until, int(time.time() * 1000))
    with connected(operator_file) as client:
        scope = parse_scope(client, model, borrower, consumer)
        require_counted(client, model, dimension, force=force)
        wanted = BudgetLimit(
            scope=scope, dimension=Dimension(dimension), window=Window(window), limit=limit, not_after_ms=end_ms
        )
        entry = client.command(SetBudget(limit=wanted)).entry
    text = "{budget} is {units} now" + ("" if end_ms is None else f", and ends {when(end_ms)}")
    _say_changed(screen, text, scope, window=window, units=limit, entry=entry, not_after_ms=end_ms)


def _limit(text: str) -> int | None:
    if text == UNLIMITED:
        return None
    units = parse_units(text)
    if units is None:
        raise InvalidValueError(
            f"{text[:40]!r} is no number of units", reason="bad_units", fix=f"use 0 to {MAX_UNITS} or unlimited"
        )
    return units


def _say_changed(
    screen: Screen,
    text: str,
    scope: "Scope",
    *,
    window: str,
    units: int | None,
    entry: int,
    not_after_ms: int | None = None,
) -> None:
    changed = Changed(
        model=scope.model,
        borrower=scope.borrower,
        consumer=scope.consumer,
        window=window,
        units=units,
        entry=entry,
        not_after_ms=not_after_ms,
    )
    said = text.format(units=count(units), budget=f"the {window} budget of {path(scope)}")
    screen.show(changed, lambda: screen.line(f"{said} (audit log entry {entry})"))


@budget.command(cls=Verb, example="aigovtool budget show --model xray")
@click.option("--model", help="Only this model.")
@operator_option
@click.pass_obj
def show(screen: Screen, model: str | None, operator_file: Path | None) -> None:
    """Show the budgets of the current windows, and what the dial means for them.

    In a rolling window, spent and held are those of its newest slice; what it counts in all is said below the table.
    """
    with connected(operator_file) as client:
        view = client.budgets()
        if model is not None:
            find_model(client.models().models, model)
    found = [row for row in view.budgets if model is None or row.key.scope.model == model]
    columns = (
        "budget",
        "window",
        "counts",
        ">limit",
        ">spent",
        ">held",
        ">left",
        "ends",
        ">lost on a crash, by consumer",
        ">stop bound",
    )
    now_ms = int(time.time() * 1000)
    rows = [_row(row, now_ms) for row in found]

    def render() -> None:
        screen.table(columns, rows, "there is no budget: nothing may be used")
        for row in found:
            for line in rolling(row):
                screen.line(line)

    screen.show(type(view)(budgets=found), render)


def _row(row: "BudgetView", now_ms: int) -> tuple[str, ...]:
    meaning = row.consequences
    return (
        path(row.key.scope),
        row.key.window.value,
        row.key.dimension.value,
        count(row.limit),
        count(row.posted),
        count(row.pending),
        count(row.room),
        shown_end(row, now_ms),
        "-" if meaning is None else f"<= {count(meaning.units_lost_on_crash_max)}",
        "-" if meaning is None else span(meaning.stop_bound_ms),
    )


for _verb in _REQUESTS:
    budget.add_command(_verb)
