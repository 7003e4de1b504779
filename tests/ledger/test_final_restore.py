"""What a log may say after a settlement that is final: everything is stopped, charged, and refunded no more."""

from typing import Any

import pytest
from msgspec.structs import replace
from tests.ledger.test_audit import (
    COMMAND,
    LOG_KEY,
    NARROW,
    NEXT,
    ROOT,
    WIDE,
    Writer,
    begun,
    lost_note,
    restored,
)
from tests.ledger.test_replay import accepted, reason

from aigovtool.errors import LogError
from aigovtool.ledger.audit import verify_log
from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.entry import Charged, EntryBody, LeaseExpired, StopTarget


class Later(Writer):
    """Writes entries of the generation that was begun last."""

    def add(self, body: EntryBody, *, later_ms: int = 1000, **changes: Any) -> None:
        """Append one entry."""
        last = self.entries[-1].generation if self.entries else 0
        super().add(body, later_ms=later_ms, **{"generation": last, **changes})


def stopped(*windows: Window) -> Later:
    """A log with a lifetime of 100, a day of 50 and more windows of 30, of which everything is stopped."""
    log = Later(entries=begun().entries)
    for window in windows:
        log.limit(WIDE, 30, window)
    log.stop(StopTarget.ALL, "")
    return log


def charge(log: Later, scope: Scope, window: Window, units: int) -> None:
    """Charge a budget where it stands when the generation began."""
    key = next(row for row in log.rows() if (row.scope, row.window) == (scope, window))
    log.add(Charged(row=key, units=units, command=COMMAND))


def test_all_that_remains_is_charged_and_the_stop_lifted() -> None:
    """Also of rolling windows, with what their earlier buckets hold; then it goes on."""
    log = Later(entries=begun().entries)
    log.limit(WIDE, 30, Window.ROLLING_HOUR)
    log.close(log.grant(10), 10)
    log.stop(StopTarget.ALL, "")
    restored(log, final=True)
    for scope, window, units in (
        (WIDE, Window.LIFETIME, 90),
        (NARROW, Window.DAY, 40),
        (WIDE, Window.ROLLING_HOUR, 20),
    ):
        charge(log, scope, window, units)
    log.resume(StopTarget.ALL, "")
    assert accepted(log)
    log.admit(NEXT)
    log.limit(WIDE, 110)
    log.limit(NARROW, 60, Window.DAY)
    log.limit(WIDE, 40, Window.ROLLING_HOUR)
    log.grant(10)
    assert accepted(log)
    log.grant(1)
    assert reason(log) == "overspend"


def test_a_settlement_is_final_only_while_everything_is_stopped() -> None:
    """Attack: what is forgotten is settled for good, and nobody has looked which stops are missing."""
    log = Later(entries=begun().entries)
    restored(log, final=True)
    assert reason(log) == "not_final"
    log = stopped()
    log.resume(StopTarget.ALL, "")
    log.stop(StopTarget.MODEL, "sorter")
    restored(log, final=True)
    assert reason(log) == "not_final"


@pytest.mark.parametrize("units", [None, 99])
def test_a_final_settlement_leaves_nothing_to_grant(units: int | None) -> None:
    """Attack: it explains whatever is shown later, and something of a budget is left to be used twice."""
    log = stopped(Window.HOUR)
    restored(log, final=True)
    charge(log, NARROW, Window.DAY, 50)
    charge(log, WIDE, Window.HOUR, 30)
    if units is not None:
        charge(log, WIDE, Window.LIFETIME, units)
    log.resume(StopTarget.ALL, "")
    assert reason(log) == "not_final"


@pytest.mark.parametrize("charged", [0, 1])
def test_a_log_does_not_end_within_a_final_settlement(charged: int) -> None:
    """Attack: it excuses whatever a reader holds, and what it must charge for that is to come."""
    log = stopped()
    restored(log, final=True)
    if charged:
        charge(log, WIDE, Window.LIFETIME, 100)
    with pytest.raises(LogError, match="ends before all that remained was charged") as caught:
        log.verify(note=log.note(generation=1))
    assert caught.value.reason == "not_final"
    charge(log, *((NARROW, Window.DAY, 50) if charged else (WIDE, Window.LIFETIME, 100)))
    if charged:
        assert accepted(log)


def test_what_was_before_a_final_settlement_is_not_debited_after_it() -> None:
    """Attack: the window before is not charged, and a line may be a minute later than what it says was decided."""
    log = stopped(Window.ROLLING_HOUR)
    restored(log, final=True)
    for scope, window, units in (
        (WIDE, Window.LIFETIME, 100),
        (NARROW, Window.DAY, 50),
        (WIDE, Window.ROLLING_HOUR, 30),
    ):
        charge(log, scope, window, units)
    log.resume(StopTarget.ALL, "")
    log.admit(NEXT)
    log.limit(WIDE, 110)
    log.limit(NARROW, 60, Window.DAY)
    rows = [
        replace(row, bucket_ms=row.bucket_ms - 60_000) if row.window is Window.ROLLING_HOUR else row
        for row in log.rows()
    ]
    log.grant(1, rows=rows)
    assert reason(log) == "wrong_window"


def closed(charged: int, *, late: bool, final: bool) -> Later:
    """A log in which a lease of before a settlement is closed after it, with 2 of 10 units used."""
    log = Later(entries=begun().entries)
    lease = log.grant(10)
    if late:
        log.add(LeaseExpired(lease_id=lease))
    log.stop(StopTarget.ALL, "")
    restored(log, final=final)
    charge(log, WIDE, Window.LIFETIME, 90 if final else 8)
    charge(log, NARROW, Window.DAY, 40 if final else 8)
    log.close(lease, 2, charged=charged, late=late)
    return log


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_no_lease_of_before_is_refunded(*, final: bool, late: bool) -> None:
    """Attack: its units were given back in what is lost, granted again there, and are given back once more."""
    assert accepted(closed(10, late=late, final=final))
    assert reason(closed(2, late=late, final=final)) == "wrong_charge"


def test_a_lease_of_afterwards_is_refunded() -> None:
    """It is known whole."""
    log = stopped()
    restored(log, final=True)
    charge(log, WIDE, Window.LIFETIME, 100)
    charge(log, NARROW, Window.DAY, 50)
    log.resume(StopTarget.ALL, "")
    log.admit(NEXT)
    log.limit(WIDE, 110)
    log.limit(NARROW, 60, Window.DAY)
    log.close(log.grant(10), 2)
    assert accepted(log)


def test_a_final_settlement_excuses_any_size_and_says_what_it_excused() -> None:
    """Of its generation and those before. A reader who holds such a checkpoint is told that it is lost."""
    log = stopped()
    restored(log, at=3, generation=3, checkpoint=lost_note(99, generation=2), final=True)
    charge(log, WIDE, Window.LIFETIME, 100)
    charge(log, NARROW, Window.DAY, 50)

    def lost(note: str) -> list[int]:
        known: Any = {"keys": [LOG_KEY.public], "custodian": ROOT.public.key_id, "seen": [note]}
        return [one.size for one in verify_log(log.lines(), log.note(generation=3), **known).lost]

    for size, generation in ((99, 2), (100, 2), (5_000, 2), (5_000, 0)):
        assert lost(lost_note(size, generation=generation)) == [size]
    with pytest.raises(LogError) as caught:
        lost(lost_note(5_000, generation=3))
    assert caught.value.reason == "rollback"
