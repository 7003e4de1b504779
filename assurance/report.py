"""Makes `docs/assurance.json` of what was counted, and `docs/assurance.md` of the JSON and nothing else.

No figure is ever written by hand: the test suite compares the page with what this module makes of the JSON.
"""

from pathlib import Path
from typing import Final

from msgspec import structs

from assurance import published
from assurance.campaign import Campaign
from assurance.code_digest import ROOT, code_digest
from assurance.published import Line, Published, tallied
from assurance.state import State
from assurance.table import Table

PAGE_PATH: Final = ROOT / "docs" / "assurance.md"
#: What was counted of code that has changed since.
EARLIER: Final = "earlier code"
_MAX_SPANS: Final = 3
_INTRODUCTION: Final = """\
# What was tested, and how much

Every line below is made by `make assurance` from what was counted; no figure on this page was written by hand. A figure
belongs to the digest of the code it was counted on (the product's code, the libraries' versions and the campaign's own
code) and is void as soon as that code changes. "Met" says that as much was counted as we set out to, and no promise was
broken; "so far" says that none was broken yet, in fewer attempts than that; "earlier code" shows what was counted of
code that has changed since, at the commit that is named, until it is counted anew. Counting goes on from this page: a
clone that has counted nothing of its own begins where `docs/assurance.json` ends.

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


def publish(campaigns: tuple[Campaign, ...], state: State, before: Published) -> Published:
    """Return what can be said about the code as it is now; of what was not counted of it, what was said `before`."""
    return Published(lines=[_line(campaign, state, before.line(campaign.name)) for campaign in campaigns])


def _line(campaign: Campaign, state: State, before: Line | None) -> Line:
    digest = code_digest(campaign.covers)
    record, figures = state.record(campaign.name, digest), state.figures(campaign.name, digest)
    nothing = figures.seeds() == 0
    if nothing and before is not None and before.figures.spans:
        return structs.replace(before, status=EARLIER)
    table: Table | None = None if nothing or campaign.table is None else campaign.table(figures)
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
        machine=None if record is None else record.machine,
        broken=campaign.broken(figures),
        figures=tallied(figures),
        table=table,
    )


def page(whole: Published) -> str:
    """Return the page."""
    rows = ["| Campaign | Claim | Figure | Target | |", "|---|---|---|---|---|"]
    rows += [
        f"| [{line.name}](#{line.name}) | {line.claim} | {line.figure} | {line.target} | **{line.status}** |"
        for line in whole.lines
    ]
    return "\n".join([_INTRODUCTION + "\n".join(rows), *map(_section, whole.lines), _END])


def _section(line: Line) -> str:
    seeds, all_spans = line.figures.seeds(), line.figures.spans
    spans = ", ".join(f"{span.start} to {span.stop - 1}" for span in all_spans[:_MAX_SPANS])
    more = f" and {len(all_spans) - _MAX_SPANS} more ranges" if len(all_spans) > _MAX_SPANS else ""
    played = f"{seeds:,} ({spans}{more}), {_duration(line.figures.seconds)} of work" if seeds else "none"
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


def write(whole: Published, folder: Path = PAGE_PATH.parent) -> None:
    """Write both files."""
    published.write(whole, folder / published.JSON_PATH.name)
    (folder / PAGE_PATH.name).write_text(page(whole) + "\n", encoding="utf-8")
