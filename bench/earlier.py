"""What runs before the published one reached: on other machines, of other commits, each under its own name."""

from collections.abc import Mapping, Sequence
from typing import Final

from aigovtool.codec import Message
from bench.tables import table
from bench.targets import Target, figure
from bench.yardstick import Yardstick

#: So many are shown; older ones are in the history of the page.
MOST: Final = 4
_PART: Final = """\
### Earlier runs

The same targets, in runs of earlier commits. Ratios can be compared, as far as two machines are alike; times and
numbers a second only where the machines are as fast.

"""


class Earlier(Message):
    """One run: what was measured of each target, by its name; nothing of one that was not."""

    commit: str
    date: str
    measured: Mapping[str, float]
    yardstick: Yardstick | None = None

    @classmethod
    def of(cls, commit: str, date: str, targets: Sequence[Target], yardstick: Yardstick | None) -> "Earlier":
        """Return what is kept of a run."""
        measured = {one.name: one.measured for one in targets if one.measured is not None}
        return cls(commit=commit, date=date, measured=measured, yardstick=yardstick)


def earlier_part(targets: Sequence[Target], earlier: Sequence[Earlier]) -> str:
    """Return the table: of each target what this run and those before it measured, the newest first."""
    columns = ("what", "target", "this run", *(f"{one.commit}, {one.date}" for one in earlier))
    rows = [
        (one.name, one.wanted(), _figure(one.measured), *(_figure(run.measured.get(one.name)) for run in earlier))
        for one in targets
    ]
    known = [f"\nOf {one.commit}: {one.yardstick.words()}.\n" for one in earlier if one.yardstick is not None]
    return _PART + table(columns, rows) + "".join(known)


def _figure(measured: float | None) -> str:
    return "" if measured is None else figure(measured)
