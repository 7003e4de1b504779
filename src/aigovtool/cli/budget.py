"""`aigovtool budget`: grant, set and show budgets; ask for more, approve and deny."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click
from msgspec import Struct

from aigovtool.cli.credentials import connected, read_user
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, VerbGroup, operator_option
from aigovtool.cli.words import count, plain, short, span, when
from aigovtool.errors import InvalidValueError, NotFoundError

if TYPE_CHECKING:
    from aigovtool.ids import MessageId
    from aigovtool.ledger.budget import Scope
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.commands import AskState
    from aigovtool.protocol.party import BorrowerFile, ConsumerFile
    from aigovtool.protocol.views import BudgetView

F = TypeVar("F", bound=Callable[..., None])
_MAX_UNITS: Final = 10**12
_UNITS: Final = click.IntRange(1, _MAX_UNITS)
_UNLIMITED: Final = "unlimited"


class Changed(Struct, frozen=True, kw_only=True):
    """A budget that was changed; `units` is null for no limit."""

    model: str
    borrower: str | None
    consumer: str | None
    window: str
    units: int | None
    entry: int


class Decided(Struct, frozen=True, kw_only=True):
    """A request for more budget that was decided."""

    ask_id: str
    approved: bool
    entry: int


@click.group(cls=VerbGroup, example="aigovtool budget show")
def budget() -> None:
    """How much may be used: no budget means no use."""


def _scope_options(function: F) -> F:
    for option in (
        click.option(
            "--dimension", type=_dimensions(), default="inferences", show_default=True, help="What is counted."
        ),
        click.option(
            "--window", type=_windows(), default="lifetime", show_default=True, help="Per which span of time."
        ),
        click.option("--consumer", help="Only for this consumer."),
        click.option("--borrower", help="Only for this borrower."),
        click.option("--model", required=True, help="For which model."),
    ):
        function = option(function)
    return function


def _windows() -> "click.Choice[str]":
    return click.Choice(["lifetime", "hour", "day", "month"])


def _dimensions() -> "click.Choice[str]":
    return click.Choice(["inferences", "input_tokens", "output_tokens", "cached_tokens", "compute_ms"])


def _scope(client: "OperatorClient", model: str, borrower: str | None, consumer: str | None) -> "Scope":
    """Return a scope; the borrower of a consumer is looked up when it is not given."""
    from aigovtool.ids import BorrowerId, ConsumerId, ModelId, parse_name  # noqa: PLC0415
    from aigovtool.ledger.budget import Scope  # noqa: PLC0415

    owner = None if borrower is None else BorrowerId(parse_name(borrower, "borrower"))
    if consumer is None:
        return Scope(model=ModelId(parse_name(model, "model")), borrower=owner)
    user = ConsumerId(parse_name(consumer, "consumer"))
    if owner is None:
        parties = client.parties().parties
        owner = next((p.borrower for p in parties if p.role.value == "consumer" and p.name == user), None)
        if owner is None:
            raise NotFoundError(f"there is no consumer {user}", reason="no_party", fix="see `aigovtool consumer list`")
    return Scope(model=ModelId(parse_name(model, "model")), borrower=owner, consumer=user)


@budget.command(cls=Verb, example="aigovtool budget grant --model xray 1000")
@click.argument("units", type=_UNITS)
@_scope_options
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
) -> None:
    """Add UNITS to a budget, making it where there is none."""
    from aigovtool.ledger.budget import Window  # noqa: PLC0415
    from aigovtool.ledger.units import Dimension  # noqa: PLC0415
    from aigovtool.protocol.commands import GrantBudget  # noqa: PLC0415

    with connected(operator_file) as client:
        scope = _scope(client, model, borrower, consumer)
        act = GrantBudget(scope=scope, dimension=Dimension(dimension), window=Window(window), units=units)
        entry = client.command(act).entry
    _say_changed(screen, "{units} added to {budget}", scope, window=window, units=units, entry=entry)


@budget.command("set", cls=Verb, example="aigovtool budget set --model xray --consumer radiology --window day 200")
@click.argument("units", metavar="UNITS|unlimited")
@_scope_options
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
    operator_file: Path | None,
) -> None:
    """Set a budget outright; below what is used it only means that nothing more is granted."""
    from aigovtool.ledger.budget import BudgetLimit, Window  # noqa: PLC0415
    from aigovtool.ledger.units import Dimension  # noqa: PLC0415
    from aigovtool.protocol.commands import SetBudget  # noqa: PLC0415

    limit = _limit(units)
    with connected(operator_file) as client:
        scope = _scope(client, model, borrower, consumer)
        wanted = BudgetLimit(scope=scope, dimension=Dimension(dimension), window=Window(window), limit=limit)
        entry = client.command(SetBudget(limit=wanted)).entry
    _say_changed(screen, "{budget} is {units} now", scope, window=window, units=limit, entry=entry)


def _limit(text: str) -> int | None:
    if text == _UNLIMITED:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 13 or int(text) > _MAX_UNITS:
        raise InvalidValueError(
            f"{text[:40]!r} is no number of units", reason="bad_units", fix=f"use 0 to {_MAX_UNITS} or unlimited"
        )
    return int(text)


def _say_changed(screen: Screen, text: str, scope: "Scope", *, window: str, units: int | None, entry: int) -> None:
    changed = Changed(
        model=scope.model, borrower=scope.borrower, consumer=scope.consumer, window=window, units=units, entry=entry
    )
    said = text.format(units=count(units), budget=f"the {window} budget of {_path(scope)}")
    screen.show(changed, lambda: screen.line(f"{said} (audit log entry {entry})"))


def _path(scope: "Scope") -> str:
    return " / ".join(part for part in (scope.model, scope.borrower, scope.consumer) if part is not None)


@budget.command(cls=Verb, example="aigovtool budget show --model xray")
@click.option("--model", help="Only this model.")
@operator_option
@click.pass_obj
def show(screen: Screen, model: str | None, operator_file: Path | None) -> None:
    """Show the budgets of the current windows, and what the dial means for them."""
    with connected(operator_file) as client:
        view = client.budgets()
    found = [row for row in view.budgets if model is None or row.key.scope.model == model]
    columns = ("budget", "window", "counts", ">limit", ">spent", ">held", ">left", ">lost on a crash", ">stop bound")
    rows = [_row(row) for row in found]
    screen.show(
        type(view)(budgets=found), lambda: screen.table(columns, rows, "there is no budget: nothing may be used")
    )


def _row(row: "BudgetView") -> tuple[str, ...]:
    meaning = row.consequences
    return (
        _path(row.key.scope),
        row.key.window.value,
        row.key.dimension.value,
        count(row.limit),
        count(row.posted),
        count(row.pending),
        count(row.room),
        "-" if meaning is None else f"<= {count(meaning.units_lost_on_crash_max)}",
        "-" if meaning is None else span(meaning.stop_bound_ms),
    )


@budget.command(cls=Verb, example='aigovtool budget request 500 --model xray --reason "new ward" --credential me.json')
@click.argument("units", type=_UNITS)
@click.option("--model", required=True, help="For which model.")
@click.option("--reason", required=True, help="Why, for the operator who decides.")
@click.option("--credential", type=FILE, required=True, help="Your consumer or borrower file.")
@click.pass_obj
def request(screen: Screen, units: int, model: str, reason: str, credential: Path) -> None:
    """Ask the custodian for UNITS more."""
    from aigovtool.operator.party_client import PartyClient  # noqa: PLC0415

    party = read_user(credential)
    with PartyClient(party) as client:
        state = client.ask(_own_scope(party, model), units, reason)
    text = f"asked for {count(state.units)} more of {_path(state.scope)}: request {state.ask_id} is {state.state}"
    screen.show(state, lambda: screen.line(text))


def _own_scope(party: "ConsumerFile | BorrowerFile", model: str) -> "Scope":
    from aigovtool.ids import ModelId, parse_name  # noqa: PLC0415
    from aigovtool.ledger.budget import Scope  # noqa: PLC0415
    from aigovtool.protocol.party import ConsumerFile  # noqa: PLC0415

    model_id = ModelId(parse_name(model, "model"))
    if isinstance(party, ConsumerFile):
        return Scope(model=model_id, borrower=party.borrower, consumer=party.consumer)
    return Scope(model=model_id, borrower=party.borrower)


@budget.command(cls=Verb, example="aigovtool budget requests --all")
@click.option("--all", "everything", is_flag=True, help="Also those that were decided.")
@operator_option
@click.pass_obj
def requests(screen: Screen, operator_file: Path | None, *, everything: bool) -> None:
    """Show requests for more budget."""
    with connected(operator_file) as client:
        view = client.asks()
    found = [ask for ask in view.asks if everything or ask.state == "open"]
    rows = [
        (
            short(ask.ask_id),
            f"{ask.role.value} {ask.name}",
            _path(ask.scope),
            count(ask.units),
            ask.reason,
            when(ask.at_ms),
            _state(ask),
        )
        for ask in found
    ]
    columns = ("request", "from", "budget", ">units", "reason", "at", "state")
    screen.show(type(view)(asks=found), lambda: screen.table(columns, rows, "no request is open"))


def _state(ask: "AskState") -> str:
    return ask.state if ask.decided_by is None else f"{ask.state} by {ask.decided_by}"


@budget.command(cls=Verb, example="aigovtool budget approve 3f9c01aa42d7 --units 250")
@click.argument("ask", metavar="REQUEST")
@click.option("--units", type=_UNITS, help="Fewer or more than was asked for.")
@click.option("--reason", default="", help="Why.")
@operator_option
@click.pass_obj
def approve(screen: Screen, ask: str, units: int | None, reason: str, operator_file: Path | None) -> None:
    """Approve a request; its first characters are enough."""
    _decide(screen, ask=ask, operator_file=operator_file, units=units, reason=reason, approved=True)


@budget.command(cls=Verb, example='aigovtool budget deny 3f9c01aa42d7 --reason "the study is over"')
@click.argument("ask", metavar="REQUEST")
@click.option("--reason", required=True, help="Why.")
@operator_option
@click.pass_obj
def deny(screen: Screen, ask: str, reason: str, operator_file: Path | None) -> None:
    """Deny a request; its first characters are enough."""
    _decide(screen, ask=ask, operator_file=operator_file, units=None, reason=reason, approved=False)


def _decide(
    screen: Screen, *, ask: str, operator_file: Path | None, units: int | None, reason: str, approved: bool
) -> None:
    from aigovtool.protocol.commands import DecideAsk  # noqa: PLC0415

    with connected(operator_file) as client:
        ask_id = _resolve(client.asks().asks, ask)
        result = client.command(DecideAsk(ask_id=ask_id, approve=approved, units=units, reason=reason))
    decided = Decided(ask_id=ask_id, approved=approved, entry=result.entry)
    word = "approved" if approved else "denied"
    screen.show(decided, lambda: screen.line(f"request {short(ask_id)} is {word} (audit log entry {result.entry})"))


def _resolve(asks: "list[AskState]", text: str) -> "MessageId":
    """Return the one request whose id begins with `text`."""
    found = [ask.ask_id for ask in asks if text and ask.ask_id.startswith(text)]
    if len(found) != 1:
        what = "no request" if not found else "more than one request"
        raise NotFoundError(
            f"{what} begins with {plain(text[:40])}", reason="no_ask", fix="see `aigovtool budget requests --all`"
        )
    return found[0]
