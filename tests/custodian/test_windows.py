"""Budgets of rolling windows, and budgets that end, through renewals on each store."""

import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, Bench, Enclave, report, want

from aigovtool.custodian.service import views
from aigovtool.errors import InvalidValueError
from aigovtool.ids import BorrowerId, ConsumerId
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as acts
from aigovtool.protocol.messages import Deny, DenyCode, Grant

MINUTE_MS = 60_000
#: A multiple of every bucket.
SIX_HOURS_MS = 360 * MINUTE_MS


async def limit(bench: Bench, window: Window, units: int, *, not_after_ms: int | None = None) -> None:
    made = BudgetLimit(
        scope=Scope(model=MODEL, borrower=BorrowerId("hospital"), consumer=CONSUMER),
        dimension=Dimension.INFERENCES,
        window=window,
        limit=units,
        not_after_ms=not_after_ms,
    )
    await bench.command(acts.SetBudget(limit=made))


async def draw(bench: Bench, units: int) -> Grant | Deny:
    """Ask for units with a freshly attested enclave: an attestation does not last for a month."""
    enclave = Enclave(bench)
    await enclave.boot()
    (result,) = (await enclave.renew(want(units))).results
    if isinstance(result, Grant):
        await enclave.renew(reports=(report(result.lease_id, seq=1, used=result.units.inferences, final=True),))
    return result


async def code(bench: Bench) -> DenyCode | None:
    result = await draw(bench, 1)
    return result.code if isinstance(result, Deny) else None


@pytest.mark.parametrize(
    ("window", "span_ms", "bucket_ms"),
    [
        (Window.ROLLING_HOUR, 60 * MINUTE_MS, MINUTE_MS),
        (Window.ROLLING_DAY, 24 * 60 * MINUTE_MS, 15 * MINUTE_MS),
        (Window.ROLLING_MONTH, 30 * 24 * 60 * MINUTE_MS, SIX_HOURS_MS),
    ],
)
async def test_a_rolling_budget_comes_back_bucket_by_bucket(
    window: Window, span_ms: int, bucket_ms: int, lent: Bench
) -> None:
    """What was used counts until its whole bucket has left the window; midnight is nothing special."""
    await lent.grant(10_000)
    await limit(lent, window, 3)
    begin = lent.now_ms = lent.now_ms // SIX_HOURS_MS * SIX_HOURS_MS + SIX_HOURS_MS
    assert await code(lent) is None
    lent.now_ms = begin + bucket_ms
    assert await code(lent) is None
    assert await code(lent) is None
    assert await code(lent) is DenyCode.EXHAUSTED
    (row,) = [one for one in (await views.show_budgets(lent.custodian)).budgets if one.key.window is window]
    assert (row.posted, row.room) == (2, 0)
    lent.now_ms = begin + span_ms + bucket_ms - 1
    assert await code(lent) is DenyCode.EXHAUSTED
    lent.now_ms = begin + span_ms + bucket_ms  # the first one has left
    assert await code(lent) is None
    assert await code(lent) is DenyCode.EXHAUSTED
    lent.now_ms = begin + span_ms + 2 * bucket_ms  # the next two have left
    assert [await code(lent) for _ in range(3)] == [None, None, DenyCode.EXHAUSTED]


async def test_units_that_are_held_in_an_earlier_bucket_are_waited_for(lent: Bench) -> None:
    """The next minute has nothing held, and yet nothing is exhausted: a lease of the last one may give units back."""
    await lent.grant(10_000)
    await limit(lent, Window.ROLLING_HOUR, 3)
    lent.now_ms = lent.now_ms // MINUTE_MS * MINUTE_MS + 50_000
    enclave = Enclave(lent)
    await enclave.boot()
    granted = [(await enclave.renew(want(1))).results[0] for _ in range(3)]
    lent.now_ms += 15_000  # the next bucket; the leases last for 30 s
    assert await code(lent) is DenyCode.RESERVED
    first = granted[0]
    assert isinstance(first, Grant)
    await enclave.renew(reports=(report(first.lease_id, seq=1, used=0, final=True),))
    assert await code(lent) is None
    lent.now_ms += 30_000  # the other two were never closed
    assert await code(lent) is DenyCode.EXHAUSTED


async def test_a_budget_ends_at_its_time(lent: Bench) -> None:
    """No lease outlives it, nothing is granted after it, and a later end opens it again."""
    await lent.grant(10_000)
    end = lent.now_ms + 10_000
    await limit(lent, Window.LIFETIME, 100, not_after_ms=end)
    granted = await draw(lent, 1)
    assert isinstance(granted, Grant)
    assert granted.ttl_ms == 10_000 < lent.policy.ttl_ms
    lent.now_ms = end - 1
    assert await code(lent) is None
    lent.now_ms = end
    assert await code(lent) is DenyCode.BUDGET_ENDED
    await limit(lent, Window.LIFETIME, 100, not_after_ms=end + 1000)
    assert await code(lent) is None


async def test_raising_a_budget_keeps_its_end(lent: Bench) -> None:
    """More units are not more time."""
    await lent.grant(10_000)
    end = lent.now_ms + 10_000
    await limit(lent, Window.LIFETIME, 1, not_after_ms=end)
    await lent.command(
        acts.GrantBudget(
            scope=Scope(model=MODEL, borrower=BorrowerId("hospital"), consumer=CONSUMER),
            dimension=Dimension.INFERENCES,
            window=Window.LIFETIME,
            units=5,
        )
    )
    lent.now_ms = end
    assert await code(lent) is DenyCode.BUDGET_ENDED


async def test_a_budget_cannot_end_in_the_past(lent: Bench) -> None:
    """Whoever wants to end one now sets its limit to zero, or stops."""
    with pytest.raises(InvalidValueError) as caught:
        await limit(lent, Window.LIFETIME, 1, not_after_ms=lent.now_ms)
    assert caught.value.reason == "bad_end"


# --- What is told to be left -----------------------------------------------------------------------------------


async def test_what_is_left_is_told_as_it_is_after_the_whole_renewal(lent: Bench) -> None:
    """Two consumers share a budget: what the second one drew is not left for the first."""
    await lent.grant(1_000)
    await lent.add_consumer(ConsumerId("ward8"), BORROWER)
    enclave = Enclave(lent)
    await enclave.boot()
    answer = await enclave.renew(want(5), want(5, consumer=ConsumerId("ward8")))
    held = sum(result.units.inferences for result in answer.results if isinstance(result, Grant))
    assert len(answer.results) == 2
    assert [room.units for room in answer.rooms] == [1_000 - held] * 2


async def test_nothing_is_left_of_a_budget_whose_time_is_over(lent: Bench) -> None:
    """Whatever was not used of it: the enclave that closes a lease is told that nothing more comes."""
    await lent.grant(1_000)
    await limit(lent, Window.LIFETIME, 50, not_after_ms=lent.now_ms + MINUTE_MS)
    enclave = Enclave(lent)
    await enclave.boot()
    (result,) = (await enclave.renew(want(5))).results
    assert isinstance(result, Grant)
    lent.now_ms += MINUTE_MS
    answer = await enclave.renew(reports=(report(result.lease_id, seq=1, used=1, final=True),))
    assert [room.units for room in answer.rooms] == [0]
