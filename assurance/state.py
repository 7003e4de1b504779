"""What was counted so far, in one file per campaign outside git, with the digest of the code under test.

A figure of other code is never added to or shown. It is dropped when the file is written next.
"""

from pathlib import Path

from msgspec import field

from aigovtool.codec import Message, decode, encode
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
    """All records, at most one per campaign."""

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


def load_state(folder: Path = STATE_FOLDER) -> State:
    """Return what was counted so far."""
    paths = sorted(folder.glob("*.json"))
    return State(records=[decode(path.read_bytes(), Record, max_bytes=_MAX_BYTES) for path in paths])


def keep(new: Record, folder: Path = STATE_FOLDER) -> None:
    """Add to the file of one campaign, whole or not at all; campaigns that run side by side do not meet."""
    path = folder / f"{new.campaign}.json"
    before = State(records=[decode(path.read_bytes(), Record, max_bytes=_MAX_BYTES)] if path.exists() else [])
    (total,) = before.plus(new).records
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(encode(total))
    partial.replace(path)
