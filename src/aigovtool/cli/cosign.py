"""`aigovtool cosign`: the second operator's half of an order that needs two.

It shows what the order says from the bytes that will be signed, asks, signs, and sends. A settlement is refused when a
newer checkpoint was shown since it was signed: the two operators judged something else.
"""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct
from msgspec.structs import replace

from aigovtool.cli import orders
from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import FILE, Verb, operator_option
from aigovtool.cli.words import short, span, when
from aigovtool.errors import ConflictError

if TYPE_CHECKING:
    from aigovtool.attestation.policy import AppraisalPolicy
    from aigovtool.cli.appraisal.verb import PolicySet
    from aigovtool.cli.custodian.gap import Gap
    from aigovtool.operator.client import OperatorClient
    from aigovtool.operator.order import Order
    from aigovtool.protocol.commands import AddModel, AddParty, SettleGap
    from aigovtool.protocol.views import GapView


class Cosigned(Struct, frozen=True, kw_only=True):
    """An order that two operators signed, and the custodian carried out; a `final` one settled a gap for good."""

    command_id: str
    act: str
    operator: str
    cosigned_by: str
    reason: str
    entry: int
    charges: list[orders.ChargeLine]
    final: bool


@click.command(cls=Verb, example="aigovtool cosign order.json --operator bob.json")
@click.argument("file", type=FILE)
@yes_option
@operator_option
@click.pass_obj
def cosign(screen: Screen, *, file: Path, operator_file: Path | None, yes: bool) -> None:
    """Show what another operator orders with FILE, ask, add your signature, and send it.

    Settling a gap, writing an enclave off, lending a model under the island dial, and, once there are two operators,
    enrolling another one, lifting a stop or changing which enclaves are accepted: each could undo what the ledger or a
    stop exists for. The first one saves the order (`custodian settle`, `enclaves write-off`, `model terms`,
    `model add`, `operator add`, `resume`, `appraisal set`) and hands the file over on any path; it is good for a day.
    """
    from aigovtool.operator.order import read_order  # noqa: PLC0415

    order = read_order(file)
    with connected(operator_file) as client:
        both = client.cosign(order)
        lines, show = _understood(screen, client, order)
        if not screen.json:
            _say(screen, order)
            show()
        if not yes:
            confirm(screen, "cosign", ["your signature makes this order valid; it is sent at once"])
        result = client.deliver(both)
        me = client.file.operator
    said = orders.described(order, file=file, lines=lines)
    done = Cosigned(
        command_id=said.command_id,
        act=said.act,
        operator=said.operator,
        cosigned_by=me,
        reason=said.reason,
        entry=result.entry,
        charges=said.charges,
        final=said.final,
    )
    screen.show(done, lambda: _say_done(screen, done))


def _understood(
    screen: Screen, client: "OperatorClient", order: "Order"
) -> tuple[list[orders.ChargeLine], orders.Show]:
    """Return the charges of an order, and how what it does is printed.

    Raises:
        ConflictError: `no_gap`, `gap_changed`, `terms_changed`, and what the act itself cannot be done for.
    """
    from aigovtool.cli.appraisal.loud import warn  # noqa: PLC0415
    from aigovtool.cli.appraisal.verb import policy_changes  # noqa: PLC0415
    from aigovtool.cli.enclaves.write_off import expired_of, show_expired  # noqa: PLC0415
    from aigovtool.cli.model.terms import compare, show_terms  # noqa: PLC0415
    from aigovtool.cli.stop.verb import lifting  # noqa: PLC0415
    from aigovtool.protocol.commands import (  # noqa: PLC0415
        AddModel,
        AddParty,
        Resume,
        SetAppraisalPolicy,
        SetModelTerms,
        SettleGap,
        WriteOff,
    )

    act = order.command.act
    show: orders.Show
    match act:
        case WriteOff():
            show = partial(show_expired, screen, expired_of(client, act.instance))
        case SetModelTerms():
            show = partial(show_terms, screen, compare(client, act))
        case AddModel():
            show = partial(_show_lending, screen, act)
        case AddParty():
            show = partial(_show_enrolment, screen, act)
        case SetAppraisalPolicy(policy=policy):
            show = partial(_show_policy, screen, policy_changes(client, policy), policy)
            warn(screen, policy)
        case Resume():
            show = partial(_show_lines, screen, lifting(client, act))
        case SettleGap():
            return _settlement(screen, client, act)
        case _:
            raise ConflictError("this order needs one operator only", reason="needs_one")
    return [], show


def _show_lines(screen: Screen, lines: list[str]) -> None:
    for line in lines:
        screen.line(line)


def _show_policy(screen: Screen, changes: "PolicySet", policy: "AppraisalPolicy") -> None:
    """Print what changes, as the custodian tells what is in force, and all that is signed, whatever it tells."""
    from aigovtool.cli.appraisal.verb import show_changes  # noqa: PLC0415
    from aigovtool.cli.appraisal.words import rules  # noqa: PLC0415

    show_changes(screen, changes)
    screen.line()
    screen.line("All that the order accepts; what is in force now is the custodian's word:", style="bold")
    screen.table(("what", "accepted"), [(rule.what, rule.text) for rule in rules(policy)], "")


def _show_lending(screen: Screen, act: "AddModel") -> None:
    from aigovtool.cli.model.dial import EXAMPLE, meaning, terms_facts  # noqa: PLC0415

    screen.line("The order lends a model that was uploaded:", style="bold")
    screen.facts([("model", act.model), ("manifest digest", act.manifest), ("package", act.package)])
    screen.line(EXAMPLE.words() + ":")
    screen.facts(terms_facts(meaning(act.policy, act.borrowers, EXAMPLE)))


def _show_enrolment(screen: Screen, act: "AddParty") -> None:
    from aigovtool.ids import key_id_of  # noqa: PLC0415

    screen.line(f"The order enrols {act.role} {act.name}. Whoever holds this key can then sign with you:", style="bold")
    screen.facts([("public key", act.key.hex()), ("key id", key_id_of(act.key)), ("valid for", span(act.valid_for_ms))])
    screen.line(f"Ask {act.name} which public key it is, on a path of your own.")


def _settlement(
    screen: Screen, client: "OperatorClient", act: "SettleGap"
) -> tuple[list[orders.ChargeLine], orders.Show]:
    from aigovtool.cli.custodian.gap import gap_of, require_stopped, show_gap  # noqa: PLC0415

    view = client.gap()
    if not _names(view, act):
        raise ConflictError(
            "there is no gap to settle any more"
            if view.checkpoint is None
            else "a newer checkpoint was shown since this order was signed",
            reason="no_gap" if view.checkpoint is None else "gap_changed",
            fix="look again with `aigovtool custodian gap`; the first operator then saves a new order",
        )
    if act.final:
        require_stopped(client)
    lines = orders.settlement_lines(client.budgets().budgets, act)
    found = _as_signed(gap_of(view, int(time.time() * 1000)), act)

    def show() -> None:
        show_gap(screen, found)
        screen.line()
        screen.line("The order puts the ledger back into service, and charges what follows:", style="bold")
        orders.show_charges(screen, lines, final=act.final)

    return lines, show


def _names(view: "GapView", act: "SettleGap") -> bool:
    """Return whether the custodian takes the order for the gap that it has: a final one for any of its generation."""
    from aigovtool.ledger.checkpoint import parse_checkpoint  # noqa: PLC0415

    if view.checkpoint is None or view.checkpoint == act.checkpoint:
        return view.checkpoint is not None
    return act.final and parse_checkpoint(act.checkpoint).generation == view.lost_generation


def _as_signed(found: "Gap", act: "SettleGap") -> "Gap":
    """Return a gap with what the order itself says was signed and lost, and not what the custodian says of it."""
    from aigovtool.ledger.checkpoint import parse_checkpoint  # noqa: PLC0415

    lost = parse_checkpoint(act.checkpoint)
    size = max(lost.size, found.signed_size or 0) if act.final else lost.size
    return replace(
        found, signed_size=size, signed_generation=lost.generation, entries_lost_min=max(1, size - found.size)
    )


def _say(screen: Screen, order: "Order") -> None:
    command = order.command
    left_ms = max(0, order.valid_until_ms - int(time.time() * 1000)) // 60_000 * 60_000
    said = orders.described(order, file=Path(), lines=[])
    screen.line(f"Operator {command.operator} orders: {said.act.replace('_', ' ')}", style="bold")
    screen.facts(
        [
            ("order", short(command.command_id)),
            ("signed", when(command.issued_at_ms)),
            ("good until", f"{when(order.valid_until_ms)} ({span(left_ms)} left)"),
            ("custodian", short(command.custodian)),
            *([("reason", said.reason)] if said.reason else []),
        ]
    )
    screen.line()


def _say_done(screen: Screen, done: Cosigned) -> None:
    screen.line(
        f"done: {done.act.replace('_', ' ')}, ordered by {done.operator} and {done.cosigned_by} "
        f"(audit log entry {done.entry})",
        style="green",
    )
    if done.act == "add_party":
        screen.line("Next: aigovtool operator certificate NAME -o FILE, for the new operator to finish with.")
    if done.act == "settle_gap":
        screen.line("See `aigovtool custodian gap` for when it grants again. " + orders.FORGOTTEN_TOO)
