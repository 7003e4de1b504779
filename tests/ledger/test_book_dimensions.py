"""Draws in several dimensions at once: a lease has all that it needs of each, or there is none."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ledger.test_book import DRAW, DUE_MS, LEASE, POLICY, SCOPES, book_of, report, row, run

from aigovtool.ids import LeaseId, digest_of
from aigovtool.ledger.book import Book, Draw, Effects, Expire, Outcome, ReportUsage, apply
from aigovtool.ledger.budget import BudgetRow, Window
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.policy import Dial, Level, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension, UnitVector

INFERENCES, COMPUTE = Dimension.INFERENCES, Dimension.COMPUTE_MS
ALL_OF_IT = {"max_unclosed_percent_per_instance": 100, "max_unclosed_percent_per_borrower": 100}


def policy_of(dial: Dial = Dial.ISLAND, compute_ms: int = 50) -> ServingPolicy:
    return msgspec.structs.replace(default_policy(dial, ttl_ms=30_000, compute_ms=compute_ms), **ALL_OF_IT)


def units(inferences: int, compute_ms: int) -> UnitVector:
    return UnitVector(inferences=inferences, compute_ms=compute_ms)


def compute(scope: int, limit: int | None, *, posted: int = 0, pending: int = 0) -> BudgetRow:
    return row(SCOPES[scope], limit, posted=posted, pending=pending, dimension=COMPUTE)


BOTH = replace(DRAW, policy=policy_of(), minimum=units(1, 50), target=units(10, 500))


# --- All rows or none --------------------------------------------------------------------------


def test_a_draw_debits_every_row_of_every_counted_dimension() -> None:
    """Each row by the units of its own dimension; what the policy does not count is left alone."""
    mine = [row(SCOPES[0], 1_000), row(SCOPES[2], None, window=Window.DAY), compute(0, 100_000), compute(1, 90_000)]
    tokens = row(SCOPES[0], 100, dimension=Dimension.INPUT_TOKENS)
    book, outcomes = run(book_of(*mine, tokens), BOTH)
    lease = book.leases[LEASE]
    assert outcomes == [Outcome.GRANTED]
    assert lease.units == units(10, 500)
    assert sorted(map(repr, lease.rows)) == sorted(repr(each.key) for each in mine)
    assert [book.rows[each.key].pending for each in mine] == [10, 10, 500, 500]
    assert book.rows[tokens.key] == tokens


def test_a_grant_tells_what_is_left_of_each_dimension() -> None:
    """The least of each; a dimension that nothing limits is not told of."""
    rows = [row(SCOPES[0], 1_000), row(SCOPES[1], 700), row(SCOPES[2], 5_000), compute(0, 9_000), compute(2, 9_500)]
    effects = apply(book_of(*rows), BOTH)
    assert effects.rooms == {INFERENCES: 690, COMPUTE: 8_500}
    effects = apply(book_of(row(SCOPES[0], None), compute(0, 9_000)), BOTH)
    assert effects.rooms == {COMPUTE: 8_500}


@pytest.mark.parametrize(
    ("rows", "outcome", "available", "short"),
    [
        ([row(SCOPES[0], 100), compute(0, 49)], Outcome.INSUFFICIENT, units(100, 49), COMPUTE),
        ([row(SCOPES[0], 100), compute(0, 60, posted=60)], Outcome.EXHAUSTED, units(100, 0), COMPUTE),
        ([row(SCOPES[0], 100), compute(0, 60, pending=20)], Outcome.RESERVED, units(100, 40), COMPUTE),
        ([row(SCOPES[0], 3, posted=3), compute(0, 1_000)], Outcome.EXHAUSTED, units(0, 1_000), INFERENCES),
        ([row(SCOPES[0], 3, posted=3), compute(0, 10)], Outcome.EXHAUSTED, units(0, 10), INFERENCES),
        ([row(SCOPES[0], 3, pending=3), compute(0, 9, pending=9)], Outcome.RESERVED, units(0, 0), INFERENCES),
    ],
)
def test_too_little_of_one_dimension_denies_all_and_names_it(
    rows: list[BudgetRow], outcome: Outcome, available: UnitVector, short: Dimension
) -> None:
    """Plenty of the other does not help, no row is touched, and the answer says of what there is too little."""
    effects = apply(book_of(*rows), BOTH)
    assert (effects.outcome, effects.available, effects.short) == (outcome, available, short)
    assert effects.rooms == {INFERENCES: available.inferences, COMPUTE: available.compute_ms}
    assert (effects.rows, effects.leases) == ((), ())


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ([row(SCOPES[0], 100)], COMPUTE),
        ([compute(0, 1_000)], INFERENCES),
        ([row(SCOPES[0], 100), compute(2, 1_000)], COMPUTE),
        ([row(SCOPES[2], 100), compute(0, 1_000)], INFERENCES),
    ],
    ids=["no-compute", "no-inferences", "compute-elsewhere", "inferences-elsewhere"],
)
def test_a_counted_dimension_without_its_row_denies(rows: list[BudgetRow], missing: Dimension) -> None:
    """Absent means deny in each dimension by itself: the required level's row of another is no budget of this one."""
    effects = apply(book_of(*rows), BOTH)
    assert effects == Effects(Outcome.NO_BUDGET_ROW, short=missing, rooms={INFERENCES: 0, COMPUTE: 0})


def test_a_policy_that_requires_no_level_needs_a_row_of_each_dimension_all_the_same() -> None:
    """Somewhere on the path, in every dimension that is counted."""
    anywhere = replace(BOTH, policy=msgspec.structs.replace(policy_of(), required=[]))
    assert apply(book_of(row(SCOPES[0], 100)), anywhere).outcome is Outcome.NO_BUDGET_ROW
    assert apply(book_of(row(SCOPES[0], 100), compute(2, 1_000)), anywhere).outcome is Outcome.GRANTED


def test_every_required_level_needs_a_row_of_each_dimension() -> None:
    """A consumer's row of inferences does not stand for one of compute."""
    event = replace(BOTH, policy=msgspec.structs.replace(policy_of(), required=[Level.MODEL, Level.CONSUMER]))
    rows = [row(SCOPES[0], 100), row(SCOPES[2], 100), compute(0, 1_000)]
    assert apply(book_of(*rows), event).outcome is Outcome.NO_BUDGET_ROW
    assert apply(book_of(*rows, compute(2, 1_000)), event).outcome is Outcome.GRANTED


def test_a_wish_that_forgets_a_dimension_gets_a_unit_of_it() -> None:
    """A lease without any unit of what is metered would serve nobody, and a count of nothing would be free."""
    effects = apply(
        book_of(row(SCOPES[0], 100), compute(0, 1_000)), replace(BOTH, minimum=units(2, 0), target=BOTH.minimum)
    )
    assert effects.leases[0].units == units(2, 50)
    effects = apply(book_of(row(SCOPES[0], 100), compute(0, 0)), replace(BOTH, minimum=units(2, 0)))
    assert (effects.outcome, effects.short) == (Outcome.EXHAUSTED, COMPUTE)


def test_one_ended_row_of_one_dimension_ends_the_path() -> None:
    """A budget of compute that is over leaves nothing to be had, whatever stands for inferences."""
    ended = msgspec.structs.replace(compute(0, 1_000), not_after_ms=BOTH.now_ms)
    effects = apply(book_of(row(SCOPES[0], 100), ended), BOTH)
    assert effects == Effects(Outcome.BUDGET_ENDED, rooms={INFERENCES: 100, COMPUTE: 0})


# --- Sizes and caps ----------------------------------------------------------------------------


@pytest.mark.parametrize(("inferences", "milliseconds"), [(None, None), (None, 10**7), (10**7, None)])
@pytest.mark.parametrize("huge", [units(10**6 + 1, 50), units(1, 10**6 + 1)])
def test_a_wish_larger_than_any_lease_is_capped(
    inferences: int | None, milliseconds: int | None, huge: UnitVector
) -> None:
    """Also where nothing is limited: there is room for everything, and no lease of that size."""
    event = replace(BOTH, minimum=huge, target=huge)
    effects = apply(book_of(row(SCOPES[0], inferences), compute(0, milliseconds)), event)
    short = INFERENCES if huge.inferences > 1 else COMPUTE
    assert (effects.outcome, effects.short) == (Outcome.CAPPED, short)
    assert effects.available.get(short) == BOTH.policy.max_lease_units


@pytest.mark.parametrize(
    ("held", "outcome", "short"),
    [
        (units(0, 0), Outcome.GRANTED, None),
        (units(0, 2_450), Outcome.GRANTED, None),
        (units(0, 2_451), Outcome.CAPPED, COMPUTE),
        (units(25, 0), Outcome.CAPPED, INFERENCES),
        (units(25, 2_500), Outcome.CAPPED, INFERENCES),
    ],
)
@pytest.mark.parametrize("whose", ["instance", "borrower"])
def test_what_is_outstanding_is_capped_in_each_dimension(
    whose: str, held: UnitVector, outcome: Outcome, short: Dimension | None
) -> None:
    """A quarter of each budget: who holds too much of one of them gets nothing, and is told of which."""
    changes = {**ALL_OF_IT, f"max_unclosed_percent_per_{whose}": 25}
    event = replace(BOTH, policy=msgspec.structs.replace(policy_of(), **changes))
    by_one = replace(event, held_by_instance=held) if whose == "instance" else replace(event, held_by_borrower=held)
    effects = apply(book_of(row(SCOPES[0], 100), compute(0, 10_000)), by_one)
    assert (effects.outcome, effects.short) == (outcome, short)


def test_a_cap_in_one_dimension_makes_the_lease_smaller_in_that_one() -> None:
    """What may still be held of compute bounds the lease's compute, and nothing else of it."""
    policy = msgspec.structs.replace(policy_of(), max_unclosed_percent_per_instance=25)
    event = replace(BOTH, policy=policy, held_by_instance=units(0, 2_400))
    effects = apply(book_of(row(SCOPES[0], 100), compute(0, 10_000)), event)
    assert effects.leases[0].units == units(10, 100)


@pytest.mark.parametrize(
    ("dial", "size"),
    [(Dial.STRICT, units(20, 1_000)), (Dial.BALANCED, units(1_000, 10_000)), (Dial.ISLAND, units(10_000, 100_000))],
)
def test_the_dial_sizes_each_dimension_by_its_own_budget(dial: Dial, size: UnitVector) -> None:
    """0.1 %, 1 % or a tenth of each; the twenty of a strict lease are inferences, not milliseconds."""
    event = replace(BOTH, policy=policy_of(dial), target=units(10**6, 10**6))
    effects = apply(book_of(row(SCOPES[0], 100_000), compute(0, 1_000_000)), event)
    assert effects.leases[0].units == size


@pytest.mark.parametrize("dial", [Dial.STRICT, Dial.BALANCED])
def test_what_is_known_afterwards_is_leased_for_two_requests(dial: Dial) -> None:
    """At the most that each may take, however small a share that is of the budget: one runs while another is served."""
    event = replace(BOTH, policy=policy_of(dial), target=units(10, 10**6))
    effects = apply(book_of(row(SCOPES[0], 1_000), compute(0, 1_000)), event)
    assert effects.leases[0].units.compute_ms == 2 * 50


# --- Bound mode --------------------------------------------------------------------------------


def test_a_bound_lease_carries_its_request_and_no_more_than_it_needs() -> None:
    """Whatever the target says: the units of one request, and the digest that names it."""
    request = digest_of(b"a request")
    event = replace(BOTH, policy=policy_of(Dial.BOUND), minimum=units(3, 50), target=units(500, 5_000), request=request)
    effects = apply(book_of(row(SCOPES[0], 100_000), compute(0, 1_000_000)), event)
    (lease,) = effects.leases
    assert (lease.request, lease.units) == (request, units(3, 50))


def test_other_leases_are_for_any_request() -> None:
    """Without a request in the wish there is none in the lease."""
    (lease,) = apply(book_of(row(SCOPES[0], 100)), replace(DRAW, policy=POLICY)).leases
    assert lease.request is None


# --- All of it ---------------------------------------------------------------------------------

EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda n, minimum, more: replace(
                BOTH,
                lease_id=LeaseId(f"{n:032x}"),
                minimum=minimum,
                target=minimum.plus(more),
                policy=policy_of(compute_ms=5),
            ),
            st.integers(0, 10**6),
            st.builds(units, st.integers(0, 4), st.integers(0, 9)),
            st.builds(units, st.integers(0, 9), st.integers(0, 30)),
        ),
        st.builds(
            lambda n, seq, used, final: (n, replace(report(seq, used.inferences, final=final), used=used)),
            st.integers(0, 5),
            st.integers(1, 4),
            st.builds(units, st.integers(0, 9), st.integers(0, 30)),
            st.booleans(),
        ),
        st.integers(0, 5),
    ),
    max_size=30,
)


def weight(lease: Lease) -> UnitVector:
    return lease.units if lease.unclosed() else lease.seen


def total(leases: list[Lease]) -> UnitVector:
    found = UnitVector()
    for lease in leases:
        found = found.plus(weight(lease))
    return found


def check(book: Book) -> None:
    pending = total([lease for lease in book.leases.values() if lease.state is LeaseState.PENDING])
    posted = total([lease for lease in book.leases.values() if lease.state is not LeaseState.PENDING])
    for each in book.rows.values():
        dimension = each.key.dimension
        assert (each.posted, each.pending) == (posted.get(dimension), pending.get(dimension))
        assert each.limit is None or each.posted + each.pending <= each.limit


@given(EVENTS)
def test_any_history_adds_up_in_each_dimension(events: list[Draw | tuple[int, ReportUsage] | int]) -> None:
    """After any draws, reports and expiries, each row equals the sum of leases in its dimension, within its limit."""
    book = book_of(row(SCOPES[0], 40), row(SCOPES[2], None), compute(0, 120), compute(1, 90))
    for event in events:
        names = list(book.leases)
        if isinstance(event, Draw):
            if event.lease_id not in book.leases:
                book = book.after(apply(book, event))
        elif names:
            name = names[(event if isinstance(event, int) else event[0]) % len(names)]
            chosen = Expire(name, DUE_MS) if isinstance(event, int) else replace(event[1], lease_id=name)
            book = book.after(apply(book, chosen))
        check(book)
