"""The machinery that makes a ledger fail, and the examiner that looks at what is left: both are shown to bite."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import msgspec
import pytest
from assurance.faults.examine import answered, examine, unanswered
from assurance.faults.points import play_points, points_of
from assurance.faults.power import Cut, Event, File, cuts, events_of, put
from assurance.faults.process import Ended, Part, called, words
from assurance.faults.segments import Start, folder, start_of

#: The size of a page of a SQLite file.
_PAGE = 4096


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """A short part of a life in which leases are granted, from a ledger that was copied while it was served."""
    for number in count(20):
        with folder() as where:
            begun = start_of(number, where / "begun")
            lived = begun.segment.run(where / "lived", Part.SERVING)
            if sum(len(one.granted) for one in answered(lived.told)) > 1:
                yield begun
                return


@pytest.fixture(scope="module")
def lived(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """That part, lived without a fault, every byte of it recorded."""
    directory: Path = tmp_path_factory.mktemp("lived") / "run"
    return start.segment.run(directory, Part.SERVING, data=True)


def most_by_a_thread(ended: Ended, call: str) -> int:
    """Return how many calls of a kind that thread made which made most: strace counts for each thread apart."""
    threads = {line.split()[0] for line in ended.calls}
    return max(
        (called(replace(ended, calls=[line for line in ended.calls if line.split()[0] == thread]))[call])
        for thread in threads
    )


def test_a_killed_process_leaves_what_it_answered(start: Start, tmp_path: Path) -> None:
    """Killed at the first call of each kind and at some later ones: sound; and it is really killed there."""
    points = [point for point in points_of(start, tmp_path / "run", closing=True, answers=True) if point.number < 7]
    assert {point.call for point in points} >= {"pwrite64", "fdatasync", "unlink", "sendto"}
    # How often one thread wakes another (sendto), and how much is written to disk together, differs from run to run:
    # the first call of each kind is there in each, but a run may end before a later one comes.
    chosen = [point for point in points if point.number == 1 or point.call != "sendto"]
    chosen = [point for place, point in enumerate(chosen) if point.number == 1 or place % 5 == 0]
    killed = set()
    for outcome in play_points(start, tmp_path / "run", chosen, "signal=SIGKILL", onwards=False):
        point, ended = outcome.point, outcome.ended
        assert outcome.finding.wrong == []
        if ended.killed:
            killed.add((point.call, point.number))
        else:
            assert most_by_a_thread(ended, point.call) < point.number, point.words()
    assert killed >= {("pwrite64", 1), ("fdatasync", 1), ("sendto", 1)}
    assert len(killed) > 4


@pytest.mark.attack(23)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_an_error_of_the_disk_reaches_whoever_waits(start: Start, tmp_path: Path, error: str) -> None:
    """The first failing write ends all answers of that process, each with StorageError; the mended disk serves on."""
    every = points_of(start, tmp_path / "run", closing=False, answers=False)
    points = [one for one in every if one.number == 1 and one.call in {"pwrite64", "fdatasync"}]
    assert len(points) == 2
    for outcome in play_points(start, tmp_path / "run", points, f"error={error}", onwards=True):
        told = outcome.ended.told
        assert {one.refused for one in told if one.refused} == {"StorageError"}
        assert len(unanswered(told)) == len([one for one in told if one.begins])
        assert outcome.ended.code == 0
        assert outcome.finding.wrong == []


def test_a_lost_lease_would_be_found(start: Start, lived: Ended, tmp_path: Path) -> None:
    """The ledger of before the run, held against what was answered in it: every grant is missed."""
    shutil.copytree(start.segment.start, tmp_path / "old")
    granted = {lease_id for one in answered(lived.told) for lease_id in one.granted}
    wrong = " ".join(examine(start.segment.life, tmp_path / "old", lived.told, start.leases).wrong)
    assert granted
    assert all(lease_id in wrong for lease_id in granted)
    assert "clock went back" in wrong
    assert "none of this log" in wrong


def test_a_lease_that_nobody_asked_for_would_be_found(start: Start, tmp_path: Path) -> None:
    """A grant in the ledger that was neither answered nor is answered when asked again was made twice."""
    directory = tmp_path / "run"
    ended = start.segment.run(directory, Part.SERVING)
    granted = next(one for one in answered(ended.told) if one.granted)
    silent = [one for one in ended.told if one.number != granted.number]
    (wrong,) = examine(start.segment.life, directory, silent, start.leases).wrong
    assert "nobody was told of" in wrong


def test_a_ledger_that_cannot_be_opened_is_a_finding(start: Start, tmp_path: Path) -> None:
    """Not an error of the campaign."""
    shutil.copytree(start.segment.start, tmp_path / "run")
    (tmp_path / "run" / "ledger.db").write_bytes(b"rubbish" * 1000)
    assert "cannot be" in examine(start.segment.life, tmp_path / "run", [], start.leases).wrong[0]


def test_a_damaged_page_is_a_finding(start: Start, tmp_path: Path) -> None:
    """Whatever a page is damaged with, and whatever is read out of it."""
    life, directory = start.segment.life, tmp_path / "run"
    shutil.copytree(start.segment.start, directory)
    assert examine(life, directory, [], start.leases).wrong == []
    file = directory / "ledger.db"
    whole = file.read_bytes()
    assert not list(directory.glob("ledger.db-*"))
    pages = [whole[at : at + _PAGE] for at in range(0, len(whole), _PAGE)]
    unnoticed = []
    for number, page in enumerate(pages):
        damage = (bytes(_PAGE), pages[number - 1], pages[number - 2])[number % 3]
        file.write_bytes(b"".join((*pages[:number], damage, *pages[number + 1 :])))
        wrong = examine(life, directory, [], start.leases).wrong
        assert "locked" not in " ".join(wrong)
        unnoticed += [number] if not wrong and damage != page else []
        for left in directory.glob("ledger.db-*"):
            left.unlink()
    # What a page that is not in use holds is nothing to anybody.
    assert len(unnoticed) < len(pages) / 20


# --- Power -------------------------------------------------------------------------------------------------


def _findings(start: Start, events: list[Event], directory: Path) -> list[str]:
    shutil.copytree(start.segment.start, directory)
    found = []
    for cut in cuts(start.segment.start, events, 1):
        if cut.kind == "lost" or cut.after % 10 == 0:
            put(directory, cut)
            found += examine(start.segment.life, directory, cut.told, start.leases).wrong
    return found


def test_a_power_failure_leaves_what_was_answered(start: Start, lived: Ended, tmp_path: Path) -> None:
    """With everything lost that was not synced, and with parts of it lost."""
    events = events_of(lived.calls)
    assert {"pwrite64", "write", "fdatasync"} <= {event.call for event in events}
    assert _findings(start, events, tmp_path / "run") == []


def test_an_answer_before_its_sync_would_be_found(start: Start, lived: Ended, tmp_path: Path) -> None:
    """The same record without its syncs is a custodian that does not wait for the disk."""
    events = [event for event in events_of(lived.calls) if event.call not in {"fsync", "fdatasync"}]
    assert any("is not there" in wrong for wrong in _findings(start, events, tmp_path / "run"))


def test_a_disk_keeps_what_was_synced_and_any_part_of_the_rest() -> None:
    """All sectors of a synced write; of another one, each by itself, old or new."""
    file = File(None, [Event("pwrite64", "f", 0, b"a" * 1024)])
    file.sync()
    assert bytes(file.safe or b"") == b"a" * 1024
    file.since.append(Event("pwrite64", "f", 0, b"b" * 2048))
    file.since.append(Event("ftruncate", "f", 512))
    left = {bytes(file.torn(random.Random(seed)) or b"") for seed in range(200)}
    assert len({one[:512] for one in left}) == 2
    assert {len(one) for one in left} >= {512, 1024, 2048}
    assert all(set(one[at : at + 512]) in ({97}, {98}, {0}) for one in left for at in range(0, len(one), 512))
    file.since.append(Event("unlink", "f"))
    assert {file.torn(random.Random(seed)) is None for seed in range(20)} == {True, False}


def test_a_record_is_read_as_it_was_written() -> None:
    """Hexadecimal; calls that were interrupted by others; a failed one changed nothing, an unknown one is refused."""
    lines = [
        '7  pwrite64(9<\\x2f\\x64\\x62>, "\\x61\\x62", 2, 4096) = 2',
        "7  fdatasync(9<\\x2f\\x64\\x62> <unfinished ...>",
        '8  write(5<\\x2f\\x74\\x6f\\x6c\\x64>, "\\x78\\x0a", 2) = 2',
        "7  <... fdatasync resumed>)          = 0",
        "7  ftruncate(9<\\x2f\\x64\\x62>, 512)       = -1 EIO (Input/output error)",
        '7  unlink("\\x2f\\x64\\x62")                  = 0',
    ]
    assert events_of(lines) == [
        Event("pwrite64", "db", 4096, b"ab"),
        Event("write", "told", 0, b"x\n"),
        Event("fdatasync", "db"),
        Event("unlink", "db"),
    ]
    with pytest.raises(ValueError, match="does not know"):
        events_of(["7  fallocate(9</db>, 0, 0, 4096) = 0"])
    assert words('7  pwrite64(9</a/b/ledger.db-wal>, ""..., 24, 32) = 24') == "pwrite64(9<ledger.db-wal>, 24, 32) = 24"


def test_a_moment_says_what_is_left(start: Start, lived: Ended) -> None:
    """Each has an event, and the promises grow from one to the next."""
    moments: list[Cut] = list(cuts(start.segment.start, events_of(lived.calls), 3))
    assert [cut.after for cut in moments] == sorted(cut.after for cut in moments)
    assert [len(cut.told) for cut in moments] == sorted(len(cut.told) for cut in moments)
    assert msgspec.to_builtins(moments[-1].told) == msgspec.to_builtins(lived.told)
