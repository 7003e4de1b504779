"""What was counted so far, in one file per campaign outside git, with the digest of the code under test.

A figure of other code is never added to or shown. It is dropped when the file is written next. Hours of counting must
not hang on one machine: where there is no file, or fewer seeds in it, counting goes on from what is published.
"""

from collections.abc import Iterator
from pathlib import Path

from msgspec import field

from aigovtool.codec import Message, decode, encode
from assurance import published
from assurance.code_digest import ROOT
from assurance.figures import NOTHING, Figures
from assurance.machine import Machine

STATE_FOLDER = ROOT / ".assurance"
_MAX_BYTES = 1 << 30


class Record(Message):
    """The figures of one campaign for one state of the code, and where the last of them were made."""

    campaign: str
    digest: str
    commit: str
    machine: Machine
    figures: Figures


class State(Message):
    """All records, at most one per campaign and code."""

    records: list[Record] = field(default_factory=list)

    def record(self, campaign: str, digest: str) -> Record | None:
        """Return what is known about this very code."""
        return next((one for one in self.records if (one.campaign, one.digest) == (campaign, digest)), None)

    def figures(self, campaign: str, digest: str) -> Figures:
        """Return the figures so far; nothing if the code has changed."""
        record = self.record(campaign, digest)
        return NOTHING if record is None else record.figures

    def plus(self, new: Record) -> "State":
        """Return the state with `new` figures added to those of the same code; those of other code are void."""
        before = self.figures(new.campaign, new.digest)
        others = [one for one in self.records if one.campaign != new.campaign]
        total = Record(
            campaign=new.campaign,
            digest=new.digest,
            commit=new.commit,
            machine=new.machine,
            figures=before.plus(new.figures),
        )
        return State(records=sorted([*others, total], key=lambda one: one.campaign))


def load_state(folder: Path = STATE_FOLDER, published_at: Path = published.JSON_PATH) -> State:
    """Return what was counted so far, here or as published: the larger of the two where both are of the same code."""
    paths = sorted(folder.glob("*.json"))
    known = {(one.campaign, one.digest): one for one in _published(published_at)}
    for one in (decode(path.read_bytes(), Record, max_bytes=_MAX_BYTES) for path in paths):
        other = known.get((one.campaign, one.digest))
        if other is None or other.figures.seeds() <= one.figures.seeds():
            known[one.campaign, one.digest] = one
    return State(records=[known[key] for key in sorted(known)])


def _published(path: Path) -> Iterator[Record]:
    for line in published.read(path).lines:
        if line.machine is not None and line.figures.counts:
            yield Record(
                campaign=line.name,
                digest=line.digest,
                commit=line.commit,
                machine=line.machine,
                figures=line.figures.figures(),
            )


def keep(new: Record, folder: Path = STATE_FOLDER, published_at: Path = published.JSON_PATH) -> None:
    """Add to the file of one campaign, whole or not at all; campaigns that run side by side do not meet."""
    known = load_state(folder, published_at).record(new.campaign, new.digest)
    (total,) = State(records=[] if known is None else [known]).plus(new).records
    path = folder / f"{new.campaign}.json"
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(encode(total))
    partial.replace(path)
