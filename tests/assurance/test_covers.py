"""A figure is void as soon as code changes that it is about: what a campaign plays, it covers."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from assurance.campaign import Campaign
from assurance.campaigns import crash_points, disk_errors, model_machine, mutants, overspend, power_fail, tampering
from assurance.code_digest import ROOT, files_under

_PRODUCT = f"{ROOT}/src/aigovtool/"
#: How enclaves are admitted before anything is counted, and on what: the same evidence and package each time.
_ADMISSION = tuple(
    f"src/aigovtool/{name}"
    for name in ("attestation/", "custodian/activation", "custodian/endorsements/", "package/", "testing/")
)
#: It reads and writes files that are not the ledger's.
_FILES = ("src/aigovtool/regular_file.py",)


@contextmanager
def noticing() -> Iterator[set[str]]:
    """Give the files of the product of which a function is called, here or in threads that begin meanwhile."""
    found: set[str] = set()

    def notice(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(_PRODUCT):
            found.add(Path(code.co_filename).relative_to(ROOT).as_posix())

    before, before_in_threads = sys.getprofile(), threading.getprofile()
    threading.setprofile(notice)
    sys.setprofile(notice)
    try:
        yield found
    finally:
        sys.setprofile(before)
        threading.setprofile(before_in_threads)


def uncovered(campaign: Campaign, played: set[str], but: tuple[str, ...] = ()) -> set[str]:
    """Return what was played and could change without voiding the figures."""
    covered = {path.relative_to(ROOT).as_posix() for path in files_under(campaign.covers)}
    return {name for name in played - covered if not name.startswith(but)}


def test_what_the_simulation_plays_voids_its_figures() -> None:
    """Meter, ledger and what they are made of: the times that terms give, and which renewal is older, among them."""
    with noticing() as played:
        for figures in overspend.CAMPAIGN.run([0, 3], float("inf")):
            assert not figures.violations
    assert {f"src/aigovtool/{name}.py" for name in ("ledger/book", "protocol/metering", "protocol/terms")} <= played
    for campaign in (overspend.CAMPAIGN, mutants.SAFETY, mutants.WASTE):
        assert uncovered(campaign, played) == set()
        less = replace(campaign, covers=tuple(name for name in campaign.covers if "metering" not in name))
        assert uncovered(less, played) == {"src/aigovtool/protocol/metering.py"}


def test_what_makes_and_reads_a_log_voids_the_figures_of_tampering(tmp_path: Path) -> None:
    """The history that the log is of, its file, and its reader."""
    with noticing() as played:
        copy = tampering.Copy(1, tmp_path / "log.jsonl", 30)
        copy.verify(copy.lines, copy.header_with(copy.note(len(copy.lines))), [copy.note(3)])
    assert {"src/aigovtool/ledger/replay.py", "src/aigovtool/operator/audit_file.py"} <= played
    assert uncovered(tampering.CAMPAIGN, played) == set()


def test_what_lives_on_a_ledger_voids_the_figures_of_its_stores() -> None:
    """A history with the real custodian, for whatever is done to its disk later, too."""
    with noticing() as played:
        for figures in model_machine.CAMPAIGN.run([0], float("inf")):
            assert not figures.violations
    assert {"src/aigovtool/custodian/store/sqlite.py", "src/aigovtool/custodian/clock.py"} <= played
    for campaign in (model_machine.CAMPAIGN, crash_points.CAMPAIGN, disk_errors.CAMPAIGN, power_fail.CAMPAIGN):
        assert uncovered(campaign, played, (*_ADMISSION, *_FILES)) == set()
