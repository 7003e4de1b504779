"""The transitions of the ledger: draws debit every row or none, reports only add up, expiry charges in full."""

from dataclasses import replace
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigovtool.errors import ConflictError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, LeaseId, ModelId
from aigovtool.ledger.book import (
    Book,
    Charge,
    Draw,
    Effects,
    Event,
    Expire,
    Outcome,
    ReportUsage,
    WriteOff,
    apply,
    shows_fork,
)
from aigovtool.ledger.budget import BudgetRow, RowKey, Scope, Window, path
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.policy import Dial, Level, default_policy
from aigovtool.ledger.units import ZERO, Dimension, UnitVector, of
from aigovtool.limits import MAX_INTEGER

MODEL, BORROWER, CONSUMER = ModelId("digits"), BorrowerId("north"), ConsumerId("anna")
INSTANCE, OTHER_INSTANCE = InstanceId("a" * 64), InstanceId("b" * 64)
LEASE = LeaseId("1" * 32)
SCOPES = path(MODEL, BORROWER, CONSUMER)
POLICY = msgspec.structs.replace(
    default_policy(Dial.ISLAND, ttl_ms=30_000),
    max_unclosed_percent_per_instance=100,
    max_unclosed_percent_per_borrower=100,
)
DRAW = Draw(
    lease_id=LEASE,
    instance=INSTANCE,
    borrower=BORROWER,
    model=MODEL,
    manifest=Digest("sha256:" + "d" * 64),
    consumer=CONSUMER,
    minimum=of(Dimension.INFERENCES, 1),
    target=of(Dimension.INFERENCES, 10),
    policy=POLICY,
    refundable=True,
    held_by_instance=ZERO,
    held_by_borrower=ZERO,
    ttl_ms=30_000,
    grace_ms=5_000,
    now_ms=1_000,
)
DUE_MS = 1_000 + 30_000 + 5_000 + 1


def inferences(units: int) -> UnitVector:
    return of(Dimension.INFERENCES, units)


def row(
    scope: Scope,
    limit: int | None,
    *,
    posted: int = 0,
    pending: int = 0,
    window: Window = Window.LIFETIME,
    dimension: Dimension = Dimension.INFERENCES,
) -> BudgetRow:
    key = RowKey(scope=scope, dimension=dimension, window=window, bucket_ms=0)
    return BudgetRow(key=key, limit=limit, posted=posted, pending=pending)


def book_of(*rows: BudgetRow) -> Book:
    return Book(rows=MappingProxyType({each.key: each for each in rows}))


def report(seq: int, used: int, *, final: bool = False, instance: InstanceId = INSTANCE, text: str = "") -> ReportUsage:
    digest = Digest(f"sha256:{seq:032x}{used:031x}{int(final)}") if not text else Digest("sha256:" + text * 64)
    units = of(Dimension.INFERENCES, used)
    return ReportUsage(
        instance=instance, lease_id=LEASE, seq=seq, used=units, ok=used, err=0, final=final, digest=digest
    )


def run(book: Book, *events: Event) -> tuple[Book, list[Outcome]]:
    outcomes = []
    for event in events:
        effects = apply(book, event)
        outcomes.append(effects.outcome)
        book = book.after(effects)
    return book, outcomes


def granted(*, refundable: bool = True, limit: int = 100) -> Book:
    """A book with one lease of 10 units on two rows."""
    book, outcomes = run(book_of(row(SCOPES[0], limit), row(SCOPES[2], None)), replace(DRAW, refundable=refundable))
    assert outcomes == [Outcome.GRANTED]
    return book


def totals(book: Book) -> set[tuple[int, int]]:
    """What every row says: (posted, pending). One element means that all rows agree."""
    return {(each.posted, each.pending) for each in book.rows.values()}


def state(book: Book) -> LeaseState:
    return book.leases[LEASE].state


# --- Draws -------------------------------------------------------------------------------------


def test_a_draw_debits_every_row_of_its_path_and_no_other() -> None:
    """Model, borrower and consumer rows of all windows are held alike; strangers' rows are left alone."""
    mine = [row(scope, 100) for scope in SCOPES] + [row(SCOPES[2], 50, window=Window.DAY)]
    strangers = [
        row(Scope(model=ModelId("letters")), 100),
        row(Scope(model=MODEL, borrower=BorrowerId("south")), 100),
        row(Scope(model=MODEL, borrower=BORROWER, consumer=ConsumerId("bert")), 100),
        row(SCOPES[0], 100, dimension=Dimension.INPUT_TOKENS),
    ]
    book, outcomes = run(book_of(*mine, *strangers), DRAW)
    lease = book.leases[LEASE]
    assert outcomes == [Outcome.GRANTED]
    assert set(lease.rows) == {each.key for each in mine}
    assert len(lease.rows) == len(mine)
    assert {book.rows[each.key].pending for each in mine} == {lease.units.inferences}
    assert {book.rows[each.key].pending for each in strangers} == {0}


def test_a_lease_remembers_under_what_it_was_granted() -> None:
    """Owner, time, ttl, grace and policy are in the record, and it begins pending with nothing seen."""
    lease = granted().leases[LEASE]
    assert (lease.instance, lease.borrower, lease.consumer) == (INSTANCE, BORROWER, CONSUMER)
    assert (lease.granted_at_ms, lease.ttl_ms, lease.grace_ms) == (1_000, 30_000, 5_000)
    assert lease.policy == POLICY.digest()
    assert (lease.state, lease.seq, lease.seen.is_zero()) == (LeaseState.PENDING, 0, True)


@pytest.mark.parametrize("missing", list(Level))
def test_a_required_level_without_a_row_denies(missing: Level) -> None:
    """Absent means deny: plenty on the other levels does not help."""
    policy = msgspec.structs.replace(POLICY, required=list(Level))
    rows = [row(scope, 100) for scope in SCOPES]
    event = replace(DRAW, policy=policy)
    assert apply(book_of(*rows), event).outcome is Outcome.GRANTED
    effects = apply(book_of(*(each for each in rows if each.key.scope.level() is not missing)), event)
    assert effects == Effects(Outcome.NO_BUDGET_ROW, short=Dimension.INFERENCES, rooms={Dimension.INFERENCES: 0})


@pytest.mark.parametrize("required", [[], [Level.MODEL], list(Level)])
def test_no_row_at_all_denies_whatever_the_policy_requires(required: list[Level]) -> None:
    """A policy that requires nothing does not turn an absent budget into an unlimited one."""
    event = replace(DRAW, policy=msgspec.structs.replace(POLICY, required=required))
    assert apply(Book(), event).outcome is Outcome.NO_BUDGET_ROW


def test_a_row_of_another_dimension_does_not_count() -> None:
    """A budget of tokens is no budget of inferences."""
    tokens = row(SCOPES[0], 100, dimension=Dimension.INPUT_TOKENS)
    assert apply(book_of(tokens), DRAW).outcome is Outcome.NO_BUDGET_ROW


def test_an_unlimited_row_grants_and_counts() -> None:
    """An explicit row without a limit grants what is asked for, up to the policy's largest lease."""
    book, outcomes = run(book_of(row(SCOPES[0], None)), replace(DRAW, target=inferences(10**9)))
    assert outcomes == [Outcome.GRANTED]
    assert totals(book) == {(0, POLICY.max_lease_units // 10)}


@pytest.mark.parametrize(("left", "outcome"), [(3, Outcome.GRANTED), (2, Outcome.INSUFFICIENT), (0, Outcome.EXHAUSTED)])
def test_a_row_without_a_limit_ends_where_no_number_could_tell_it(left: int, outcome: Outcome) -> None:
    """Operators charged it with all that a number can say. One unit more, and nobody could read any budget any more."""
    full = row(SCOPES[0], None, posted=MAX_INTEGER - left)
    effects = apply(book_of(full), replace(DRAW, minimum=inferences(3), target=inferences(10**9)))
    assert effects.outcome is outcome
    assert all(one.posted + one.pending == MAX_INTEGER for one in effects.rows)


def test_the_narrowest_row_decides() -> None:
    """A lease fits the fullest row of its path, and the answer says what is left there."""
    effects = apply(book_of(row(SCOPES[0], 1_000), row(SCOPES[2], 30, posted=27)), replace(DRAW, minimum=inferences(2)))
    assert effects.outcome is Outcome.GRANTED
    assert effects.leases[0].units == of(Dimension.INFERENCES, 2)
    assert effects.rooms == {Dimension.INFERENCES: 1}


@pytest.mark.parametrize(
    ("rows", "minimum", "outcome", "available"),
    [
        ([row(SCOPES[0], 5, posted=5)], 1, Outcome.EXHAUSTED, 0),
        ([row(SCOPES[0], 5, posted=9)], 1, Outcome.EXHAUSTED, 0),
        ([row(SCOPES[0], 0)], 1, Outcome.EXHAUSTED, 0),
        ([row(SCOPES[0], 5, posted=2, pending=3)], 1, Outcome.RESERVED, 0),
        ([row(SCOPES[0], 5, posted=2, pending=1)], 3, Outcome.RESERVED, 2),
        ([row(SCOPES[0], 5, posted=3)], 3, Outcome.INSUFFICIENT, 2),
        ([row(SCOPES[0], 5, pending=5), row(SCOPES[2], 5, posted=5)], 1, Outcome.EXHAUSTED, 0),
        ([row(SCOPES[0], 5, pending=5), row(SCOPES[2], 5, posted=3)], 3, Outcome.EXHAUSTED, 0),
        ([row(SCOPES[0], 9, pending=5), row(SCOPES[2], 9, posted=9)], 1, Outcome.EXHAUSTED, 0),
    ],
)
def test_a_shortage_says_whether_waiting_helps(
    rows: list[BudgetRow], minimum: int, outcome: Outcome, available: int
) -> None:
    """exhausted: nobody can give units back; reserved: leases hold them; insufficient: fewer than one request needs."""
    effects = apply(book_of(*rows), replace(DRAW, minimum=inferences(minimum)))
    assert effects == Effects(
        outcome,
        available=inferences(available),
        short=Dimension.INFERENCES,
        rooms={Dimension.INFERENCES: available},
    )


@pytest.mark.parametrize(
    ("by_instance", "by_borrower", "outcome", "units"),
    [
        (0, 0, Outcome.GRANTED, 10),
        (19, 19, Outcome.GRANTED, 6),
        (25, 25, Outcome.CAPPED, 0),
        (24, 24, Outcome.GRANTED, 1),
        (0, 49, Outcome.GRANTED, 1),
        (0, 50, Outcome.CAPPED, 0),
        (0, 60, Outcome.CAPPED, 0),
    ],
)
def test_what_is_outstanding_is_capped(by_instance: int, by_borrower: int, outcome: Outcome, units: int) -> None:
    """25 % of the limit per instance and 50 % per borrower bound what a crash loop can burn."""
    policy = msgspec.structs.replace(POLICY, max_unclosed_percent_per_instance=25, max_unclosed_percent_per_borrower=50)
    event = replace(
        DRAW, policy=policy, held_by_instance=inferences(by_instance), held_by_borrower=inferences(by_borrower)
    )
    effects = apply(book_of(row(SCOPES[0], 100)), event)
    assert effects.outcome is outcome
    assert sum(lease.units.inferences for lease in effects.leases) == units


def test_a_small_budget_still_allows_one_lease_and_the_next() -> None:
    """A share of three units is less than one: the cap leaves room for two leases of what is needed."""
    policy = msgspec.structs.replace(POLICY, max_unclosed_percent_per_instance=1)
    book = book_of(row(SCOPES[0], 3, pending=1))
    assert apply(book, replace(DRAW, policy=policy, held_by_instance=inferences(1))).outcome is Outcome.GRANTED
    assert apply(book, replace(DRAW, policy=policy, held_by_instance=inferences(2))).outcome is Outcome.CAPPED


def test_one_waiting_request_may_be_larger_than_the_dial() -> None:
    """A batch that needs more than the dial's lease gets exactly what it needs."""
    policy = msgspec.structs.replace(default_policy(Dial.STRICT), max_unclosed_percent_per_instance=100)
    effects = apply(
        book_of(row(SCOPES[0], 100)), replace(DRAW, policy=policy, minimum=inferences(32), target=inferences(64))
    )
    assert effects.leases[0].units == of(Dimension.INFERENCES, 32)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=3),
    st.integers(1, 50),
    st.integers(1, 100),
    st.sampled_from(list(Dial)),
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_no_draw_exceeds_a_row(
    figures: list[tuple[int, int, int]], minimum: int, target: int, dial: Dial, held: tuple[int, int]
) -> None:
    """Whatever stands on the rows: a grant fits all of them and covers the minimum, a denial changes nothing."""
    rows = [row(scope, limit, posted=p, pending=q) for scope, (limit, p, q) in zip(SCOPES, figures, strict=False)]
    event = replace(
        DRAW,
        minimum=inferences(minimum),
        target=inferences(target),
        policy=default_policy(dial, ttl_ms=30_000),
        held_by_instance=inferences(held[0]),
        held_by_borrower=inferences(held[1]),
    )
    before = book_of(*rows)
    effects = apply(before, event)
    if effects.outcome is not Outcome.GRANTED:
        assert (effects.rows, effects.leases) == ((), ())
        return
    units = effects.leases[0].units.inferences
    assert units >= minimum
    assert [after.pending - before.rows[after.key].pending for after in effects.rows] == [units] * len(rows)
    assert all(after.limit is not None and after.posted + after.pending <= after.limit for after in effects.rows)


# --- Reports -----------------------------------------------------------------------------------


def test_reports_are_cumulative() -> None:
    """What is seen is the last figure, not a sum; a report that is not final moves no units."""
    book, outcomes = run(granted(), report(1, 3), report(2, 7))
    assert outcomes == [Outcome.RECORDED, Outcome.RECORDED]
    assert book.leases[LEASE].seen == of(Dimension.INFERENCES, 7)
    assert totals(book) == {(0, 10)}


def test_older_and_repeated_reports_change_nothing() -> None:
    """Late, lost and repeated reports are no events: nobody is charged twice and nobody is accused."""
    before, _ = run(granted(), report(2, 5))
    after, outcomes = run(before, report(1, 3), report(1, 9), report(2, 5), report(0, 0))
    assert outcomes == [Outcome.IGNORED] * 4
    assert after == before


@pytest.mark.parametrize(
    "lie",
    [
        report(2, 6),
        report(2, 5, text="f"),
        report(3, 4),
        report(3, 11),
        replace(report(3, 5), used=of(Dimension.INPUT_TOKENS, 1)),
        report(2, 5, final=True),
    ],
    ids=["same-seq-other-use", "same-seq-other-bytes", "less-than-before", "over-the-lease", "strange", "same-seq-end"],
)
@pytest.mark.parametrize("expired", [False, True])
def test_what_no_single_counter_can_report_is_a_fork(lie: ReportUsage, expired: bool) -> None:  # noqa: FBT001 -- case
    """Two copies of an instance are alive when its reports contradict each other; the rows stay charged."""
    before, _ = run(granted(), report(2, 5), *([Expire(LEASE, DUE_MS)] if expired else []))
    after, outcomes = run(before, lie)
    assert outcomes == [Outcome.FORKED]
    assert after == before


@pytest.mark.parametrize("late", [False, True])
def test_nothing_can_be_reported_after_the_end(late: bool) -> None:  # noqa: FBT001 -- case
    """A closed lease takes its own final report again, and calls everything newer or different a fork."""
    opening = [Expire(LEASE, DUE_MS)] if late else []
    closed, _ = run(granted(), *opening, report(2, 5, final=True))
    repeated, outcomes = run(closed, report(2, 5, final=True), report(1, 1), report(2, 9, final=True), report(3, 5))
    assert outcomes == [Outcome.IGNORED, Outcome.IGNORED, Outcome.FORKED, Outcome.FORKED]
    assert repeated == closed


def test_only_the_holder_can_report() -> None:
    """Another instance's report, or one about a lease that never was, touches nothing."""
    assert apply(granted(), report(1, 1, instance=OTHER_INSTANCE)) == Effects(Outcome.UNKNOWN)
    assert apply(Book(), report(1, 1)) == Effects(Outcome.UNKNOWN)


# --- Closing and expiry ------------------------------------------------------------------------


@pytest.mark.parametrize("used", [0, 4, 10])
def test_closing_charges_what_was_used(used: int) -> None:
    """The rest of the lease is free again on every row."""
    book, outcomes = run(granted(), report(1, used, final=True))
    assert outcomes == [Outcome.CLOSED]
    assert (state(book), totals(book)) == (LeaseState.CLOSED, {(used, 0)})


def test_expiry_charges_in_full_once() -> None:
    """Silence costs the whole lease, whatever was reported, and never a second time."""
    book, outcomes = run(granted(), report(1, 2), Expire(LEASE, DUE_MS), Expire(LEASE, DUE_MS + 10**9))
    assert outcomes == [Outcome.RECORDED, Outcome.EXPIRED, Outcome.IGNORED]
    assert (state(book), totals(book)) == (LeaseState.EXPIRED, {(10, 0)})


def test_a_lease_does_not_expire_early() -> None:
    """Within ttl and grace the sweep does nothing."""
    assert apply(granted(), Expire(LEASE, DUE_MS - 1)) == Effects(Outcome.IGNORED)


def test_a_late_close_refunds_once() -> None:
    """After expiry the final report gives back what was not used; its repetition gives nothing."""
    book, outcomes = run(
        granted(), Expire(LEASE, DUE_MS), report(1, 4), report(2, 4, final=True), report(2, 4, final=True)
    )
    assert outcomes == [Outcome.EXPIRED, Outcome.RECORDED, Outcome.CLOSED, Outcome.IGNORED]
    assert (state(book), totals(book)) == (LeaseState.CLOSED_LATE, {(4, 0)})


@pytest.mark.parametrize("late", [False, True])
def test_a_lease_whose_holder_can_be_copied_is_never_refunded(late: bool) -> None:  # noqa: FBT001 -- case
    """For a TEE without memory encryption a final report proves nothing about the copy: the charge stays full."""
    opening = [Expire(LEASE, DUE_MS)] if late else []
    book, outcomes = run(granted(refundable=False), *opening, report(1, 4, final=True))
    assert outcomes[-1] is Outcome.CLOSED
    assert totals(book) == {(10, 0)}


def test_a_refund_goes_to_the_window_that_was_debited() -> None:
    """A lease that closes in the next window leaves the new window's row alone."""
    old, new = row(SCOPES[0], 100, window=Window.DAY), row(SCOPES[0], 100, window=Window.DAY)
    new = msgspec.structs.replace(new, key=msgspec.structs.replace(new.key, bucket_ms=86_400_000))
    book, _ = run(book_of(old), DRAW)
    book = book.after(Effects(Outcome.RECORDED, rows=(new,)))
    book, _ = run(book, Expire(LEASE, DUE_MS), report(1, 3, final=True))
    assert (book.rows[old.key].posted, book.rows[old.key].pending) == (3, 0)
    assert book.rows[new.key] == new


# --- All of it ---------------------------------------------------------------------------------

EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda n, minimum, target: replace(
                DRAW, lease_id=LeaseId(f"{n:032x}"), minimum=inferences(minimum), target=inferences(target)
            ),
            st.integers(0, 10**6),
            st.integers(1, 4),
            st.integers(1, 9),
        ),
        st.builds(
            lambda n, seq, used, final: (n, report(seq, used, final=final)),
            st.integers(0, 5),
            st.integers(1, 4),
            st.integers(0, 9),
            st.booleans(),
        ),
        st.integers(0, 5),
    ),
    max_size=30,
)


def weight(lease: Lease) -> int:
    return lease.units.inferences if lease.unclosed() else lease.seen.inferences


@given(EVENTS)
def test_any_history_adds_up(events: list[Draw | tuple[int, ReportUsage] | int]) -> None:
    """After any sequence of draws, reports and expiries, rows equal the sum of leases and stay within limits."""
    book = book_of(row(SCOPES[0], 40), row(SCOPES[1], 25), row(SCOPES[2], None))
    for event in events:
        names = list(book.leases)
        if isinstance(event, Draw):
            if event.lease_id not in book.leases:
                book = book.after(apply(book, event))
        elif names:
            name = names[(event if isinstance(event, int) else event[0]) % len(names)]
            chosen = Expire(name, DUE_MS) if isinstance(event, int) else replace(event[1], lease_id=name)
            book = book.after(apply(book, chosen))
        pending = sum(weight(lease) for lease in book.leases.values() if lease.state is LeaseState.PENDING)
        posted = sum(weight(lease) for lease in book.leases.values() if lease.state is not LeaseState.PENDING)
        assert totals(book) == {(posted, pending)}
        assert all(each.limit is None or each.posted + each.pending <= each.limit for each in book.rows.values())


def test_a_book_is_a_value() -> None:
    """Applying an event leaves the book that it was applied to as it was."""
    book = book_of(row(SCOPES[0], 100))
    apply(book, DRAW)
    assert book == book_of(row(SCOPES[0], 100))


def test_a_busy_neighbour_does_not_cap_a_small_consumer() -> None:
    """What an instance holds is a share of the model's budget, not of one consumer's or one hour's."""
    policy = msgspec.structs.replace(POLICY, max_unclosed_percent_per_instance=25)
    book = book_of(row(SCOPES[0], 100_000), row(SCOPES[2], 100), row(SCOPES[2], 10, window=Window.HOUR))
    busy = replace(DRAW, policy=policy, held_by_instance=inferences(500), held_by_borrower=inferences(500))
    assert apply(book, busy).outcome is Outcome.GRANTED
    assert apply(book, replace(busy, held_by_instance=inferences(25_000))).outcome is Outcome.CAPPED


def test_one_request_beyond_the_policys_largest_lease_is_refused() -> None:
    """A batch cannot make a lease larger than the custodian said a crash may cost."""
    policy = msgspec.structs.replace(POLICY, max_lease_units=1_000)
    draw = replace(DRAW, policy=policy, minimum=inferences(1_001), target=inferences(1_001))
    assert apply(book_of(row(SCOPES[0], 100_000)), draw).outcome is Outcome.CAPPED
    assert apply(book_of(row(SCOPES[0], 100_000)), replace(draw, minimum=inferences(1_000))).outcome is Outcome.GRANTED


# --- Acts of two operators -----------------------------------------------------------------------


def test_a_lease_that_is_written_off_stays_charged_and_accuses_nobody() -> None:
    """Its holder no longer counts as one; should it report after all, nothing is refunded and no alarm is raised."""
    expired, _ = run(granted(), Expire(lease_id=LEASE, now_ms=DUE_MS))
    book, outcomes = run(expired, WriteOff(lease_id=LEASE), report(1, 2, final=True))
    assert outcomes == [Outcome.WRITTEN_OFF, Outcome.IGNORED]
    assert totals(book) == totals(expired) == {(10, 0)}
    assert not book.leases[LEASE].unclosed()


@pytest.mark.parametrize("other", [LeaseState.PENDING, LeaseState.CLOSED, LeaseState.CLOSED_LATE])
def test_only_an_expired_lease_can_be_written_off(other: LeaseState) -> None:
    """One that is pending may still be closed in time, and one that is closed has nothing left to give up."""
    lease = msgspec.structs.replace(granted().leases[LEASE], state=other)
    with pytest.raises(ConflictError):
        apply(Book(leases=MappingProxyType({LEASE: lease})), WriteOff(lease_id=LEASE))


def test_a_charge_may_exceed_the_limit_and_leaves_no_room() -> None:
    """What was spent was spent, whatever the limit says; nothing more is granted."""
    before = row(SCOPES[0], 10)
    book, outcomes = run(book_of(before), Charge(key=before.key, units=15), DRAW)
    assert outcomes == [Outcome.CHARGED, Outcome.EXHAUSTED]
    assert (book.rows[before.key].posted, book.rows[before.key].room()) == (15, 0)


def test_a_budget_that_has_ended_grants_nothing() -> None:
    """Also when only one row of the path has ended; before its end no lease outlives it."""
    ends = msgspec.structs.replace(row(SCOPES[1], 100), not_after_ms=2_500)
    for now_ms, outcome in ((2_499, Outcome.GRANTED), (2_500, Outcome.BUDGET_ENDED)):
        book, outcomes = run(book_of(row(SCOPES[0], 100), ends), replace(DRAW, now_ms=now_ms))
        assert outcomes == [outcome]
    book, _ = run(book_of(row(SCOPES[0], 100), ends), DRAW)
    assert book.leases[LEASE].ttl_ms == 1_500


def test_what_a_rolling_window_holds_already_leaves_no_room() -> None:
    """The earlier buckets count, and are not changed by a grant in this one."""
    rolling = msgspec.structs.replace(row(SCOPES[0], 100, window=Window.ROLLING_DAY), earlier=95)
    assert run(book_of(rolling), replace(DRAW, minimum=inferences(6)))[1] == [Outcome.INSUFFICIENT]
    book, outcomes = run(book_of(rolling), replace(DRAW, minimum=inferences(5)))
    assert outcomes == [Outcome.GRANTED]
    assert book.leases[LEASE].units == of(Dimension.INFERENCES, 5)
    assert run(book, replace(DRAW, lease_id=LeaseId("2" * 32)))[1] == [Outcome.RESERVED]


@pytest.mark.parametrize(
    ("earlier", "held", "outcome"),
    [
        (100, 0, Outcome.EXHAUSTED),
        (100, 1, Outcome.RESERVED),
        (97, 0, Outcome.INSUFFICIENT),
        (97, 97, Outcome.RESERVED),
    ],
)
def test_what_leases_hold_of_earlier_buckets_may_come_back(earlier: int, held: int, outcome: Outcome) -> None:
    """A rolling window is gone only where nothing of any bucket that counts is held: else it is waited for."""
    rolling = row(SCOPES[0], 100, window=Window.ROLLING_HOUR)
    full = msgspec.structs.replace(rolling, earlier=earlier, earlier_pending=held)
    effects = apply(book_of(full), replace(DRAW, minimum=inferences(5)))
    assert effects.outcome is outcome
    assert effects.available == inferences(100 - earlier)


def test_a_report_that_shows_a_fork_is_told_without_its_rows() -> None:
    """The same reports as `apply` calls a fork, and no other."""
    lease = run(granted(), report(2, 5))[0].leases[LEASE]
    cases = (report(2, 6), report(3, 4), report(3, 11), report(2, 5), report(1, 9), report(3, 5, final=True))
    assert [shows_fork(lease, one) for one in cases] == [True, True, True, False, False, False]
    assert not shows_fork(lease, report(2, 6, instance=OTHER_INSTANCE))
    assert not shows_fork(None, report(2, 6))
    assert not shows_fork(msgspec.structs.replace(lease, state=LeaseState.WRITTEN_OFF), report(2, 6))
