"""Who waits for units is served in the order of coming, as soon as there are any, and nobody overtakes."""

import asyncio
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from tests.protocol.test_dimensions import denied, lease, leased, units
from tests.protocol.test_metering import ANNA, BERT, MODEL, Exchange, answer, receipt, stop_state

from aigovtool.enclave.boot import Instance
from aigovtool.enclave.clock import ElapsedClock
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.errors import OverloadedError, RefusalError, StoppedError
from aigovtool.ids import ConsumerId
from aigovtool.ledger.entry import StopTarget
from aigovtool.ledger.units import UnitVector
from aigovtool.protocol.messages import Deny, DenyCode, Grant
from aigovtool.protocol.reservation import Reservation
from aigovtool.transport.room import Room

#: What one request reserves of compute.
MOST_MS = 50


class Front:
    """What lies between requests and the meter: a run without engine and network, whose custodian is the test."""

    def __init__(self, *held: UnitVector) -> None:
        self.exchange: Exchange = leased(*held)
        self.clock = ElapsedClock()
        parts = SimpleNamespace(meter=self.exchange.meter, clock=self.clock)
        self.run = InstanceRun(cast("Instance", parts))
        self.served: list[str] = []

    async def reserve(self, name: str, rows: int = 1, consumer: ConsumerId = ANNA) -> Reservation:
        """Reserve for one request, and note that it was served."""
        deadline_ms = self.clock.now_ms() + 60_000
        reservation = await self.run.charging.reserve(MODEL, consumer, units(rows, MOST_MS), None, deadline_ms)
        self.served.append(name)
        return reservation

    def comes(self, name: str, rows: int = 1, consumer: ConsumerId = ANNA) -> "asyncio.Task[Reservation]":
        """Let a request come; it runs when the loop does."""
        return asyncio.create_task(self.reserve(name, rows, consumer))

    def post(self, reservation: Reservation, compute_ms: int) -> None:
        """End a request, after it has taken so much of what it reserved."""
        used = msgspec.structs.replace(reservation.units, compute_ms=compute_ms)
        written = msgspec.structs.replace(receipt(self.run.charging.preview(reservation, used)), units=used)
        self.run.charging.gate_and_post(reservation, written)

    def answered(self, *results: Grant | Deny) -> list[int]:
        """Renew once; return the inferences that were asked for."""
        now_ms = self.clock.now_ms()
        renew = self.exchange.renew(now_ms)
        policy = self.exchange.meter.terms[MODEL]
        self.exchange.meter.accept(now_ms, answer(renew, *results, policy=policy))
        self.run._news()
        return [want.minimum.inferences for want in renew.wants]


async def settled() -> None:
    """Let everything happen that can happen now."""
    for _ in range(20):
        await asyncio.sleep(0)


async def two_at_a_time() -> tuple[Front, Reservation, Reservation]:
    """Return a lease on which two requests run; a third has its compute when one of them has ended."""
    front = Front(units(100, 2 * MOST_MS + 40))
    return front, await front.reserve("a"), await front.reserve("b")


async def end(*tasks: "asyncio.Task[Reservation]") -> None:
    """Let who still waits give up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_a_posting_leaves_serves_who_waits_at_once() -> None:
    """Forty-five of fifty milliseconds were not used: nobody waits for them until something else happens."""
    front, first, _ = await two_at_a_time()
    third = front.comes("c")
    await settled()
    assert not third.done()
    front.post(first, 5)
    await settled()
    assert third.done()
    assert (await third).units == units(1, MOST_MS)


async def test_work_that_was_given_back_serves_who_waits_at_once() -> None:
    """All of it is free again."""
    front, first, _ = await two_at_a_time()
    third = front.comes("c")
    await settled()
    front.run.charging.void(first, failed=True)
    await settled()
    assert third.done()
    await third


async def test_nobody_overtakes_who_waits() -> None:
    """A request that comes in the moment in which units are free again is served after those who have waited."""
    front, first, second = await two_at_a_time()
    waiting = front.comes("waiting")
    await settled()
    fresh = front.comes("fresh")
    front.post(first, 5)
    await settled()
    assert front.served == ["a", "b", "waiting"]
    front.post(second, 5)
    await settled()
    assert front.served == ["a", "b", "waiting", "fresh"]
    await asyncio.gather(waiting, fresh)


async def test_who_waits_is_served_in_the_order_of_coming() -> None:
    """Each posting serves the next; none of them tries its luck out of turn."""
    front, first, second = await two_at_a_time()
    tasks = []
    for name in "cdef":
        tasks.append(front.comes(name))
        await settled()
    front.post(first, 5)
    front.post(second, 5)
    await settled()
    front.post(await tasks[0], 5)
    await settled()
    assert front.served == list("abcde")
    await end(*tasks)


async def test_a_large_request_does_not_block_small_ones() -> None:
    """A batch of more rows than the lease has is passed by rows that it does serve."""
    front, first, second = await two_at_a_time()
    batch, row = front.comes("batch", 200), front.comes("row")
    await settled()
    front.post(first, 5)
    await settled()
    assert front.served == ["a", "b", "row"]
    front.post(second, 5)
    await end(batch, row)


async def test_a_large_request_is_the_first_to_have_what_it_needs() -> None:
    """It has kept its place: the lease that comes for it is not taken by the rows that came after it."""
    front, first, second = await two_at_a_time()
    batch, row = front.comes("batch", 200), front.comes("row")
    await settled()
    fresh = front.comes("fresh")
    assert front.answered(lease(2, units(200, MOST_MS))) == [200]
    await settled()
    assert front.served == ["a", "b", "batch"]
    front.post(first, 5)
    front.post(second, 5)
    await asyncio.gather(batch, row, fresh)
    assert front.served[3:] == ["row", "fresh"]


async def test_other_consumers_do_not_wait_for_each_others_turn() -> None:
    """The order is that of one model and consumer: what is free for Bert serves him, however many of Anna's wait."""
    front, _, _ = await two_at_a_time()
    anna = front.comes("anna")
    await settled()
    front.answered(msgspec.structs.replace(lease(2, units(1, MOST_MS)), consumer=BERT))
    await front.reserve("bert", 1, BERT)
    assert not anna.done()
    await end(anna)


async def test_who_gives_up_in_the_moment_of_being_served_keeps_nothing() -> None:
    """Its units go to the next; nothing is reserved for a request that is gone."""
    front, first, second = await two_at_a_time()
    gone, next_one = front.comes("gone"), front.comes("next")
    await settled()
    front.run.charging.void(first, failed=False)
    gone.cancel()
    await settled()
    assert gone.cancelled()
    assert front.served == ["a", "b", "next"]
    front.post(second, 5)
    front.post(await next_one, 5)
    (holding,) = front.exchange.meter._holdings.values()
    assert (holding.in_flight, holding.reserved) == (0, UnitVector())


async def test_who_gives_up_waits_no_more() -> None:
    """Neither is anything asked for it, nor does it stand in anybody's way."""
    front, first, _ = await two_at_a_time()
    batch, row = front.comes("batch", 200), front.comes("row")
    await settled()
    await end(batch)
    demand = front.exchange.meter._wishes.get((MODEL, ANNA))
    assert demand is not None
    assert demand.waiting == 1
    front.post(first, 5)
    await row
    assert (demand.waiting, demand.minimum, len(front.run.charging._line)) == (0, UnitVector(), 0)


async def test_who_is_refused_a_place_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that nobody lets wait is told so, and the row that waits is asked for as if it were alone."""
    front, _, _ = await two_at_a_time()
    monkeypatch.setattr(front.run.charging, "_queue", Room(1, 1, "too_many_waiting"))
    row = front.comes("row")
    await settled()
    with pytest.raises(OverloadedError):
        await front.reserve("batch", 200)
    assert front.answered() == [1]
    await end(row)


async def test_a_denial_is_told_to_whom_it_concerns_and_nobody_else() -> None:
    """A batch is refused for good by the answer; the row that waits behind it fits into what is left."""
    front, _, _ = await two_at_a_time()
    batch, row = front.comes("batch", 200), front.comes("row")
    await settled()
    short = denied(DenyCode.INSUFFICIENT, next(iter(units(1, 0).items()))[0], units(9, 900))
    assert front.answered(short) == [200]
    with pytest.raises(RefusalError):
        await batch
    assert not row.done()
    assert front.answered(lease(2, units(9, 900))) == [1]
    await row


async def test_a_stop_ends_the_waiting_of_whom_it_concerns() -> None:
    """They are told so at once, in whatever place they stand."""
    front, _, _ = await two_at_a_time()
    tasks = [front.comes(name) for name in "cde"]
    await settled()
    front.exchange.meter.apply_stop_state(stop_state(2, (StopTarget.CONSUMER, ANNA)))
    front.run._news()
    for task in tasks:
        with pytest.raises(StoppedError):
            await task


async def test_who_waits_longer_than_its_deadline_is_told_so() -> None:
    """A deadline that has passed ends the waiting, and leaves no place behind."""
    front, _, _ = await two_at_a_time()
    with pytest.raises(RefusalError) as caught:
        await front.run.charging.reserve(MODEL, ANNA, units(1, MOST_MS), None, front.clock.now_ms())
    assert caught.value.reason == "no_lease_in_time"
    assert len(front.run.charging._line) == 0
