"""`aigovtool connect status`: what a gateway that runs says of itself."""

import http.client
import time
from typing import TYPE_CHECKING, Final

import click

from aigovtool.cli.address import LISTEN, Address
from aigovtool.cli.screen import LOUD, SIMULATED, Screen
from aigovtool.cli.verb import Seconds, Verb
from aigovtool.cli.words import amount, short, span, tee_name
from aigovtool.errors import UnreachableError

if TYPE_CHECKING:
    from aigovtool.consumer.connect.status import EnclaveStatus, Status

_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 4 << 20
#: In which style a state of an enclave is told.
STATES: Final = {"verified": "green", "unreachable": "bold yellow", "refused": "bold red"}


@click.command(cls=Verb, example="aigovtool connect status --gateway 127.0.0.1:8000 --watch")
@click.option("--gateway", type=LISTEN, default="127.0.0.1:8000", show_default=True, help="HOST:PORT of the gateway.")
@click.option(
    "--watch",
    "every_s",
    is_flag=False,
    flag_value=2.0,
    type=Seconds(0.2, 3600),
    help="Show it all the time, anew every so many seconds (2), until interrupted.",
)
@click.pass_obj
def status(screen: Screen, *, gateway: Address, every_s: float | None) -> None:
    """Show what a gateway knows of its enclaves: evidence, units left, how fast they answer, and why one does not."""
    if every_s is not None and (canvas := screen.canvas) is not None:
        from aigovtool.cli.connect.view import watched  # noqa: PLC0415

        watched(canvas, lambda: _read(gateway), every_s)
        return
    found = _read(gateway)
    if found.simulated:
        screen.banner(SIMULATED)
    if every_s is not None:
        screen.go_on()
    _show(screen, found)
    while every_s is not None:
        time.sleep(every_s)
        _show(screen, _read(gateway))


def _show(screen: Screen, found: "Status") -> None:
    screen.show(found, lambda: _render(screen, found))


def _read(gateway: Address) -> "Status":
    from aigovtool.codec import decode  # noqa: PLC0415
    from aigovtool.consumer.connect.status import Status  # noqa: PLC0415

    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/aigovtool/status")
        answer = connection.getresponse()
        content = answer.read(_MAX_BYTES + 1)
    except (OSError, http.client.HTTPException):
        raise UnreachableError(
            f"no gateway answers at {gateway.host} port {gateway.port}",
            reason="no_gateway",
            fix="start one with `aigovtool connect`, or name its address with --gateway",
        ) from None
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise UnreachableError("what answers there is no gateway", reason="no_gateway")
    return decode(content, Status, max_bytes=_MAX_BYTES)


def _render(screen: Screen, found: "Status") -> None:
    screen.line(f"{found.consumer}, a consumer of {found.borrower}; policy {found.policy_version}", "bold")
    for one in found.enclaves:
        screen.line()
        styles = {"state": STATES[one.state.value], "why": "red", "warning": LOUD}
        screen.facts([("enclave", one.enclave), *_facts(one, found.now_ms)], styles)
    kept = f"receipts kept since the gateway began: {found.receipts_kept:,}"
    screen.line()
    lost = f"; {found.receipts_lost:,} COULD NOT BE KEPT" if found.receipts_lost else ""
    screen.line(kept + lost, LOUD if lost else None)


def _facts(one: "EnclaveStatus", now_ms: int) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [("state", one.state.value)]
    facts += [(name, value) for name, value in (("why", one.why), ("fix", one.fix)) if value]
    if one.tee is not None and one.verified_at_ms is not None:
        facts += [
            ("platform", tee_name(one.tee.value, encrypted=one.memory_encryption)),
            *([("asked", "sealed, as behind a load balancer that ends TLS")] if one.sealed else []),
            ("instance", short(one.instance or "")),
            ("verified", f"{span(max(0, now_ms - one.verified_at_ms) // 1000 * 1000)} ago"),
        ]
    speed = ""
    if one.latency_p50_ms is not None and one.latency_p99_ms is not None:
        speed = f", half within {one.latency_p50_ms:.1f} ms, 99% within {one.latency_p99_ms:.1f} ms"
    facts.append(("answers", f"{one.answered:,}{speed}; {one.refused:,} refused, {one.failed:,} failed"))
    for model in one.models:
        left = "not known yet" if model.remaining is None else f"{amount(model.remaining)} left"
        facts.append((f"model {model.model}", (left, short(model.manifest.removeprefix("sha256:")))))
    facts += [("warning", text) for text in one.warnings]
    return facts
