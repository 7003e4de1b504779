"""`aigovtool enclaves`: every instance, its attestation, and what a stop could still cost on it.

`write_off` gives up what one of them holds.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aigovtool.cli.credentials import connected
from aigovtool.cli.enclaves.write_off import write_off
from aigovtool.cli.screen import Screen
from aigovtool.cli.verb import DefaultVerbGroup, Verb, operator_option
from aigovtool.cli.words import amount, count, short, span, tee_name, when

if TYPE_CHECKING:
    from aigovtool.protocol.views import Enclaves, EnclaveView


@click.group(cls=DefaultVerbGroup, default="list", example="aigovtool enclaves")
def enclaves() -> None:
    """Every enclave that attested; without a verb, their list."""


enclaves.add_command(write_off)


@enclaves.command("list", cls=Verb, example="aigovtool enclaves list")
@operator_option
@click.pass_obj
def list_enclaves(screen: Screen, operator_file: Path | None) -> None:
    """Show enclaves, newest first."""
    with connected(operator_file) as client:
        view = client.enclaves()
    if any(one.simulated for one in view.enclaves):
        screen.banner()
    columns = (
        "enclave",
        "borrower",
        "tee",
        "state",
        "models",
        "last contact",
        "attested until",
        ">outstanding",
        "bound",
    )
    rows = [_row(one, view.server_time_ms) for one in view.enclaves]

    def render() -> None:
        screen.table(columns, rows, "no enclave has attested yet")
        for line in unlisted_lines(view):
            screen.line(line, style="red")
        for one in view.enclaves:
            if one.why:
                screen.line(f"{short(one.instance)} is accepted no more: {one.why}", style="red")
            for missing in one.not_served if one.state == "live" else ():
                why = f"{missing.code}: {missing.reason}" if missing.reason else missing.code
                whose = "refused here" if missing.by == "custodian" else "set aside by the enclave"
                screen.line(f"{short(one.instance)} does not serve {missing.model}: {whose} ({why})", style="red")

    screen.show(view, render)


def unlisted_lines(view: "Enclaves") -> list[str]:
    """Return of whom there are more enclaves than are shown, in words."""
    return [
        f"{count(number)} more enclaves of {borrower} were heard of lately, and are not shown: it boots very often"
        for borrower, number in sorted(view.unlisted.items())
    ]


def _row(one: "EnclaveView", now_ms: int) -> tuple[str, ...]:
    return (
        short(one.instance),
        one.borrower,
        tee_name(one.tee.value, encrypted=one.result.memory_encryption),
        f"{one.state}, connected" if one.connected else one.state,
        ", ".join(one.models),
        f"{span(max(0, now_ms - one.last_contact_ms) // 1000 * 1000)} ago",
        when(one.valid_until_ms),
        amount(one.outstanding),
        bound(one, now_ms),
    )


def bound(one: "EnclaveView", now_ms: int) -> str:
    """Return how long an enclave can go on, whatever its host withholds; in units alone if the host keeps its clock."""
    left_ms = max(0, one.authority_until_ms - now_ms)
    if not left_ms:
        return "no lease"
    if not one.result.trusted_clock and not one.simulated:
        return f"{amount(one.outstanding)}, no time"
    return f"{span(left_ms // 1000 * 1000)} left"
