"""Numbers, times and names for people."""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aigovtool.ledger.units import UnitVector

_SECOND_MS: Final = 1_000
_SPANS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"))
_SHORT_CHARS: Final = 12
#: Letters and symbols that show nothing: a line of them looks like the end of it.
_BLANKS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_SPACES: Final = re.compile(" {2,}")


def when(moment_ms: int) -> str:
    """Return a moment as UTC to the second; a dash for 0, which stands for never."""
    if not moment_ms:
        return "-"
    try:
        return datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{moment_ms} ms"


def span(duration_ms: int) -> str:
    """Return a duration in its largest two units, for example `4 h 10 min`, `30 s`, `0.4 s`."""
    if duration_ms < 60 * _SECOND_MS:
        return f"{duration_ms / _SECOND_MS:g} s"
    for index, (size, unit) in enumerate(_SPANS):
        if duration_ms >= size:
            whole, rest = divmod(duration_ms, size)
            smaller, name = (*_SPANS, (_SECOND_MS, "s"))[index + 1]
            return f"{whole} {unit}" + (f" {rest // smaller} {name}" if rest >= smaller else "")
    return f"{duration_ms} ms"


def count(units: int | None) -> str:
    """Return a number of units with separators; None is no limit."""
    return "unlimited" if units is None else f"{units:,}"


def tee_name(tee: str, *, encrypted: bool) -> str:
    """Return a type of TEE with what must be said of it beside its name."""
    if tee == "simulated":
        return "SIMULATED"
    return tee if encrypted else f"{tee}: boot integrity, no memory encryption"


def counted(units: int, dimension: str) -> str:
    """Return a number of units with what they are; a bare number of inferences."""
    return count(units) if dimension == "inferences" else f"{count(units)} {dimension}"


def amount(units: "UnitVector") -> str:
    """Return units with separators; a bare number where only inferences are counted."""
    found = [(dimension.value, number) for dimension, number in units.items()]
    if len(found) < 2:
        return counted(found[0][1], found[0][0]) if found else count(0)
    return ", ".join(f"{count(number)} {name}" for name, number in found)


def size(size_bytes: int) -> str:
    """Return a number of bytes in binary units."""
    amount, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def short(identifier: str) -> str:
    """Return enough of a hexadecimal identifier to tell it from others; commands take it as it is."""
    return identifier[:_SHORT_CHARS]


def plain(text: object) -> str:
    """Return text without anything that a terminal would act on, or that shows nothing: it may come from a peer."""
    return "".join(one if one.isprintable() and one not in _BLANKS else "?" for one in str(text))


def told(text: object) -> str:
    """Return what a peer may have said as one value of several: no run of spaces in it looks like the next column."""
    return _SPACES.sub(" ", plain(text))
