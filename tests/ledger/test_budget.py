"""Budget rows: scopes, windows of the UTC calendar, and a hold that never exceeds a row."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.codec import decode, encode
from aigovtool.errors import InvalidValueError
from aigovtool.ids import BorrowerId, ConsumerId, ModelId
from aigovtool.ledger.budget import (
    ROLLING,
    BudgetLimit,
    BudgetRow,
    RowKey,
    Scope,
    Window,
    bucket_of,
    path,
    row_for,
    row_now,
)
from aigovtool.ledger.policy import Level
from aigovtool.ledger.units import Dimension
from aigovtool.limits import MAX_INTEGER

MODEL, BORROWER, CONSUMER = ModelId("digits"), BorrowerId("north"), ConsumerId("anna")
KEY = RowKey(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=0)
AMOUNTS = st.integers(0, 1_000)


def ms(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1000  # type: ignore[arg-type,misc]


def row(limit: int | None, posted: int = 0, pending: int = 0) -> BudgetRow:
    return BudgetRow(key=KEY, limit=limit, posted=posted, pending=pending)


# --- Rows --------------------------------------------------------------------------------------


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_a_hold_never_exceeds_its_row(limit: int, posted: int, pending: int, units: int) -> None:
    """A hold that fits is held to the unit; one that does not fit is refused, whoever asks."""
    before = row(limit, posted, pending)
    if posted + pending + units <= limit:
        assert before.hold(units) == row(limit, posted, pending + units)
    elif units:
        with pytest.raises(InvalidValueError) as caught:
            before.hold(units)
        assert caught.value.reason == "overspend"


def test_a_negative_hold_is_refused() -> None:
    """Nobody makes room by holding less than nothing."""
    with pytest.raises(InvalidValueError):
        row(5).hold(-1)
    with pytest.raises(InvalidValueError):
        row(None).hold(-1)


def test_an_unlimited_row_has_room_for_everything_and_still_counts() -> None:
    """No limit is an explicit choice, and what is used under it is known."""
    assert row(None).room() is None
    assert row(None).hold(10**12) == row(None, pending=10**12)


def test_a_limit_below_what_is_used_leaves_no_room() -> None:
    """Lowering a limit ends grants; it is no error and no debt."""
    assert row(3, posted=2, pending=4).room() == 0
    assert row(6, posted=2, pending=4).room() == 0
    assert row(7, posted=2, pending=4).room() == 1


@given(st.integers(0, 1_000), st.integers(0, 1_000), st.data())
def test_settling_and_refunding_move_exactly_the_units(posted: int, held: int, data: st.DataObject) -> None:
    """What was held becomes what was used; a refund gives back the rest of what was charged in full."""
    used = data.draw(st.integers(0, held))
    start = row(None, posted=posted, pending=held)
    assert start.settle(held, used) == row(None, posted=posted + used)
    assert start.settle(held, held).refund(held - used) == row(None, posted=posted + used)


# --- Scopes ------------------------------------------------------------------------------------


def test_a_path_goes_from_the_model_to_the_consumer() -> None:
    """A lease debits rows of three levels, widest first."""
    scopes = path(MODEL, BORROWER, CONSUMER)
    assert [scope.level() for scope in scopes] == [Level.MODEL, Level.BORROWER, Level.CONSUMER]
    assert scopes[2] == Scope(model=MODEL, borrower=BORROWER, consumer=CONSUMER)


def test_a_consumer_without_its_borrower_is_no_scope() -> None:
    """Two borrowers may have a consumer of the same name, so a scope always says whose."""
    with pytest.raises(ValueError, match="borrower"):
        Scope(model=MODEL, consumer=CONSUMER)
    with pytest.raises(InvalidValueError):
        decode(b'{"model":"digits","borrower":null,"consumer":"anna"}', Scope)


def test_no_limit_must_be_said() -> None:
    """A limit that is left out is refused; only an explicit null means unlimited."""
    limit = BudgetLimit(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.DAY, limit=None)
    text = encode(limit)
    assert decode(text, BudgetLimit) == limit
    with pytest.raises(InvalidValueError):
        decode(text.replace(b',"limit":null', b""), BudgetLimit)


# --- Windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "inside", "start"),
    [
        (Window.LIFETIME, ms(2031, 7, 9, 3, 4, 5), 0),
        (Window.HOUR, ms(2026, 3, 1, 0, 0, 0), ms(2026, 3, 1, 0)),
        (Window.HOUR, ms(2026, 3, 1, 0, 59, 59) + 999, ms(2026, 3, 1, 0)),
        (Window.HOUR, ms(2026, 3, 1, 1, 0, 0), ms(2026, 3, 1, 1)),
        (Window.DAY, ms(2026, 2, 28, 23, 59, 59) + 999, ms(2026, 2, 28)),
        (Window.DAY, ms(2026, 3, 1), ms(2026, 3, 1)),
        (Window.MONTH, ms(2024, 2, 29, 23, 59, 59) + 999, ms(2024, 2, 1)),
        (Window.MONTH, ms(2024, 3, 1), ms(2024, 3, 1)),
        (Window.MONTH, ms(2026, 12, 31, 23, 59, 59) + 999, ms(2026, 12, 1)),
        (Window.MONTH, ms(2027, 1, 1), ms(2027, 1, 1)),
        (Window.MONTH, 0, 0),
    ],
)
def test_windows_begin_on_the_utc_calendar(window: Window, inside: int, start: int) -> None:
    """The first and the last millisecond of an hour, a day and a month, leap days and years' ends included."""
    assert bucket_of(window, inside) == start


@given(st.sampled_from([Window.HOUR, Window.DAY, Window.MONTH]), st.integers(0, ms(9999, 12, 31, 23, 59, 59)))
def test_windows_are_those_of_the_standard_library_as_far_as_it_counts(window: Window, inside: int) -> None:
    """Its last year is 9999; up to there every window begins where it says."""
    start = datetime.fromtimestamp(inside // 1000, UTC).replace(minute=0, second=0)
    if window is not Window.HOUR:
        start = start.replace(hour=0)
    if window is Window.MONTH:
        start = start.replace(day=1)
    assert bucket_of(window, inside) == int(start.timestamp()) * 1000


TIMES = st.integers(0, 4_000_000_000_000) | st.integers(ms(9999, 12, 31), MAX_INTEGER)


@given(st.sampled_from(list(Window)), TIMES, TIMES)
def test_windows_are_intervals(window: Window, one: int, other: int) -> None:
    """A window's start is in that window, and later times are never in earlier windows, whatever a message may say."""
    one, other = sorted((one, other))
    assert bucket_of(window, one) <= bucket_of(window, other)
    assert bucket_of(window, one) <= one
    assert bucket_of(window, bucket_of(window, one)) == bucket_of(window, one)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/St_Johns", "UTC"])
def test_windows_do_not_depend_on_the_machine(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local time zone of the custodian's machine moves no window."""
    import time  # noqa: PLC0415 -- only here: to let the C library read the zone again

    with monkeypatch.context() as context:
        context.setenv("TZ", zone)
        time.tzset()
        found = bucket_of(Window.DAY, ms(2026, 3, 1, 23, 30))
    time.tzset()
    assert found == ms(2026, 3, 1)


def test_a_fresh_row_belongs_to_the_current_window_and_is_empty() -> None:
    """The next window starts with nothing posted and nothing pending, under the same limit."""
    limit = BudgetLimit(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.HOUR, limit=9)
    fresh = row_for(limit, ms(2026, 3, 1, 5, 30))
    assert fresh.key.bucket_ms == ms(2026, 3, 1, 5)
    assert (fresh.limit, fresh.posted, fresh.pending) == (9, 0, 0)
    assert fresh.key != row_for(limit, ms(2026, 3, 1, 6)).key


# --- Rolling windows, and the end of a budget ----------------------------------------------------


@pytest.mark.parametrize("window", sorted(ROLLING))
@given(
    limit=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(0, 3_600_000), st.integers(1, 20)), min_size=1, max_size=60),
)
def test_no_span_of_a_rolling_window_is_granted_more_than_its_limit(
    window: Window, limit: int, steps: list[tuple[int, int]]
) -> None:
    """Wherever a span of the window's length begins, what was granted in it stays within the limit."""
    span_ms, bucket_ms = ROLLING[window]
    scale = span_ms / 3_600_000 / 8
    rule = BudgetLimit(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=window, limit=limit)
    now_ms, rows, granted = ms(2026, 2, 28, 23), dict[int, BudgetRow](), list[tuple[int, int]]()
    for later, wanted in steps:
        now_ms += int(later * scale)
        row = row_now(rule, rows.values(), now_ms)
        units = min(wanted, row.room() or 0)
        if units:
            rows[row.key.bucket_ms] = row.hold(units)
            granted.append((now_ms, units))
    for begin, _ in granted:
        assert sum(units for at, units in granted if begin <= at < begin + span_ms) <= limit
    # And it does come back: one bucket after the span nothing of it counts any more.
    assert row_now(rule, rows.values(), now_ms + span_ms + bucket_ms).room() == limit


def test_a_unit_counts_for_the_window_and_at_most_one_bucket_more() -> None:
    """The oldest bucket is counted whole: a little too long, never too short."""
    rule = BudgetLimit(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.ROLLING_HOUR, limit=5)
    at = ms(2026, 3, 1, 12, 0, 59)
    rows = [row_now(rule, [], at).hold(5)]
    assert row_now(rule, rows, at + 3_600_000 - 1).room() == 0
    assert row_now(rule, rows, ms(2026, 3, 1, 13, 0, 59)).room() == 0
    assert row_now(rule, rows, ms(2026, 3, 1, 13, 1)).room() == 5


def test_a_rolling_window_tells_what_its_earlier_buckets_hold_from_what_they_spent() -> None:
    """All of it counts against the limit; what is held may come back. A bucket that has left counts in neither."""
    rule = BudgetLimit(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.ROLLING_HOUR, limit=50)
    at = ms(2026, 3, 1, 12)
    empty = [row_now(rule, [], at + minute * 60_000) for minute in (0, 1, 2)]
    rows = [msgspec.structs.replace(one, posted=3, pending=4 + place) for place, one in enumerate(empty)]
    found = row_now(rule, rows, at + 2 * 60_000)
    assert (found.posted, found.pending, found.earlier, found.earlier_pending) == (3, 6, 15, 9)
    later = row_now(rule, rows, at + 61 * 60_000)
    assert (later.earlier, later.earlier_pending) == (17, 11)


def test_what_earlier_buckets_were_charged_stays_a_number_that_can_be_told() -> None:
    """Operators may charge each bucket as much as a limit can have; together they only leave no room."""
    rule = BudgetLimit(
        scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.ROLLING_HOUR, limit=MAX_INTEGER
    )
    at = ms(2026, 3, 1, 12)
    rows = [row_now(rule, [], at + minute * 60_000).charge(MAX_INTEGER) for minute in (0, 1)]
    found = row_now(rule, rows, at + 2 * 60_000)
    assert (found.earlier, found.room()) == (MAX_INTEGER, 0)


def test_a_budget_ends_at_its_time() -> None:
    """Up to the millisecond; one without an end never does."""
    assert not msgspec.structs.replace(row(5), not_after_ms=1000).ended(999)
    assert msgspec.structs.replace(row(5), not_after_ms=1000).ended(1000)
    assert not row(5).ended(10**15)


def test_a_limit_without_an_end_is_encoded_as_before_there_were_ends() -> None:
    """Entries of the audit log that were written before keep their only encoding."""
    old = (
        b'{"scope":{"model":"m","borrower":null,"consumer":null},"dimension":"inferences","window":"day","limit":null}'
    )
    assert encode(decode(old, BudgetLimit)) == old
