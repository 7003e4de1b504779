"""Time in budgets: until when one is good, and what a rolling window counts.

A rolling window is made of slices. A unit counts from the moment it was granted until the window has left its whole
slice, so it comes back a window after it was granted, and at most one slice later.
"""

import re
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import click

from aigovtool.cli.scope import path
from aigovtool.cli.words import count, span, when
from aigovtool.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aigovtool.protocol.views import BudgetView

_DURATION_RE: Final = re.compile(r"([1-9][0-9]{0,5})(min|h|d|w)")
_DATE_RE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_UNIT_MS: Final = MappingProxyType({"min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000})
_MOST_MS: Final = 100 * 366 * 86_400_000

until_option = click.option(
    "--until",
    metavar="DATE|DURATION",
    help="Its end: a date (through that day, UTC), a time such as 2027-01-31T18:00Z, or a span: 90d, 12h, 30min.",
)


def end_of(text: str, now_ms: int) -> int:
    """Return the moment that `--until` means, in milliseconds.

    Raises:
        InvalidValueError: `bad_end`: it cannot be read, or is over.
    """
    end_ms = _moment(text, now_ms)
    if end_ms is None or end_ms > now_ms + _MOST_MS:
        raise InvalidValueError(
            f"{text[:40]!r} is no end of a budget", reason="bad_end", fix="use 2027-01-31, 2027-01-31T18:00Z or 90d"
        )
    if end_ms <= now_ms:
        raise InvalidValueError(
            f"a budget cannot end in the past ({when(end_ms)})",
            reason="bad_end",
            fix="to end one now, set it to 0: aigovtool budget set 0 --model MODEL",
        )
    return end_ms


def _moment(text: str, now_ms: int) -> int | None:
    duration = _DURATION_RE.fullmatch(text)
    if duration is not None:
        return now_ms + int(duration[1]) * _UNIT_MS[duration[2]]
    try:
        moment = datetime.fromisoformat(text)
        if _DATE_RE.fullmatch(text) is not None:
            moment = moment.replace(tzinfo=UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        return None
    # A time without its zone would be another moment at the other end of the world.
    return None if moment.tzinfo is None else int(moment.timestamp() * 1000)


def rolling(row: "BudgetView") -> "Iterator[str]":
    """Yield what a rolling budget counts, in words; nothing for other windows."""
    from aigovtool.ledger.budget import ROLLING  # noqa: PLC0415

    if row.key.window not in ROLLING:
        return
    span_ms, slice_ms = ROLLING[row.key.window]
    newest = row.posted + row.pending
    counted = row.earlier + newest
    yield (
        f"{path(row.key.scope)}, {row.key.window.value}: {count(counted)} of {count(row.limit)} count now, "
        f"{count(newest)} of them since {when(row.key.bucket_ms)}. What is used comes back {span(span_ms)} to "
        f"{span(span_ms + slice_ms)} after it was granted."
    )


def shown_end(row: "BudgetView", now_ms: int) -> str:
    """Return until when a budget is good."""
    if row.not_after_ms is None:
        return "-"
    return f"{'ENDED ' if row.not_after_ms <= now_ms else ''}{when(row.not_after_ms)}"
