"""Writes `docs/assurance.json` from what was counted, and `docs/assurance.md` from the JSON and nothing else.

No figure is ever written by hand: the test suite compares the page with what this module makes of the JSON.
"""

from pathlib import Path
from typing import Final

from aigovtool.codec import Message, decode, encode
from assurance.campaign import Campaign
from assurance.code_digest import ROOT, code_digest
from assurance.figures import Span
from assurance.machine import Machine
from assurance.state import State
from assurance.table import Table

JSON_PATH: Final = ROOT / "docs" / "assurance.json"
PAGE_PATH: Final = ROOT / "docs" / "assurance.md"
_MAX_SPANS: Final = 3
_INTRODUCTION: Final = """\
# What was tested, and how much

Every line below is made by `make assurance` from what was counted; no figure on this page was written by hand. A figure
belongs to the digest of the code it was counted on (the product's code, the libraries' versions and the campaign's own
code) and is void as soon as that code changes. "Met" says that as much was counted as we set out to, and no promise was
broken; "so far" says that none was broken yet, in fewer attempts than that.

    make assurance QUICK=1                           # the same table, in under ten minutes
    make assurance                                   # until every target is met: many hours; it can be interrupted
    python -m assurance --replay overspend 4711      # one history, line by line

"""
_END: Final = """\
## What these tests do not show

Tests show the presence of faults, never their absence. None of them ran in a genuine TEE: the enclave runs in the
simulated one, which protects nothing, so that nothing here says anything about the strength of a TEE. `kill -9` shows
that a process may end at any moment, not that a disk keeps its promises when the power fails. All parties ran on one
machine, over loopback. What each campaign leaves out besides is said with it.
"""


class Line(Message):
    """One campaign as it is published."""

    name: str
    claim: str
    counts: str
    target: str
    figure: str
    status: str
    shows_not: str
    covers: list[str]
    digest: str
    commit: str
    seeds: int
    spans: list[Span]
    seconds: float
    machine: Machine | None
    broken: list[str]
    table: Table | None = None


class Published(Message):
    """The whole page."""

    lines: list[Line]


def publish(campaigns: tuple[Campaign, ...], state: State) -> Published:
    """Return what can be said about the code as it is now."""
    return Published(lines=[_line(campaign, state) for campaign in campaigns])


def _line(campaign: Campaign, state: State) -> Line:
    digest = code_digest(campaign.covers)
    record, figures = state.record(campaign.name, digest), state.figures(campaign.name, digest)
    nothing = figures.seeds() == 0
    return Line(
        name=campaign.name,
        claim=campaign.claim,
        counts=campaign.counts,
        target=campaign.target.words(),
        figure="none for this code" if nothing else campaign.figure(figures),
        status="not run" if nothing else campaign.status(figures),
        shows_not=campaign.shows_not,
        covers=list(campaign.covers),
        digest=digest,
        commit="none" if record is None else record.commit,
        seeds=figures.seeds(),
        spans=figures.spans,
        seconds=round(figures.seconds, 1),
        machine=None if record is None else record.machine,
        broken=campaign.broken(figures),
        table=None if nothing or campaign.table is None else campaign.table(figures),
    )


def page(published: Published) -> str:
    """Return the page."""
    rows = ["| Campaign | Claim | Figure | Target | |", "|---|---|---|---|---|"]
    rows += [
        f"| [{line.name}](#{line.name}) | {line.claim} | {line.figure} | {line.target} | **{line.status}** |"
        for line in published.lines
    ]
    return "\n".join([_INTRODUCTION + "\n".join(rows), *map(_section, published.lines), _END])


def _section(line: Line) -> str:
    spans = ", ".join(f"{span.start} to {span.stop - 1}" for span in line.spans[:_MAX_SPANS])
    more = f" and {len(line.spans) - _MAX_SPANS} more ranges" if len(line.spans) > _MAX_SPANS else ""
    played = f"{line.seeds:,} ({spans}{more}), {_duration(line.seconds)} of work" if line.seeds else "none"
    facts = [
        f"* Counted: {line.counts}",
        f"* Figure: {line.figure}",
        f"* Target: {line.target}",
        f"* Seeds: {played}",
        f"* Code: digest `{line.digest[:16]}`, commit `{line.commit}`, over {', '.join(f'`{n}`' for n in line.covers)}",
        f"* Machine: {'none' if line.machine is None else line.machine.words()}",
        f"* Does not show: {line.shows_not}",
    ]
    table = [] if line.table is None else ["", *line.table.lines()]
    return "\n".join(
        [f"\n## {line.name}\n", f"{line.claim}\n", *facts, *(f"* **Broken**: {one}" for one in line.broken), *table]
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def write(published: Published, folder: Path = JSON_PATH.parent) -> None:
    """Write both files."""
    (folder / JSON_PATH.name).write_bytes(encode(published) + b"\n")
    (folder / PAGE_PATH.name).write_text(page(published) + "\n", encoding="utf-8")


def read(folder: Path = JSON_PATH.parent) -> Published:
    """Return what was published last."""
    return decode((folder / JSON_PATH.name).read_bytes(), Published, max_bytes=4 << 20)
