"""`aigovtool stop` and `aigovtool resume`.

A stop is sent first and talked about afterwards: it is urgent, and nothing is asked. Then the enclaves that it
concerns are watched for a few seconds: each either proves with its signature that it wiped the model, or is only
bounded by the expiry of its leases, and it is shown which and until when. A resume asks first.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli import orders
from aigovtool.cli.confirm import confirm, yes_option
from aigovtool.cli.credentials import connected
from aigovtool.cli.scope import find_model
from aigovtool.cli.screen import Screen
from aigovtool.cli.stop import stopped
from aigovtool.cli.stop.stopped import named
from aigovtool.cli.verb import Verb, operator_option
from aigovtool.cli.words import plain
from aigovtool.errors import ConflictError, InvalidValueError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aigovtool.ledger.entry import StopTarget
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.commands import Resume

_FULL_ID_CHARS: Final = 64


class Resumption(Struct, frozen=True, kw_only=True):
    """A stop that was lifted; or, with the order and without an entry, one that another operator has to lift, too."""

    target: str
    value: str
    epoch: int | None
    entry: int | None
    order: orders.SavedOrder | None = None


def _target_options(function: "Callable[..., None]") -> "Callable[..., None]":
    for option in (
        click.option("--reason", default="", help="Why, for the audit log."),
        click.option(
            "--enclave",
            metavar="ID",
            help="One boot of one enclave; the first characters of its id are enough. Its host may attest again: "
            "to keep it off, use --borrower.",
        ),
        click.option("--consumer", help="One consumer: its requests are refused, enclaves go on."),
        click.option("--borrower", help="Every enclave of one borrower."),
        click.option("--model", help="One model, wherever it runs."),
        click.option("--all", "everything", is_flag=True, help="Everything."),
    ):
        function = option(function)
    return function


@click.command(cls=Verb, example='aigovtool stop --model xray --reason "incident 7"')
@_target_options
@stopped.wait_option
@operator_option
@click.pass_obj
def stop(
    screen: Screen,
    *,
    model: str | None,
    borrower: str | None,
    consumer: str | None,
    enclave: str | None,
    reason: str,
    wait_s: int,
    operator_file: Path | None,
    everything: bool,
) -> None:
    """Stop now, without asking; then show who acknowledged the wipe, and who is only bounded by expiry."""
    from aigovtool.protocol.commands import Stop  # noqa: PLC0415

    chosen = _chosen(everything=everything, model=model, borrower=borrower, consumer=consumer, enclave=enclave)
    with connected(operator_file) as client:
        target, value = _resolved(client, *chosen)
        result = client.command(Stop(target=target, value=value, reason=reason))
        screen.note(f"stopped: {named(target.value, value)} (epoch {result.epoch}, audit log entry {result.entry})")
        report = stopped.watch(client, target, value, result, wait_s)
    stopped.warn(screen, report)
    screen.show(report, lambda: stopped.render(screen, report))


def _chosen(
    *, everything: bool, model: str | None, borrower: str | None, consumer: str | None, enclave: str | None
) -> tuple[str, str]:
    """Return target and value of the one option that was given."""
    given = [("all", "")] if everything else []
    named = (("model", model), ("borrower", borrower), ("consumer", consumer), ("enclave", enclave))
    given += [(target, value) for target, value in named if value is not None]
    if len(given) != 1:
        raise InvalidValueError(
            "say what: exactly one target",
            reason="bad_target",
            fix="give one of --all, --model, --borrower, --consumer, --enclave",
        )
    return given[0]


def _resolved(client: "OperatorClient", target: str, value: str) -> "tuple[StopTarget, str]":
    """Complete the beginning of an enclave's id; everything else is the custodian's to judge."""
    from aigovtool.ledger.entry import StopTarget  # noqa: PLC0415

    if target != "enclave" or len(value) == _FULL_ID_CHARS:
        return StopTarget(target), value
    found = [one.instance for one in client.enclaves().enclaves if value and one.instance.startswith(value)]
    if len(found) != 1:
        what = "no enclave" if not found else "more than one enclave"
        raise NotFoundError(
            f"{what} begins with {plain(value[:40])}", reason="no_enclave", fix="see `aigovtool enclaves`"
        )
    return StopTarget.ENCLAVE, found[0]


@click.command(cls=Verb, example="aigovtool resume --model xray --yes")
@_target_options
@orders.save_if_two_option
@yes_option
@operator_option
@click.pass_obj
def resume(
    screen: Screen,
    *,
    model: str | None,
    borrower: str | None,
    consumer: str | None,
    enclave: str | None,
    reason: str,
    save: Path | None,
    operator_file: Path | None,
    everything: bool,
    yes: bool,
) -> None:
    """Lift a stop, after asking.

    Once there is a second operator it takes two: --save the order, and have another one `aigovtool cosign` it.
    """
    from aigovtool.protocol.commands import Resume  # noqa: PLC0415

    chosen = _chosen(everything=everything, model=model, borrower=borrower, consumer=consumer, enclave=enclave)
    with connected(operator_file) as client:
        target, value = _resolved(client, *chosen)
        act = Resume(target=target, value=value, reason=reason, epoch=_epoch_of(client, target, value))
        meaning = lifting(client, act)
        orders.require_signers(client, act, save)
        if save is not None:
            done = Resumption(
                target=target.value, value=value, epoch=None, entry=None, order=orders.saved(client, act, save)
            )
        else:
            if not yes:
                confirm(screen, "resume", meaning)
            result = client.command(act)
            done = Resumption(target=target.value, value=value, epoch=result.epoch, entry=result.entry)
    screen.show(done, lambda: _say(screen, done))


def _say(screen: Screen, done: Resumption) -> None:
    if done.order is not None:
        orders.say_saved(screen, done.order)
    else:
        screen.line(f"resumed: {named(done.target, done.value)} (audit log entry {done.entry})")


def lifting(client: "OperatorClient", act: "Resume") -> list[str]:
    """Return what lifting a stop means: what is in force now, and what is lifted.

    Raises:
        NotFoundError: there is no such model or party: a misspelt name.
        ConflictError: `not_stopped`; `stop_changed` when it was stopped again since the order was made.
    """
    in_force = _require_stopped(client, act.target, act.value)
    present = _epoch_of(client, act.target, act.value)
    # A stop that nobody ordered again can have another epoch by now.
    if act.epoch != present and not _ordered(client, act) <= (act.epoch or 0) < (present or 0):
        raise ConflictError(
            f"the order does not lift the present stop of {named(act.target.value, act.value)}: it was stopped again",
            reason="stop_changed",
            fix="find out why; if it is to be lifted all the same, have the first operator save a new order",
        )
    which = f"the stop of {named(act.target.value, act.value)} of epoch {act.epoch}"
    return [f"in force: {in_force}", f"this lifts {which}: what it concerns may be used again"]


def _epoch_of(client: "OperatorClient", target: "StopTarget", value: str) -> int | None:
    """Return the epoch of a stop in force; None where there is none."""
    return next((stop.epoch for stop in client.stops().stops if (stop.target, stop.value) == (target, value)), None)


def _ordered(client: "OperatorClient", act: "Resume") -> int:
    """Return the epoch at which what an order lifts was stopped last; one above all where the log does not say."""
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.ledger.entry import Entry, Stopped  # noqa: PLC0415
    from aigovtool.limits import MAX_INTEGER  # noqa: PLC0415

    _, newest = client.verified_head()  # else a custodian that lies could go on with entries for ever
    bodies = (decode(line, Entry).body for line in client.log_found("stopped", before=newest.size))
    found = (
        body for body in bodies if isinstance(body, Stopped) and (body.target, body.value) == (act.target, act.value)
    )
    return next((body.epoch for body in found), MAX_INTEGER)


def _require_stopped(client: "OperatorClient", target: "StopTarget", value: str) -> str:
    """Return the stops in force, in words; raises as `lifting`."""
    stops = client.stops().stops
    in_force = ", ".join(named(stop.target.value, stop.value) for stop in stops) or "no stop"
    if any((stop.target, stop.value) == (target, value) for stop in stops):
        return in_force
    if target.value == "model":
        find_model(client.models().models, value)
    if target.value in {"borrower", "consumer"}:
        _require_party(client, target.value, value)
    raise ConflictError(
        f"{named(target.value, value)} is not stopped", reason="not_stopped", fix=f"in force: {in_force}"
    )


def _require_party(client: "OperatorClient", role: str, name: str) -> None:
    if not any((party.role.value, party.name) == (role, name) for party in client.parties().parties):
        raise NotFoundError(f"there is no {role} {name[:80]!r}", reason="no_party", fix=f"see `aigovtool {role} list`")
