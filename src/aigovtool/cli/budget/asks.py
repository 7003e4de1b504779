"""`aigovtool budget request | own | requests | approve | deny`: asking for more budget, and deciding.

An approval raises lifetime budgets. What still keeps the units from being granted is said beside it: a budget on the
path that has ended, or a window that leaves fewer.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.credentials import connected, read_user
from aigovtool.cli.scope import dimension_option, path
from aigovtool.cli.screen import Screen
from aigovtool.cli.units import UNITS, UnitsVerb
from aigovtool.cli.verb import FILE, Verb, operator_option
from aigovtool.cli.words import count, counted, plain, short, when
from aigovtool.errors import NotFoundError

if TYPE_CHECKING:
    from aigovtool.ledger.budget import BudgetLimit, Scope
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.commands import AskState, CommandResult
    from aigovtool.protocol.party import BorrowerFile, ConsumerFile
    from aigovtool.protocol.views import BudgetView, OwnBudget, OwnView

_FEWEST_CHARS: Final = 6
#: An approval raises one limit per level of the path, each with an entry of its own before that of the decision.
_RAISED_MAX: Final = 8


class Raised(Struct, frozen=True, kw_only=True):
    """A budget that an approval raised, to `limit`."""

    budget: str
    window: str
    dimension: str
    limit: int | None


class HeldBack(Struct, frozen=True, kw_only=True):
    """A budget on the path of a request that leaves less than was approved; `ended_ms` where its time is over."""

    budget: str
    window: str
    dimension: str
    left: int
    ended_ms: int | None = None

    def words(self) -> str:
        """Return what it means for the units that were approved."""
        if self.ended_ms is None:
            return f"the {self.window} budget of {self.budget} leaves {count(self.left)} of them for now"
        return (
            f"the {self.window} budget of {self.budget} has ended ({when(self.ended_ms)}): "
            "nothing is granted until it is set with another end"
        )


class Decided(Struct, frozen=True, kw_only=True):
    """A request for more budget that was decided.

    `units` more can be granted by the lifetime budgets on its path, of which those in `raised` had to be raised for it;
    those in `held_back` still leave less.
    """

    ask_id: str
    approved: bool
    units: int
    raised: list[Raised]
    entry: int
    held_back: list[HeldBack] = []


@click.command(
    cls=UnitsVerb, example='aigovtool budget request 500 --model xray --reason "new ward" --credential me.json'
)
@click.argument("units", type=UNITS)
@click.option("--model", required=True, help="For which model.")
@click.option("--reason", required=True, help="Why, for the operator who decides.")
@click.option("--credential", type=FILE, required=True, help="Your consumer or borrower file.")
@dimension_option
@click.pass_obj
def request(screen: Screen, *, units: int, model: str, reason: str, credential: Path, dimension: str) -> None:
    """Ask the custodian for UNITS more."""
    from aigovtool.ledger.units import Dimension  # noqa: PLC0415
    from aigovtool.operator.party_client import PartyClient  # noqa: PLC0415

    party = read_user(credential)
    with PartyClient(party) as client:
        state = client.ask(_own_scope(party, model), units, reason, Dimension(dimension))

    def render() -> None:
        units = counted(state.units, state.dimension)
        screen.line(f"asked for {units} more of {path(state.scope)}: request {short(state.ask_id)}")
        screen.line(f"it is {state.state}; see what becomes of it: aigovtool budget own --credential {credential}")

    screen.show(state, render)


def _own_scope(party: "ConsumerFile | BorrowerFile", model: str) -> "Scope":
    from aigovtool.ids import ModelId, parse_name  # noqa: PLC0415
    from aigovtool.ledger.budget import Scope  # noqa: PLC0415
    from aigovtool.protocol.party import ConsumerFile  # noqa: PLC0415

    model_id = ModelId(parse_name(model, "model"))
    if isinstance(party, ConsumerFile):
        return Scope(model=model_id, borrower=party.borrower, consumer=party.consumer)
    return Scope(model=model_id, borrower=party.borrower)


@click.command(cls=Verb, example="aigovtool budget own --credential radiology.json")
@click.option("--credential", type=FILE, required=True, help="Your consumer or borrower file.")
@click.pass_obj
def own(screen: Screen, credential: Path) -> None:
    """Show a consumer or borrower what is left for it, and what became of its requests for more."""
    from aigovtool.operator.party_client import PartyClient  # noqa: PLC0415

    with PartyClient(read_user(credential)) as client:
        view = client.own_view()
    screen.show(view, lambda: _render_own(screen, view))


def _render_own(screen: Screen, view: "OwnView") -> None:
    screen.line(f"{view.role.value} {view.name}")
    rows = [(one.model, _room(one), one.manifest) for one in view.budgets]
    screen.table(("model", ">left", "manifest digest"), rows, "no model is lent to this borrower")
    screen.line()
    asks = sorted(view.asks, key=lambda ask: ask.at_ms, reverse=True)
    columns = ("request", "budget", ">units", "reason", "at", "state")
    screen.table(columns, [_own_row(ask) for ask in asks], "nothing was asked for yet")


def _room(one: "OwnBudget") -> str:
    if one.withdrawn:
        return "withdrawn"
    if one.stopped:
        return "stopped"
    rooms = [(room.dimension.value, count(room.units)) for room in one.rooms]
    return rooms[0][1] if len(rooms) == 1 else ", ".join(f"{units} {name}" for name, units in rooms)


def _own_row(ask: "AskState") -> tuple[str, ...]:
    return (
        short(ask.ask_id),
        path(ask.scope),
        counted(ask.units, ask.dimension),
        ask.reason,
        when(ask.at_ms),
        _state(ask),
    )


@click.command(cls=Verb, example="aigovtool budget requests --all")
@click.option("--all", "everything", is_flag=True, help="Also those that were decided.")
@operator_option
@click.pass_obj
def requests(screen: Screen, operator_file: Path | None, *, everything: bool) -> None:
    """Show requests for more budget."""
    with connected(operator_file) as client:
        view = client.asks()
    found = [ask for ask in view.asks if everything or ask.state == "open"]
    rows = [(short(ask.ask_id), f"{ask.role.value} {ask.name}", *_own_row(ask)[1:]) for ask in found]
    columns = ("request", "from", "budget", ">units", "reason", "at", "state")
    screen.show(type(view)(asks=found), lambda: screen.table(columns, rows, "no request is open"))


def _state(ask: "AskState") -> str:
    if ask.decided_by is None:
        return ask.state
    units = f": {counted(ask.granted, ask.dimension)} units" if ask.granted else ""
    return f"{ask.state} by {ask.decided_by}{units}" + (f" ({ask.decision})" if ask.decision else "")


@click.command(cls=UnitsVerb, example="aigovtool budget approve 3f9c01aa42d7 --units 250")
@click.argument("ask", metavar="REQUEST")
@click.option("--units", type=UNITS, help="Fewer or more than was asked for.")
@click.option("--reason", default="", help="Why.")
@operator_option
@click.pass_obj
def approve(screen: Screen, ask: str, units: int | None, reason: str, operator_file: Path | None) -> None:
    """Approve a request; its first six characters or more are enough."""
    _decide(screen, ask=ask, operator_file=operator_file, units=units, reason=reason, approved=True)


@click.command(cls=Verb, example='aigovtool budget deny 3f9c01aa42d7 --reason "the study is over"')
@click.argument("ask", metavar="REQUEST")
@click.option("--reason", required=True, help="Why.")
@operator_option
@click.pass_obj
def deny(screen: Screen, ask: str, reason: str, operator_file: Path | None) -> None:
    """Deny a request; its first six characters or more are enough."""
    _decide(screen, ask=ask, operator_file=operator_file, units=None, reason=reason, approved=False)


def _decide(
    screen: Screen, *, ask: str, operator_file: Path | None, units: int | None, reason: str, approved: bool
) -> None:
    from aigovtool.protocol.commands import DecideAsk  # noqa: PLC0415

    with connected(operator_file) as client:
        state = _resolve(client.asks().asks, ask)
        result = client.command(DecideAsk(ask_id=state.ask_id, approve=approved, units=units, reason=reason))
        granted = (state.units if units is None else units) if approved else 0
        raised = _raised(client, result) if approved else []
        rows = client.budgets().budgets if approved else []
    decided = Decided(
        ask_id=state.ask_id,
        approved=approved,
        units=granted,
        raised=raised,
        entry=result.entry,
        held_back=held_back(rows, state, granted, now_ms=int(time.time() * 1000)),
    )
    screen.show(decided, lambda: _render_decided(screen, decided))


def _render_decided(screen: Screen, decided: Decided) -> None:
    word = "approved" if decided.approved else "denied"
    screen.line(f"request {short(decided.ask_id)} is {word} (audit log entry {decided.entry})")
    for one in decided.raised:
        limit = count(one.limit) if one.limit is None else counted(one.limit, one.dimension)
        screen.line(f"the {one.window} budget of {one.budget} is {limit} now")
    if decided.approved and not decided.raised:
        screen.line("nothing had to be raised: so many can be granted as it is")
    for held in decided.held_back:
        screen.line(held.words())


def held_back(rows: "Iterable[BudgetView]", ask: "AskState", units: int, *, now_ms: int) -> list[HeldBack]:
    """Return the budgets on the path of a request that leave less than `units` at this moment."""
    return [
        HeldBack(
            budget=path(row.key.scope),
            window=row.key.window.value,
            dimension=row.key.dimension.value,
            left=row.room,
            ended_ms=row.not_after_ms if row.not_after_ms is not None and row.not_after_ms <= now_ms else None,
        )
        for row in rows
        if row.room is not None and row.room < units and row.key.dimension is ask.dimension and _is_on_path(row, ask)
    ]


def _is_on_path(row: "BudgetView", ask: "AskState") -> bool:
    scope = row.key.scope
    return scope.model == ask.scope.model and all(
        mine is None or mine == asked
        for mine, asked in ((scope.borrower, ask.scope.borrower), (scope.consumer, ask.scope.consumer))
    )


def _resolve(asks: "list[AskState]", text: str) -> "AskState":
    """Return the one request whose id begins with `text`.

    Raises:
        NotFoundError: `no_ask`; also for a beginning so short that a mistyped one could name another request.
    """
    found = [ask for ask in asks if ask.ask_id.startswith(text)] if len(text) >= _FEWEST_CHARS else []
    if len(found) == 1:
        return found[0]
    if len(text) < _FEWEST_CHARS:
        told = f"{plain(text)!r} is too short to name a request: give its first {_FEWEST_CHARS} characters or more"
    else:
        told = f"{'more than one' if found else 'no'} request begins with {plain(text[:40])}"
    raise NotFoundError(told, reason="no_ask", fix="see `aigovtool budget requests --all`")


def _raised(client: "OperatorClient", result: "CommandResult") -> list[Raised]:
    """Return which limits the command raised, as the audit log has it."""
    limits = _limits_set(client, result)
    return [
        Raised(budget=path(one.scope), window=one.window.value, dimension=one.dimension.value, limit=one.limit)
        for one in limits
    ]


def _limits_set(client: "OperatorClient", result: "CommandResult") -> "list[BudgetLimit]":
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.ledger.entry import BudgetSet, Entry  # noqa: PLC0415

    start = max(0, result.entry - _RAISED_MAX)
    bodies = [decode(entry, Entry).body for entry in client.log_entries(start, end=result.entry)]
    return [
        body.limit for body in bodies if isinstance(body, BudgetSet) and body.command.command_id == result.command_id
    ]
