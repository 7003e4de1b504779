"""Ends of budgets, and rolling windows in words."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.cli.conftest import Place
from tests.cli.site import Site, make_site

from aigovtool.cli.budget.time import end_of
from aigovtool.codec import decode
from aigovtool.errors import InvalidValueError
from aigovtool.ledger.entry import BudgetSet, Entry
from aigovtool.transport.server import bind_loopback

NOW_MS = int(datetime(2026, 12, 31, 12, tzinfo=UTC).timestamp() * 1000)


def test_a_date_is_good_through_its_day_and_a_span_counts_from_now() -> None:
    """As people mean it; a time needs its zone."""
    for text, moment in (
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),
        ("2026-12-31", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2027-01-31T18:00Z", datetime(2027, 1, 31, 18, tzinfo=UTC)),
        ("2027-01-31T18:00+02:00", datetime(2027, 1, 31, 16, tzinfo=UTC)),
        ("90d", datetime(2027, 3, 31, 12, tzinfo=UTC)),
        ("2w", datetime(2027, 1, 14, 12, tzinfo=UTC)),
        ("12h", datetime(2027, 1, 1, tzinfo=UTC)),
        ("30min", datetime(2026, 12, 31, 12, 30, tzinfo=UTC)),
    ):
        assert end_of(text, NOW_MS) == int(moment.timestamp() * 1000), text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "d",
        "0d",
        "-5d",
        "5",
        "5y",
        "1.5d",
        "tomorrow",
        "2027-13-01",
        "2027-01-31T18:00",
        "20270131",
        "9999-12-31",
        "999999w",
        "2026-12-30",
        "2026-12-31T11:59Z",
    ],
)
def test_what_is_no_end_to_come_is_refused(text: str) -> None:
    """Nothing is guessed, and nothing ends before it begins."""
    with pytest.raises(InvalidValueError) as refused:
        end_of(text, NOW_MS)
    assert refused.value.reason == "bad_end"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A custodian with one enclave, on SQLite."""
    with bind_loopback() as listener:
        made = make_site(tmp_path, listener, None)
        yield made
        made.bench.custodian.database.close()


def last_set(place: Place) -> BudgetSet:
    """Return the newest entry of a budget that was set."""
    found = [line.partition(b'"entry":')[2][:-1] for line in Path(place.file("log.jsonl")).read_bytes().splitlines()]
    bodies = [decode(raw, Entry).body for raw in found if raw]
    return [body for body in bodies if isinstance(body, BudgetSet)][-1]


def test_a_budget_is_set_with_its_end_and_loses_it_when_it_is_set_without(site: Site) -> None:
    """The exact moment is said, and is in the log; a grant keeps it."""
    with site.served() as place:
        for number, (words, ends) in enumerate(
            (
                (["set", "50", "--until", "2099-05-31"], True),
                (["grant", "5"], True),
                (["set", "50"], False),
            )
        ):
            done = place.run("budget", *words, "--model", "sorter", "--consumer", "ward7")
            assert done.exit_code == 0, done.output
            assert ("ends 2099-06-01 00:00:00Z" in done.stdout) == ("--until" in words)
            log = Path(place.file("log.jsonl"))
            log.unlink(missing_ok=True)
            assert place.run("audit", "export", "-o", str(log)).exit_code == 0
            assert (last_set(place).limit.not_after_ms is not None) == ends, number
            (row,) = [row for row in place.document("budget", "show")["budgets"] if row["key"]["scope"]["consumer"]]
            assert (row["not_after_ms"] is not None) == ends
            assert ("2099-06-01 00:00:00Z" in place.run("budget", "show").stdout) == ends
        refused = place.run("budget", "set", "5", "--model", "sorter", "--until", "2001-01-01")
        assert (refused.exit_code, "bad_end" in refused.stderr) == (3, True)
        shown = place.document("budget", "set", "9", "--model", "sorter", "--until", "2099-05-31")
        assert shown["not_after_ms"] == int(datetime(2099, 6, 1, tzinfo=UTC).timestamp() * 1000)


def test_a_budget_that_is_over_has_nothing_left(site: Site) -> None:
    """Whatever was not used of it."""
    with site.served() as place:
        assert place.run("budget", "set", "9", "--model", "sorter", "--until", "2h").exit_code == 0
        assert place.document("budget", "show")["budgets"][0]["room"] == 9
        site.bench.now_ms += 3 * 3_600_000
        assert place.document("budget", "show")["budgets"][0]["room"] == 0


def test_a_rolling_budget_says_what_counts_and_when_it_comes_back(site: Site) -> None:
    """What was used in earlier slices counts on, and is not in the columns of the newest one."""
    with site.served() as place:
        words = ["--model", "sorter", "--consumer", "ward7", "--window", "rolling_hour"]
        assert place.run("budget", "set", "1000", *words).exit_code == 0
        site.close(site.draw(5), [], used=5)
        site.bench.now_ms += 3 * 60_000
        site.close(site.draw(3), [], used=3)
        text = place.run("budget", "show").stdout
        assert "8 of 1,000 count now, 3 of them since" in text
        assert "comes back 1 h to 1 h 1 min after" in text
        assert place.run("budget", "set", "8", *words).exit_code == 0
        assert "8 of 8 count now" in place.run("budget", "show").stdout
        assert place.run("budget", "set", "1000", *words).exit_code == 0
        site.bench.now_ms += 59 * 60_000
        assert "3 of 1,000 count now, 0 of them since" in place.run("budget", "show").stdout
