"""What a gateway knows, drawn on a terminal and kept up to date: `connect --tui`, `connect status --watch`.

What matters most stands first, because what does not fit at the bottom is not shown.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aigovtool.cli.connect.kept import details
from aigovtool.cli.connect.status import STATES
from aigovtool.cli.screen import LOUD, SIMULATED, UNENCRYPTED
from aigovtool.cli.words import amount, short, span, tee_name, told, when
from aigovtool.errors import UnreachableError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from aigovtool.consumer.connect.app import Beside, Running
    from aigovtool.consumer.connect.status import EnclaveStatus, Status

_EVERY_S: Final = 1.0

Draw = Callable[["Status", str], None]


@contextmanager
def drawing(console: "Console", ends: str) -> Iterator[Draw]:
    """Take the whole terminal, and yield what draws a status on it, with what is wrong now; gives it back at the end.

    Args:
        console: a terminal.
        ends: what is told of it, and what ends it.
    """
    from rich.live import Live  # noqa: PLC0415 - only on a terminal

    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda status, wrong: live.update(view(status, wrong, ends, console.width), refresh=True)


def view(status: "Status", wrong: str, ends: str, width: int) -> "RenderableType":
    """Return all of it; what comes from others is text, and moves no terminal."""
    from rich.console import Group  # noqa: PLC0415

    tables = (_enclaves(status, width), *_models(status, width), *_seen(status, width))
    return Group(*_loud(status, wrong), *_head(status, ends), *tables)


def _text(words: object, style: str = "") -> "Text":
    from rich.text import Text  # noqa: PLC0415

    return Text(told(words), style=style)


def _loud(status: "Status", wrong: str) -> list["RenderableType"]:
    """Return what nobody may overlook."""
    found = [wrong] if wrong else []
    if status.simulated:
        found.append(SIMULATED)
    if any(one.tee is not None and one.tee.value == "tpm" for one in status.enclaves):
        found.append(UNENCRYPTED)
    if status.receipts_lost:
        found.append(f"{status.receipts_lost:,} receipts could not be kept: see the gateway's log")
    for one in status.enclaves:
        if one.why:
            found.append(f"{one.enclave} {one.state.value.upper()}: {one.why}" + (f" ({one.fix})" if one.fix else ""))
        told_already = SIMULATED.partition(":")[0]
        found += [f"{one.enclave}: {text}" for text in one.warnings if not text.startswith(told_already)]
    return [_text(text, LOUD) for text in found]


def _head(status: "Status", ends: str) -> list["RenderableType"]:
    verified = sum(one.state.value == "verified" for one in status.enclaves)
    return [
        _text(f"{status.consumer}, a consumer of {status.borrower}; policy {status.policy_version}", "bold"),
        _text(
            f"{verified} of {len(status.enclaves)} enclaves verified; {status.receipts_kept:,} receipts kept; "
            f"{when(status.now_ms)}"
        ),
        _text(ends, "dim"),
        _text(""),
    ]


def _table(
    width: int, columns: tuple[str, ...], rows: list[list["Text"]], narrow: tuple[str, ...] = ()
) -> "RenderableType":
    """Return a table of a line for each row; as long as it is too wide, columns are left out in the order `narrow`."""
    from rich.table import Table  # noqa: PLC0415

    widths = [
        max(len(name.removeprefix(">")), *(row[index].cell_len for row in rows)) for index, name in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    for name in narrow:
        if sum(widths[index] + 2 for index in shown) > width:
            shown.remove(columns.index(name))
    # The last one alone is cut.
    left = width - sum(widths[index] + 2 for index in shown[:-1])
    widths[shown[-1]] = max(1, min(widths[shown[-1]], left))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index in shown:
        table.add_column(
            columns[index].removeprefix(">"),
            justify="right" if columns[index].startswith(">") else "left",
            width=widths[index],
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    return table


def _enclaves(status: "Status", width: int) -> "RenderableType":
    columns = (
        "Enclave",
        "State",
        "Verified",
        "TEE",
        "Instance",
        ">Busy",
        ">Answers",
        ">p50",
        ">p99",
        ">Refused",
        ">Failed",
    )
    narrow = ("Instance", "TEE", ">p50", ">Failed", ">Busy", "Verified", ">Refused", ">p99")
    return _table(width, columns, [_row(one, status.now_ms) for one in status.enclaves], narrow)


def _row(one: "EnclaveStatus", now_ms: int) -> list["Text"]:
    age = "-" if one.verified_at_ms is None else f"{span(max(0, now_ms - one.verified_at_ms) // 1000 * 1000)} ago"
    tee = "-" if one.tee is None else tee_name(one.tee.value, encrypted=True)
    numbers = (
        f"{one.under_way:,}",
        f"{one.answered:,}",
        _ms(one.latency_p50_ms),
        _ms(one.latency_p99_ms),
        f"{one.refused:,}",
        f"{one.failed:,}",
    )
    return [
        _text(one.enclave.removeprefix("https://")),
        _text(one.state.value, STATES.get(one.state.value, "")),
        *(_text(words) for words in (age, tee, short(one.instance or "-"), *numbers)),
    ]


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"


def _models(status: "Status", width: int) -> list["RenderableType"]:
    rows = []
    for one in status.enclaves:
        for model in one.models:
            left = "not known yet" if model.remaining is None else amount(model.remaining)
            used_up = model.remaining is not None and not any(number for _, number in model.remaining.items())
            manifest = short(model.manifest.removeprefix("sha256:"))
            cells = (_text(model.model), _text(left, "bold red" if used_up else ""), _text(manifest))
            rows.append([*cells, _text(one.enclave.removeprefix("https://"))])
    return (
        [_text(""), _table(width, ("Model", ">Units left", "Manifest", "Enclave"), rows, ("Manifest",))] if rows else []
    )


def _seen(status: "Status", width: int) -> list["RenderableType"]:
    if not status.seen:
        return []
    rows = [
        [
            _text(when(line.at_ms)),
            _text(line.event.value, STATES.get(line.event.value, "")),
            _text(line.enclave.removeprefix("https://") or "-"),
            _text(details(line)),
        ]
        for line in reversed(status.seen)
    ]
    return [_text(""), _table(width, ("When", "Seen", "Enclave", "Details"), rows)]


def watched(console: "Console", read: Callable[[], "Status"], every_s: float) -> None:
    """Draw what `read` returns, again and again, until interrupted.

    Once there was a status, a gateway that does not answer is waited for: that is what whoever watches wants to see.

    Raises:
        UnreachableError: the gateway does not answer at the beginning.
    """
    status, wrong = read(), ""
    with suppress(KeyboardInterrupt), drawing(console, "Ctrl-C ends this view, and not the gateway.") as draw:
        while True:
            draw(status, wrong)
            time.sleep(every_s)
            try:
                status, wrong = read(), ""
            except UnreachableError:
                wrong = f"THE GATEWAY DOES NOT ANSWER. What stands below is of {when(status.now_ms)}"


def shown_beside(console: "Console", log: Path) -> "Beside":
    """Return what draws the status of a gateway for as long as it serves in this process."""

    async def show(running: "Running") -> None:
        ends = f"Programs use {running.url}; what is logged is in {log}; Ctrl-C ends the gateway."
        with drawing(console, ends) as draw:
            while True:
                await asyncio.to_thread(draw, running.status(), "")  # whoever asks does not wait for the terminal
                await asyncio.sleep(_EVERY_S)

    return show
