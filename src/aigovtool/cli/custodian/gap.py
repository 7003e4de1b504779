"""`aigovtool custodian gap` and `aigovtool custodian settle`: a ledger that was restored from a backup.

Whoever holds a newer signed checkpoint than the ledger remembers makes it stop granting. How much was used in what is
forgotten nobody can compute; two operators say it, or charge all that remains. So `settle` has no default: it wants one
of `--charge`, `--charge-all` and `--charge-nothing`. Only `--charge-all` is final: whatever is shown later of what is
lost, nothing of it can be used twice.
"""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli import orders
from aigovtool.cli.credentials import connected, require_free
from aigovtool.cli.scope import WINDOWS, path
from aigovtool.cli.screen import Screen
from aigovtool.cli.units import UnitsVerb, parse_units
from aigovtool.cli.verb import Verb, operator_option
from aigovtool.cli.words import count, span, when
from aigovtool.errors import ConflictError, InvalidValueError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aigovtool.ids import ModelId
    from aigovtool.ledger.units import Dimension
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.commands import RowCharge, SettleGap
    from aigovtool.protocol.views import BudgetView, GapView

_CHARGE_RE: Final = re.compile(
    r"(?P<model>[^/:=]+)(?:/(?P<borrower>[^/:=]+)(?:/(?P<consumer>[^/:=]+))?)?(?::(?P<window>[a-z_]+))?=(?P<units>.+)"
)
_CHARGE: Final = "MODEL[/BORROWER[/CONSUMER]][:WINDOW]=UNITS"
FORGOTTEN: Final = (
    "THE LEDGER HAS FORGOTTEN SOMETHING that it signed: it was restored from a backup. It grants nothing."
)


class Gap(Struct, frozen=True, kw_only=True):
    """Whether the ledger has forgotten something.

    `entries_lost_min` is a lower bound; `quiet_until_ms` is null when nothing is waited for. `checkpoint` is the newest
    note that was shown. `shown_since` is null unless more was shown to be lost after a final settlement.
    """

    forgotten: bool
    generation: int
    size: int
    found_at_ms: int | None
    signed_size: int | None
    signed_generation: int | None
    entries_lost_min: int
    quiet_until_ms: int | None
    checkpoint: str | None
    shown_since: int | None


@click.command(cls=Verb, example="aigovtool custodian gap")
@operator_option
@click.pass_obj
def gap(screen: Screen, operator_file: Path | None) -> None:
    """Show whether the ledger has forgotten something that it signed: whether it was restored from a backup.

    It notices when an enclave, a consumer or an auditor shows a newer checkpoint than it remembers. While there is a
    gap it grants, releases, charges and obeys nothing but a stop, until two operators settle it.
    """
    with connected(operator_file) as client:
        found = gap_of(client.gap(), int(time.time() * 1000))
    if found.forgotten:
        screen.banner(FORGOTTEN)

    def render() -> None:
        show_gap(screen, found)
        if found.forgotten:
            screen.line("next: aigovtool custodian settle --help")

    screen.show(found, render)


def gap_of(view: "GapView", now_ms: int) -> Gap:
    """Return what a custodian's view of its gap comes to."""
    lost = view.lost_size
    return Gap(
        forgotten=view.checkpoint is not None,
        generation=view.generation,
        size=view.size,
        found_at_ms=view.found_at_ms,
        signed_size=lost,
        signed_generation=view.lost_generation,
        entries_lost_min=0 if lost is None else max(1, lost - view.size),
        quiet_until_ms=view.quiet_until_ms if view.quiet_until_ms > now_ms else None,
        checkpoint=view.checkpoint,
        shown_since=view.shown_since or None,
    )


def show_gap(screen: Screen, found: Gap) -> None:
    """Print for people what is known of a gap."""
    if found.forgotten:
        screen.facts(
            [
                ("found", when(found.found_at_ms or 0)),
                ("it remembers", f"{count(found.size)} entries, generation {found.generation}"),
                ("it had signed", f"{count(found.signed_size or 0)} entries, generation {found.signed_generation}"),
                ("forgotten", f"at least {count(found.entries_lost_min)} entries; more if nobody shows them"),
            ]
        )
        screen.line("Until two operators settle it nothing is granted, released, charged or ordered; a stop works.")
        return
    screen.line("The ledger remembers every checkpoint that it was shown, or has settled it.", style="green")
    screen.facts([("entries", count(found.size)), ("generation", str(found.generation))])
    if found.shown_since is not None:
        screen.line(
            f"Since the final settlement a checkpoint of {count(found.shown_since)} entries was shown: more is lost "
            "than was known then. All its units are charged; see whether an order of that time is missing."
        )
    if found.quiet_until_ms is not None:
        left = span(max(0, found.quiet_until_ms - int(time.time() * 1000)) // 1000 * 1000)
        text = f"A gap was settled: nothing is granted before {when(found.quiet_until_ms)} (in {left}), when every "
        screen.line(f"{text}lease of before is over.", style="bold")


@click.command(
    cls=UnitsVerb, example='aigovtool custodian settle --charge-all --reason "disk lost on 3 May" --save order.json'
)
@orders.reason_option
@click.option("--charge", "charges", metavar=_CHARGE, multiple=True, help="What was used of one budget; repeat it.")
@click.option("--charge-all", is_flag=True, help="All that remains of every budget: safe, and final.")
@click.option("--charge-nothing", is_flag=True, help="Nothing was used of what is forgotten: only if you know.")
@orders.save_option
@operator_option
@click.pass_obj
def settle(
    screen: Screen,
    *,
    reason: str,
    charges: tuple[str, ...],
    charge_all: bool,
    charge_nothing: bool,
    save: Path,
    operator_file: Path | None,
) -> None:
    """Order that a restored ledger goes back into service, in a new generation; a second operator cosigns.

    What was used and is forgotten must be charged, or it can be used again. Say what with --charge, once for each
    budget (a use counts in the budget of its model, and in those of its borrower and its consumer where there are
    such); or charge all that remains of every budget with --charge-all, and grant anew afterwards. A budget per hour,
    day or month is charged in its present window: until that is over, nothing is left of it. After the settlement
    nothing is granted until every lease of before is over, and enclaves attest again.

    Whoever shows later that more is lost opens a new gap, and anybody can who kept checkpoints. Not so after
    --charge-all: then nothing can be used twice, whatever is lost. As nobody is asked again, everything must be stopped
    (`aigovtool stop --all`) until two operators have looked at what else may be forgotten, and lift that.
    """
    require_free(save, "--save")
    with connected(operator_file) as client:
        view = client.gap()
        if view.checkpoint is None:
            raise ConflictError(
                "this ledger has no gap: there is nothing to settle",
                reason="no_gap",
                fix="see `aigovtool custodian gap`",
            )
        rows = client.budgets().budgets
        charged = _charges(client, rows, charges, everything=charge_all, nothing=charge_nothing)
        act = _act(view.checkpoint, charged, reason, final=charge_all)
        if charge_all:
            require_stopped(client)
        lines = orders.settlement_lines(rows, act)
        found = gap_of(view, int(time.time() * 1000))
        done = orders.saved(client, act, save, lines=lines)

    def render() -> None:
        screen.banner(FORGOTTEN)
        show_gap(screen, found)
        screen.line()
        screen.line("This order puts it back into service, and charges what follows:", style="bold")
        orders.show_charges(screen, lines, final=charge_all)
        screen.line()
        orders.say_saved(screen, done)

    screen.show(done, render)


def require_stopped(client: "OperatorClient") -> None:
    """Refuse to settle for good what may lack orders that nobody has repeated yet, while anything is served.

    Raises:
        ConflictError: `not_stopped`.
    """
    from aigovtool.ledger.entry import StopTarget  # noqa: PLC0415

    if all(stop.target is not StopTarget.ALL for stop in client.stops().stops):
        raise ConflictError(
            "--charge-all settles for good what is forgotten, and not everything is stopped",
            reason="not_stopped",
            fix="run `aigovtool stop --all` first; lift it when all that may be forgotten was looked at",
        )


def _act(checkpoint: str, charged: "list[RowCharge]", reason: str, *, final: bool) -> "SettleGap":
    from aigovtool.protocol.commands import SettleGap  # noqa: PLC0415

    return SettleGap(checkpoint=checkpoint, charges=charged, reason=reason, final=final)


def _charges(
    client: "OperatorClient", rows: "Sequence[BudgetView]", texts: "Sequence[str]", *, everything: bool, nothing: bool
) -> "list[RowCharge]":
    """Return what the order charges by name; what remains of everything is charged when it is carried out.

    Raises:
        InvalidValueError: `no_choice`, `bad_charge`.
        NotFoundError: `no_budget_row`.
    """
    if bool(texts) + everything + nothing != 1:
        raise InvalidValueError(
            "say what was used of what is forgotten",
            reason="no_choice",
            fix=f"give --charge {_CHARGE} for each budget, or --charge-all (safe), or --charge-nothing",
        )
    if everything:
        return []
    counts = {model.model: model.policy.counts for model in client.models().models}
    charged = [_charge(rows, counts, text) for text in texts]
    if len({charge.row for charge in charged}) != len(charged):
        raise InvalidValueError("a budget is charged twice", reason="bad_charge", fix="add the two numbers up")
    return charged


def _charge(rows: "Sequence[BudgetView]", counts: "Mapping[ModelId, tuple[Dimension, ...]]", text: str) -> "RowCharge":
    from aigovtool.protocol.commands import RowCharge  # noqa: PLC0415

    match = _CHARGE_RE.fullmatch(text)
    units = None if match is None else parse_units(match["units"])
    if match is None or not units:
        raise InvalidValueError(f"{text[:80]!r} is not {_CHARGE}", reason="bad_charge", fix="for example xray=250")
    window = match["window"] or "lifetime"
    if window not in WINDOWS:
        raise InvalidValueError(
            f"{window[:40]!r} is no window", reason="bad_charge", fix=f"use one of {', '.join(WINDOWS)}"
        )
    wanted = (match["model"], match["borrower"], match["consumer"])
    found = [
        row
        for row in rows
        if (row.key.scope.model, row.key.scope.borrower, row.key.scope.consumer) == wanted
        and row.key.window.value == window
    ]
    # Rows in a dimension that the model does not count limit nothing.
    counted = [row for row in found if row.key.dimension in counts.get(row.key.scope.model, ())] or found
    if not counted:
        known = ", ".join(f"{path(row.key.scope).replace(' ', '')}:{row.key.window.value}" for row in rows[:20])
        raise NotFoundError(
            f"there is no {window} budget of {' / '.join(part for part in wanted if part)}",
            reason="no_budget_row",
            fix=f"there are: {known}" if known else "there is no budget at all: use --charge-nothing",
        )
    return RowCharge(row=counted[0].key, units=units)
