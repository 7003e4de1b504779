"""`aigovtool stop` and `aigovtool resume`.

A stop is sent first and talked about afterwards: it is urgent, and nothing is asked. Then the enclaves that it
concerns are watched for a few seconds: each either proves with its signature that it wiped the model, or is only
bounded by the expiry of its leases, and it is shown which and until when. A resume asks first.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.credentials import connected
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import Verb, operator_option
from aigovtool.cli.words import count, plain, short, span, when
from aigovtool.errors import InvalidValueError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aigovtool.ledger.entry import StopTarget
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.views import Enclaves, EnclaveView

_POLL_S: Final = 0.25
#: Without contact for this long an enclave wipes itself (the default of serving policies).
_DEAD_MAN_MS: Final = 600_000
#: A renewal comes every few seconds: who was silent for this long will hardly acknowledge within the wait.
_SILENT_MS: Final = 15_000
_FULL_ID_CHARS: Final = 64


class StoppedEnclave(Struct, frozen=True, kw_only=True):
    """One enclave that a stop concerns.

    `answers`: it has not acknowledged yet, but was in touch lately. `bounded_until_ms` is null once the wipe is
    acknowledged.
    """

    instance: str
    borrower: str
    models: list[str]
    simulated: bool
    connected: bool
    answers: bool
    wipe_acknowledged: bool
    outstanding_units: int
    bounded_until_ms: int | None


class StopReport(Struct, frozen=True, kw_only=True):
    """What a stop came to, as far as it is known at `server_time_ms`."""

    target: str
    value: str
    epoch: int
    entry: int
    enclaves: list[StoppedEnclave]
    outstanding_units: int
    server_time_ms: int


class Resumption(Struct, frozen=True, kw_only=True):
    """A stop that was lifted."""

    target: str
    value: str
    epoch: int | None
    entry: int


def _target_options(function: "Callable[..., None]") -> "Callable[..., None]":
    for option in (
        click.option("--reason", default="", help="Why, for the audit log."),
        click.option("--enclave", metavar="ID", help="One enclave; the first characters of its id are enough."),
        click.option("--consumer", help="One consumer: its requests are refused, enclaves go on."),
        click.option("--borrower", help="Every enclave of one borrower."),
        click.option("--model", help="One model, wherever it runs."),
        click.option("--all", "everything", is_flag=True, help="Everything."),
    ):
        function = option(function)
    return function


@click.command(cls=Verb, example='aigovtool stop --model xray --reason "incident 7"')
@_target_options
@click.option("--wait", "wait_s", type=click.IntRange(0, 600), default=5, show_default=True, help="Seconds to watch.")
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
        epoch = result.epoch or 0
        screen.note(f"stopped: {_named(target.value, value)} (epoch {epoch}, audit log entry {result.entry})")
        report = _watch(client, target=target, value=value, epoch=epoch, entry=result.entry, wait_s=wait_s)
    if any(one.simulated for one in report.enclaves):
        screen.banner()
    screen.show(report, lambda: _render(screen, report))


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


def _watch(
    client: "OperatorClient", *, target: "StopTarget", value: str, epoch: int, entry: int, wait_s: int
) -> StopReport:
    """Look until every enclave that holds weights has acknowledged, or the time is over."""
    deadline_s = time.monotonic() + wait_s
    while True:
        report = _report(client.enclaves(), target, value, epoch, entry)
        # A consumer's stop wipes nothing, so there is nothing to wait for.
        if (
            target.value == "consumer"
            or not any(one.answers for one in report.enclaves)
            or time.monotonic() + _POLL_S > deadline_s
        ):
            return report
        time.sleep(_POLL_S)


def _report(view: "Enclaves", target: "StopTarget", value: str, epoch: int, entry: int) -> StopReport:
    from aigovtool.protocol.stop import concerns  # noqa: PLC0415

    concerned = [
        _of(one, epoch, view.server_time_ms)
        for one in view.enclaves
        if concerns(target, value, instance=one.instance, borrower=one.borrower, models=one.models)
        and _alive(one, epoch, view.server_time_ms)
    ]
    return StopReport(
        target=target.value,
        value=value,
        epoch=epoch,
        entry=entry,
        enclaves=concerned,
        outstanding_units=sum(one.outstanding_units for one in concerned if not one.wipe_acknowledged),
        server_time_ms=view.server_time_ms,
    )


def _alive(one: "EnclaveView", epoch: int, now_ms: int) -> bool:
    """Return whether an enclave could have held weights or units when the stop was ordered.

    One that is wiping itself at this moment is neither connected nor holds a lease, so its last contact counts too.
    """
    if one.wiped_epoch is not None:
        return one.wiped_epoch >= epoch
    lately = one.state == "live" and now_ms - one.last_contact_ms < _DEAD_MAN_MS
    return lately or one.connected or one.authority_until_ms > now_ms or one.outstanding_units > 0


def _of(one: "EnclaveView", epoch: int, now_ms: int) -> StoppedEnclave:
    acknowledged = one.wiped_epoch is not None and one.wiped_epoch >= epoch
    return StoppedEnclave(
        instance=one.instance,
        borrower=one.borrower,
        models=list(one.models),
        simulated=one.simulated,
        connected=one.connected,
        answers=not acknowledged and (one.connected or now_ms - one.last_contact_ms < _SILENT_MS),
        wipe_acknowledged=acknowledged,
        outstanding_units=one.outstanding_units,
        bounded_until_ms=None if acknowledged else one.authority_until_ms,
    )


def _render(screen: Screen, report: StopReport) -> None:
    rows = [
        (
            short(one.instance),
            one.borrower,
            ", ".join(one.models),
            count(one.outstanding_units),
            _standing(one, report),
        )
        for one in report.enclaves
    ]
    columns = ("enclave", "borrower", "models", ">outstanding", "stopped")
    screen.table(columns, rows, "no enclave that could still serve is concerned")
    if not report.enclaves:
        return
    if report.target == "consumer":
        screen.line("Enclaves refuse this consumer as soon as they hear of it, at the latest when their leases expire.")
        return
    late = [one for one in report.enclaves if not one.wipe_acknowledged]
    screen.line(f"{len(report.enclaves) - len(late)} of {len(report.enclaves)} acknowledged the wipe.")
    if late and not report.outstanding_units:
        screen.line("No units are outstanding: without a lease nothing can be used.")
    elif late:
        until_ms = max(one.bounded_until_ms or 0 for one in late)
        left_ms = max(0, until_ms - report.server_time_ms)
        units = count(report.outstanding_units)
        screen.line(f"At most {units} units can still be used, until {when(until_ms)} ({span(left_ms)}).", style="bold")


def _standing(one: StoppedEnclave, report: StopReport) -> str:
    if report.target == "consumer":
        return "connected: told at once" if one.connected else f"bounded until {when(one.bounded_until_ms or 0)}"
    if one.wipe_acknowledged:
        return "wipe acknowledged"
    if not one.bounded_until_ms or one.bounded_until_ms <= report.server_time_ms:
        return "not acknowledged; holds no live lease"
    left = span(one.bounded_until_ms - report.server_time_ms)
    return f"not acknowledged; bounded until {when(one.bounded_until_ms)} ({left})"


@click.command(cls=Verb, example="aigovtool resume --model xray --yes")
@_target_options
@click.option("--yes", is_flag=True, help="Do not ask.")
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
    operator_file: Path | None,
    everything: bool,
    yes: bool,
) -> None:
    """Lift a stop, after asking."""
    from aigovtool.protocol.commands import Resume  # noqa: PLC0415

    chosen = _chosen(everything=everything, model=model, borrower=borrower, consumer=consumer, enclave=enclave)
    with connected(operator_file) as client:
        target, value = _resolved(client, *chosen)
        if not yes:
            _confirm(screen, client, target.value, value)
        result = client.command(Resume(target=target, value=value, reason=reason))
    lifted = Resumption(target=target.value, value=value, epoch=result.epoch, entry=result.entry)
    text = f"resumed: {_named(target.value, value)} (audit log entry {result.entry})"
    screen.show(lifted, lambda: screen.line(text))


def _confirm(screen: Screen, client: "OperatorClient", target: str, value: str) -> None:
    if screen.json or not sys.stdin.isatty():
        raise InvalidValueError(
            "a resume asks first, and nobody is there to answer", reason="not_confirmed", fix="add --yes"
        )
    stops = client.stops().stops
    screen.note("in force: " + (", ".join(_named(stop.target.value, stop.value) for stop in stops) or "no stop"))
    screen.note(f"this lifts the stop of {_named(target, value)}: what it concerns may be used again")
    click.confirm("resume?", abort=True, err=True)


def _named(target: str, value: str) -> str:
    return "everything" if target == "all" else f"{target} {value if target != 'enclave' else short(value)}"
