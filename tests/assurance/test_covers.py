"""A figure is void as soon as code changes that it is about: what a campaign plays, it covers."""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
from assurance.any_order.life import live
from assurance.campaign import Campaign
from assurance.campaigns import (
    any_order,
    crash_points,
    disk_errors,
    evidence_fuzz,
    evidence_mutations,
    model_machine,
    models,
    mutants,
    overspend,
    power_fail,
    tampering,
)
from assurance.campaigns.parsers import PARSERS
from assurance.code_digest import ROOT, files_under
from assurance.parsers.campaign import campaign_of

#: What counts and shows, and says nothing of what is counted.
_FRAME = tuple(
    f"assurance/{name}.py" for name in ("campaign", "catalogue", "code_digest", "figures", "machine", "runner", "table")
)
_OURS = tuple(f"{ROOT}/{name}/" for name in ("src", "tests", "assurance", "conformance"))
#: How enclaves are admitted before anything is counted, and on what: the same evidence and package each time.
_ADMISSION = tuple(
    f"src/aigovtool/{name}"
    for name in ("attestation/", "custodian/activation", "custodian/endorsements/", "package/", "testing/")
)
#: It reads and writes files that are not the ledger's.
_FILES = ("src/aigovtool/regular_file.py",)
#: What other tests of this process have running: recorders begin a thread for each connection.
_OF_OTHER_TESTS = ("tests/attacks/lent.py",)
#: Applications are made to find their routes: what describes those, and what one is given, reads nothing.
_DESCRIBED = ("src/aigovtool/transport/openapi.py", "src/aigovtool/enclave/session_quotes.py")


@contextmanager
def noticing() -> Iterator[set[str]]:
    """Give our files of which a function is called, here or in threads that begin meanwhile."""
    found: set[str] = set()

    def notice(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(_OURS):
            found.add(Path(code.co_filename).relative_to(ROOT).as_posix())

    # What earlier tests left behind must not end here, and be taken for what is played.
    gc.collect()
    gc.disable()
    before, before_in_threads = sys.getprofile(), threading.getprofile()
    threading.setprofile(notice)
    sys.setprofile(notice)
    try:
        yield found
    finally:
        gc.enable()
        sys.setprofile(before)
        threading.setprofile(before_in_threads)


def uncovered(campaign: Campaign, played: set[str], but: tuple[str, ...] = ()) -> set[str]:
    """Return what was played and could change without voiding the figures."""
    covered = {path.relative_to(ROOT).as_posix() for path in files_under(campaign.covers)}
    known = (*_FRAME, *_OF_OTHER_TESTS, *but, Path(__file__).relative_to(ROOT).as_posix())
    return {name for name in played - covered if not name.startswith(known)}


def test_what_the_simulation_plays_voids_its_figures() -> None:
    """Meter, ledger and what they are made of: the times that terms give, and which renewal is older, among them."""
    with noticing() as played:
        for figures in overspend.CAMPAIGN.run([3], float("inf")):
            assert not figures.violations
    assert {f"src/aigovtool/{name}.py" for name in ("ledger/book", "protocol/metering", "protocol/terms")} <= played
    assert uncovered(overspend.CAMPAIGN, played) == set()
    for campaign in (overspend.CAMPAIGN, mutants.SAFETY, mutants.WASTE):
        played = {name for name in played if not name.startswith("assurance/")}  # each has its own
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
    assert uncovered(model_machine.CAMPAIGN, played, (*_ADMISSION, *_FILES)) == set()
    for campaign in (crash_points.CAMPAIGN, disk_errors.CAMPAIGN, power_fail.CAMPAIGN):
        played = {name for name in played if not name.startswith("assurance/")}  # each has its own
        assert uncovered(campaign, played, (*_ADMISSION, *_FILES)) == set()


def test_what_a_custodian_and_its_auditor_are_made_of_voids_the_figures_of_their_lives(tmp_path: Path) -> None:
    """Whatever carries an order out, writes the log, exports it, and judges the copy."""
    with noticing() as played:
        assert live(20, tmp_path / "custodian", 60)[-1] is None
    assert {"src/aigovtool/ledger/replay.py", "src/aigovtool/custodian/key_rotation.py"} <= played
    assert uncovered(any_order.CAMPAIGN, played, (*_ADMISSION, *_FILES)) == set()


@pytest.mark.parametrize(
    "campaign",
    [*(campaign_of(parser) for parser in PARSERS), evidence_mutations.CAMPAIGN, evidence_fuzz.CAMPAIGN],
    ids=lambda campaign: campaign.name,
)
def test_what_a_parser_is_made_of_voids_its_figures(campaign: Campaign) -> None:
    """What reads, what makes the inputs, and what judges how they were read."""
    with noticing() as played:
        for figures in campaign.run([0], float("inf")):
            assert not figures.violations
    assert played
    assert uncovered(campaign, played, _DESCRIBED) == set()


def test_what_a_model_is_loaded_by_voids_the_figures_of_models() -> None:
    """As far as it is in this process: what an engine's child runs is in the same folders."""
    with noticing() as played:
        for figures in models.CAMPAIGN.run([0], float("inf")):
            assert not figures.violations
    assert "src/aigovtool/enclave/engines/process.py" in played
    assert uncovered(models.CAMPAIGN, played) == set()
