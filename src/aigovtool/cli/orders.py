"""Orders of two operators on the command line: what they say, in words, and how the first one saves them.

What is shown is made from the bytes that are signed, beside what the custodian says of the budgets now; both operators
see the same. One function per act makes the words; an act without one is not shown, and so cannot be cosigned.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.credentials import require_free
from aigovtool.cli.scope import path
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE
from aigovtool.cli.words import count, short, when
from aigovtool.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aigovtool.ledger.budget import RowKey
    from aigovtool.ledger.policy import ServingPolicy
    from aigovtool.operator.client import OperatorClient
    from aigovtool.operator.order import Order
    from aigovtool.protocol.commands import Act, RowCharge, SettleGap
    from aigovtool.protocol.views import BudgetView

NOTHING_CHARGED: Final = (
    "Nothing is charged: this says that nothing was used of what is forgotten. If that is wrong, as much as was used "
    "can be used again."
)
SOME_CHARGED: Final = (
    "Only these budgets are charged. If more was used of what is forgotten, as much as is missing here can be used "
    "again."
)
EACH_CHARGED: Final = (
    "All that remains of every budget now is charged. What leases of before give back can be granted again, and if "
    "more was used of what is forgotten, as much can be used again."
)
ALL_CHARGED: Final = (
    "All that remains of every budget is charged when this is carried out, and no lease of before is refunded "
    "anything: nothing can be used twice, and nothing is left of a budget until it is granted anew, or its hour, day "
    "or month is over."
)
FORGOTTEN_TOO: Final = (
    "What operators ordered in the meantime is forgotten too. Order it again: stops, revocations, parties, models, "
    "budgets."
)
NOT_FINAL: Final = (
    "If somebody shows later that more is lost, nothing is granted again until that is settled too. "
    "Only --charge-all is final."
)
FINAL: Final = (
    "This is final: if more turns out to be lost than was shown, the custodian goes on. So look through all of it "
    "while everything is stopped, and lift that stop only then."
)
#: What a ledger may have forgotten beside units, and what follows if nobody orders it again.
MAY_BE_FORGOTTEN: Final = (
    ("stops", "of consumers above all: they are not in force any more"),
    ("revocations", "whoever was revoked is not, an operator included; ask who was, before you cosign"),
    ("withdrawn models", "their keys are released again"),
    ("appraisal policies", "a TEE or a program that was shut out is admitted again"),
    ("terms of models", "more may leave in answers, or a stop take longer, than was ordered"),
    ("budgets", "lower limits and ends, and those of a borrower or a consumer, which bind nobody now"),
    ("witnesses", "one that was retired is believed again, one that was enrolled is not"),
)

_SAVE: Final = "add --save order.json, and have another operator run `aigovtool cosign order.json`"

#: Prints what an order does.
Show = Callable[[], None]

save_option = click.option(
    "--save", "save", type=FILE, required=True, help="File for the order; another operator cosigns it. Must not exist."
)
save_if_two_option = click.option(
    "--save", "save", type=FILE, help="Where two operators are needed: file for the order; another one cosigns it."
)
reason_option = click.option("--reason", required=True, help="Why, for the other operator.")


class ChargeLine(Struct, frozen=True, kw_only=True):
    """One budget row and what an order charges to it. `left` is null without a limit, or where there is no such row."""

    budget: str
    window: str
    dimension: str
    left: int | None
    charged: int
    left_then: int | None


class SavedOrder(Struct, frozen=True, kw_only=True):
    """An order that one operator signed and nobody has sent; `reason` is empty where the act has none.

    `final`: it settles a gap for good, whatever else turns out to be lost.
    """

    file: str
    command_id: str
    act: str
    operator: str
    reason: str
    valid_until_ms: int
    charges: list[ChargeLine]
    final: bool


def charge_lines(rows: "Sequence[BudgetView]", charges: "Sequence[RowCharge]", *, now_ms: int) -> list[ChargeLine]:
    """Return what is charged, and with it every budget that has units left and is not.

    Of a window that is over it is said which one it is: who charges that, charges nothing that anybody could still use.
    Whether it is over is judged by the clock here (`now_ms`), and not by what the custodian shows as present.
    """
    charged = {charge.row: charge.units for charge in charges}
    known = {row.key: row for row in rows}
    shown = [key for key, row in known.items() if key in charged or row.room]
    lines = []
    for key in [*shown, *(key for key in charged if key not in known)]:
        left, units = (known[key].room if key in known else None), charged.get(key, 0)
        lines.append(
            ChargeLine(
                budget=path(key.scope),
                window=key.window.value if key in known and _is_present(key, now_ms) else _window_over(key),
                dimension=key.dimension.value,
                left=left,
                charged=units,
                left_then=None if left is None else max(0, left - units),
            )
        )
    return lines


def _is_present(key: "RowKey", now_ms: int) -> bool:
    from aigovtool.ledger.budget import bucket_of  # noqa: PLC0415

    return key.bucket_ms == bucket_of(key.window, now_ms)


def _window_over(key: "RowKey") -> str:
    return f"{key.window.value} of {when(key.bucket_ms)}" if key.bucket_ms else key.window.value


def meaning(lines: "Sequence[ChargeLine]") -> str:
    """Return what the choice of charges means, judged by what is left of all budgets that have a limit."""
    if not any(line.charged for line in lines):
        return NOTHING_CHARGED
    limited = [line for line in lines if line.left is not None]
    return EACH_CHARGED if limited and not any(line.left_then for line in limited) else SOME_CHARGED


def settlement_lines(rows: "Sequence[BudgetView]", act: "SettleGap") -> list[ChargeLine]:
    """Return what a settlement charges: what it names, or all that remains."""
    from aigovtool.protocol.commands import RowCharge  # noqa: PLC0415

    remaining = [RowCharge(row=row.key, units=row.room) for row in rows if row.room]
    return charge_lines(rows, remaining if act.final else act.charges, now_ms=int(time.time() * 1000))


def show_charges(screen: Screen, lines: "Sequence[ChargeLine]", *, final: bool) -> None:
    """Print the charges of a settlement, what they mean, and what else may be forgotten."""
    columns = ("budget", "window", "counts", ">left now", ">charged", ">left then")
    rows = [
        (
            line.budget,
            line.window,
            line.dimension,
            "-" if line.left is None else count(line.left),
            count(line.charged),
            "-" if line.left_then is None else count(line.left_then),
        )
        for line in lines
    ]
    screen.table(columns, rows, "no budget is charged")
    screen.line(ALL_CHARGED if final else meaning(lines), style="bold")
    screen.line(FORGOTTEN_TOO)
    screen.facts(MAY_BE_FORGOTTEN)
    screen.line(FINAL if final else NOT_FINAL, style="bold")


def saved(client: "OperatorClient", act: "Act", save: Path, *, lines: "Sequence[ChargeLine]" = ()) -> SavedOrder:
    """Sign an act, and save it for another operator; nothing is sent."""
    from aigovtool.operator.order import write_order  # noqa: PLC0415

    require_free(save, "--save")
    order = client.order(act)
    write_order(save, order)
    return described(order, file=save, lines=lines)


def require_way(policy: "ServingPolicy", save: Path | None, *, more_leaves: bool = False) -> None:
    """Refuse to send terms that need two operators, and to save those that one of them can order.

    `more_leaves`: there are two operators, and by these terms more leaves in answers than by the present ones.

    Raises:
        ConflictError: `needs_second`, `needs_one`.
        ConfigurationError: `file_exists`, `no_directory`.
    """
    from aigovtool.protocol.cosigning import leaves_alone  # noqa: PLC0415

    alone = leaves_alone(policy)
    two = alone or more_leaves
    if two and save is None:
        raise ConflictError(
            "this needs a second operator: "
            + (
                "it leaves enclaves alone for long, and a stop can be withheld as long"
                if alone
                else "it lets more leave in the model's answers"
            ),
            reason="needs_second",
            fix=_SAVE,
        )
    if save is not None and not two:
        raise ConflictError("this needs one operator only", reason="needs_one", fix="leave --save out")
    if save is not None:
        require_free(save, "--save")


def require_signers(client: "OperatorClient", act: "Act", save: Path | None) -> None:
    """Refuse to send what takes two operators here, and to save what one of them can order.

    Raises:
        ConflictError: `needs_second`, `needs_one`.
        ConfigurationError: `file_exists`, `no_directory`.
    """
    from aigovtool.protocol.cosigning import needs_two  # noqa: PLC0415

    two = needs_two(act, operators=client.parties().operators())
    if two and save is None:
        raise ConflictError("this needs a second operator", reason="needs_second", fix=_SAVE)
    if save is not None and not two:
        raise ConflictError(
            "this needs one operator only: there is no second one yet", reason="needs_one", fix="leave --save out"
        )
    if save is not None:
        require_free(save, "--save")


def require_next(version: int, present: int) -> None:
    """Refuse to sign as the second, or to have signed, what would stay usable after another change.

    Raises:
        ConflictError: `not_next_version`.
    """
    if version != present + 1:
        raise ConflictError(
            f"version {version} does not follow version {present}, which is in force: another one could come between",
            reason="not_next_version",
            fix=f"order version {present + 1}",
        )


def described(order: "Order", *, file: Path, lines: "Sequence[ChargeLine]") -> SavedOrder:
    """Return what an order says."""
    from aigovtool.protocol.commands import Resume, SettleGap, WriteOff  # noqa: PLC0415

    act = order.command.act
    return SavedOrder(
        file=str(file),
        command_id=order.command.command_id,
        act=str(type(act).__struct_config__.tag),
        operator=order.command.operator,
        reason=act.reason if isinstance(act, Resume | SettleGap | WriteOff) else "",
        valid_until_ms=order.valid_until_ms,
        charges=[line for line in lines if line.charged],
        final=isinstance(act, SettleGap) and act.final,
    )


def say_saved(screen: Screen, done: SavedOrder) -> None:
    """Say what is to be done with a saved order."""
    screen.line(f"{done.file} is signed by {done.operator}, and not sent: it needs a second operator.", style="bold")
    screen.facts(
        [
            ("order", short(done.command_id)),
            *([("reason", done.reason)] if done.reason else []),
            ("to be sent by", when(done.valid_until_ms)),
            ("next", f"another operator runs: aigovtool cosign {done.file}"),
        ]
    )
