"""What becomes of a stop: which enclaves it concerns, who acknowledged, who is only bounded, who came after.

Shared by the verbs that stop something: `stop`, `revoke` and `model withdraw`.
"""

import time
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from aigovtool.cli.screen import Screen
from aigovtool.cli.words import amount, count, short, span, when

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aigovtool.ledger.entry import StopTarget
    from aigovtool.ledger.units import UnitVector
    from aigovtool.operator.client import OperatorClient
    from aigovtool.protocol.commands import CommandResult
    from aigovtool.protocol.views import Enclaves, EnclaveView

_POLL_S: Final = 0.25
#: Without contact for this long an enclave wipes itself (the default of serving policies).
_DEAD_MAN_MS: Final = 600_000
#: A renewal comes every few seconds: who was silent for this long will hardly acknowledge within the wait.
_SILENT_MS: Final = 15_000

wait_option = click.option(
    "--wait", "wait_s", type=click.IntRange(0, 600), default=5, show_default=True, help="Seconds to watch."
)


class StoppedEnclave(Struct, frozen=True, kw_only=True):
    """One enclave that a stop concerns.

    `answers`: it has not acknowledged yet, but was in touch lately. `bounded_until_ms` is null once the wipe is
    acknowledged. `clock_trusted`: its host cannot slow the clock by which that is; else it is bounded in units alone.
    """

    instance: str
    borrower: str
    models: list[str]
    simulated: bool
    connected: bool
    answers: bool
    wipe_acknowledged: bool
    outstanding: "UnitVector"
    bounded_until_ms: int | None
    clock_trusted: bool = True


class StopReport(Struct, frozen=True, kw_only=True):
    """What a stop came to, as far as it is known at `server_time_ms`.

    `successors` are enclaves that the borrower of a stopped enclave attested since: an enclave's stop ends one boot.
    `unlisted` enclaves of a borrower were heard of lately, too, and are not among those that are shown.
    """

    target: str
    value: str
    epoch: int
    entry: int
    enclaves: list[StoppedEnclave]
    outstanding: "UnitVector"
    server_time_ms: int
    successors: list[str] = []
    unlisted: dict[str, int] = {}


def watch(
    client: "OperatorClient", target: "StopTarget", value: str, result: "CommandResult", wait_s: int
) -> StopReport:
    """Look until every enclave that holds weights has acknowledged, or the time is over.

    After the stop of one enclave it is looked for a successor all that time, unless one was found.
    """
    deadline_s = time.monotonic() + wait_s
    since_ms = _logged_at_ms(client, result.entry) if target.value == "enclave" else None
    while True:
        report = report_of(
            client.enclaves(), target, value, epoch=result.epoch or 0, entry=result.entry, since_ms=since_ms
        )
        if _is_over(report) or time.monotonic() + _POLL_S > deadline_s:
            return report
        time.sleep(_POLL_S)


def _logged_at_ms(client: "OperatorClient", entry: int) -> int:
    """Return when the custodian logged an entry, by its own time."""
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.ledger.entry import Entry  # noqa: PLC0415

    return max((decode(raw, Entry).at_ms for raw in client.log_entries(entry, end=entry + 1)), default=0)


def _is_over(report: StopReport) -> bool:
    # A consumer's stop wipes nothing, so there is nothing to wait for.
    if report.target == "consumer":
        return True
    if any(one.answers for one in report.enclaves):
        return False
    return report.target != "enclave" or bool(report.successors)


def report_of(
    view: "Enclaves", target: "StopTarget", value: str, *, epoch: int, entry: int, since_ms: int | None = None
) -> StopReport:
    """Return what the custodian's view of its enclaves says about a stop.

    Args:
        view: the enclaves.
        target: what was stopped, with `value`.
        value: its name or id; empty for everything.
        epoch: that of the stop.
        entry: its line in the audit log.
        since_ms: when it was ordered, to find the successors of one enclave.
    """
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
        outstanding=_sum(one.outstanding for one in concerned if not one.wipe_acknowledged),
        server_time_ms=view.server_time_ms,
        successors=[] if since_ms is None else _successors(view, value, since_ms),
        unlisted=_unlisted(view, target, value),
    )


def _unlisted(view: "Enclaves", target: "StopTarget", value: str) -> dict[str, int]:
    """Return of which borrowers that a stop may concern there are more enclaves than are shown."""
    if target.value == "enclave":
        return {}
    return {name: number for name, number in view.unlisted.items() if target.value != "borrower" or name == value}


def _successors(view: "Enclaves", stopped: str, since_ms: int) -> list[str]:
    borrowers = {one.borrower for one in view.enclaves if one.instance == stopped}
    return [
        one.instance
        for one in view.enclaves
        if one.instance != stopped and one.borrower in borrowers and one.attested_at_ms >= since_ms
    ]


def _sum(amounts: "Iterable[UnitVector]") -> "UnitVector":
    from aigovtool.ledger.units import ZERO  # noqa: PLC0415

    total = ZERO
    for units in amounts:
        total = total.plus(units)
    return total


def _alive(one: "EnclaveView", epoch: int, now_ms: int) -> bool:
    """Return whether an enclave could have held weights or units when the stop was ordered.

    One that is wiping itself at this moment is neither connected nor holds a lease, so its last contact counts too.
    """
    if one.wiped_epoch is not None:
        return one.wiped_epoch >= epoch
    lately = one.state == "live" and now_ms - one.last_contact_ms < _DEAD_MAN_MS
    return lately or one.connected or one.authority_until_ms > now_ms or not one.outstanding.is_zero()


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
        outstanding=one.outstanding,
        bounded_until_ms=None if acknowledged else one.authority_until_ms,
        clock_trusted=one.result.trusted_clock or one.simulated,
    )


def warn(screen: Screen, report: StopReport | None) -> None:
    """Say so if a simulated TEE is among them, also to a program."""
    if report is not None and any(one.simulated for one in report.enclaves):
        screen.banner()


def render(screen: Screen, report: StopReport) -> None:
    """Print for people who acknowledged, who is only bounded, and what may come next."""
    _render_enclaves(screen, report)
    if report.target == "enclave":
        _render_successors(screen, report)


def _render_successors(screen: Screen, report: StopReport) -> None:
    borrowers = {one.borrower for one in report.enclaves}
    name = borrowers.pop() if len(borrowers) == 1 else "NAME"
    if report.successors:
        found = ", ".join(short(one) for one in report.successors)
        screen.line(f"Its borrower has attested again since: {found} may be used.", style="bold")
    else:
        screen.line("This ends one boot of one enclave: its host may attest again, and then serves again.")
    screen.line(f"To keep it off: aigovtool stop --borrower {name}")


def _render_enclaves(screen: Screen, report: StopReport) -> None:
    rows = [
        (
            short(one.instance),
            one.borrower,
            ", ".join(one.models),
            amount(one.outstanding),
            _standing(one, report),
        )
        for one in report.enclaves
    ]
    columns = ("enclave", "borrower", "models", ">outstanding", "stopped")
    screen.table(columns, rows, "no enclave that could still serve is concerned")
    for borrower, number in sorted(report.unlisted.items()):
        more = f"{count(number)} more enclaves of {borrower} were heard of lately, and are not shown"
        screen.line(f"{more}: each is told, or ends within the ttl of its last contact.", style="bold")
    if not report.enclaves:
        return
    if report.target == "consumer":
        screen.line("Enclaves refuse this consumer as soon as they hear of it, at the latest when their leases expire.")
        return
    late = [one for one in report.enclaves if not one.wipe_acknowledged]
    screen.line(f"{len(report.enclaves) - len(late)} of {len(report.enclaves)} acknowledged the wipe.")
    if late and report.outstanding.is_zero():
        screen.line("No units are outstanding: without a lease nothing can be used.")
    elif late:
        until_ms = max(one.bounded_until_ms or 0 for one in late)
        left_ms = max(0, until_ms - report.server_time_ms)
        units = amount(report.outstanding)
        screen.line(f"At most {units} units can still be used, until {when(until_ms)} ({span(left_ms)}).", style="bold")
    if not all(one.clock_trusted for one in late):
        screen.line(
            "Where a host may slow its enclave's clock, that time is by such a clock: the units alone are certain.",
            style="bold",
        )


def _standing(one: StoppedEnclave, report: StopReport) -> str:
    if report.target == "consumer":
        return "connected: told at once" if one.connected else f"bounded until {when(one.bounded_until_ms or 0)}"
    if one.wipe_acknowledged:
        return "wipe acknowledged"
    if not one.bounded_until_ms or one.bounded_until_ms <= report.server_time_ms:
        if one.clock_trusted or one.outstanding.is_zero():
            return "not acknowledged; holds no live lease"
        return f"not acknowledged; {amount(one.outstanding)} units, by a clock that its host may slow"
    left = span(one.bounded_until_ms - report.server_time_ms)
    by = "" if one.clock_trusted else ", by a clock that its host may slow"
    return f"not acknowledged; bounded until {when(one.bounded_until_ms)} ({left}){by}"


def named(target: str, value: str) -> str:
    """Return what is stopped in words."""
    return "everything" if target == "all" else f"{target} {value if target != 'enclave' else short(value)}"
