"""Wishes: what a look at every demand would find urgent is found, and who is idle is forgotten."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.protocol.test_metering import ANNA, BERT, MODEL, TTL_MS, Exchange, answer, deny, grant, stop_state

from aigovtool.errors import BudgetReservedError, RefusalError
from aigovtool.ids import ConsumerId
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol.messages import Deny, DenyCode, Grant, Renew
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Reservation

CARL = ConsumerId("carl")
CODES = [DenyCode.EXHAUSTED, DenyCode.RESERVED, DenyCode.CAPPED, DenyCode.INSUFFICIENT]


def scanned(meter: Meter, now_ms: int) -> bool:
    """Look at every demand, as slowly as it takes."""
    wishes = meter._wishes
    return any(
        wishes._wants_more(now_ms, path, demand) and not wishes._blocked(now_ms, path, demand)
        for path, demand in wishes._demand.items()
    )


class History:
    """A meter, its requests, and a custodian that grants and denies at random."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.exchange = Exchange()
        self.meter = self.exchange.meter
        self.now_ms = 0
        self.leases = 0
        self.epoch = 1
        self.running: list[Reservation] = []
        self.waiting: list[tuple[ConsumerId, int]] = []
        self.exchange.round_trip(0)

    def step(self) -> None:
        chance = self.chance
        self.now_ms += chance.choice((0, 0, 1, 30, 400, 1_000, 4_000))
        act = chance.choice(
            ("ask", "ask", "ask", "post", "post", "void", "give up", "renew", "answer", "answer", "rare")
        )
        if act == "ask":
            self.ask(chance.choice((ANNA, BERT, CARL)), chance.choice((1, 1, 1, 2, 5)))
        elif act in {"post", "void"} and self.running:
            done = self.running.pop(chance.randrange(len(self.running)))
            self.meter.post(done, done.units) if act == "post" else self.meter.void(done, failed=False)
        elif act == "give up" and self.waiting:
            gone, _ = self.waiting.pop(chance.randrange(len(self.waiting)))
            self.meter.waiting(MODEL, gone, -1)
        elif act == "renew" and self.meter.renew_due(self.now_ms):
            _ = self.exchange.renew(self.now_ms)
        elif act == "answer" and self.meter.renew_due(self.now_ms):
            self.answer()
        elif act == "rare" and chance.random() < 0.1:
            self.epoch += 1
            stops = [(StopTarget.CONSUMER, BERT)] if chance.random() < 0.5 else []
            _ = self.meter.apply_stop_state(stop_state(self.epoch, *stops))
        elif act == "rare" and chance.random() < 0.1:
            self.meter.nudge(self.now_ms, granted=chance.random() < 0.5, recall=chance.random() < 0.3)

    def ask(self, consumer: ConsumerId, units: int) -> None:
        try:
            reservation = self.exchange.reserve(self.now_ms, units, consumer)
        except RefusalError:
            return
        if reservation is not None:
            self.running.append(reservation)
        else:
            self.meter.waiting(MODEL, consumer, 1)
            self.waiting.append((consumer, units))

    def answer(self) -> None:
        chance = self.chance
        renew = self.exchange.renew(self.now_ms)
        results: list[Grant | Deny] = []
        for want in renew.wants:
            self.leases += 1
            if chance.random() < 0.5:
                results.append(grant(self.leases, max(want.minimum.inferences, chance.randrange(6)), want.consumer))
            elif chance.random() < 0.9:
                code, left = chance.choice(CODES), chance.randrange(2)
                wait_ms = chance.choice((0, 2_000, 20_000))
                results.append(deny(code, consumer=want.consumer, available=left, retry_after_ms=wait_ms))
        epoch = self.epoch - (chance.random() < 0.1)  # some answers are older than a stop
        self.meter.accept(self.now_ms, answer(renew, *results, epoch=epoch))


def test_urgency_is_never_missed_and_never_invented() -> None:
    """After each event, and at each time, the few paths that are looked at tell what a look at all would tell."""
    seen: Counter[bool] = Counter()
    for seed in range(60):
        history = History(seed)
        for _ in range(300):
            history.step()
            found = history.meter._wishes.urgent(history.now_ms)
            assert found == scanned(history.meter, history.now_ms), f"seed {seed}"
            seen[found] += 1
    assert min(seen[True], seen[False]) > 1_000


def consumers(count: int) -> Iterator[ConsumerId]:
    return (ConsumerId(f"c{number}") for number in range(count))


def test_consumers_that_came_once_are_forgotten() -> None:
    """A thousand credentials, each used once and denied: after a ttl nothing of them is left."""
    exchange = Exchange()
    exchange.round_trip(0)
    for consumer in consumers(1_000):
        assert exchange.reserve(1, 1, consumer) is None
    assert len(exchange.meter._wishes) == 1_000
    denied = [deny(DenyCode.RESERVED, consumer=consumer) for consumer in consumers(1_000)]
    exchange.round_trip(10, *denied)
    exchange.round_trip(TTL_MS)
    assert len(exchange.meter._wishes) == 1_000
    exchange.round_trip(TTL_MS + 2)
    assert len(exchange.meter._wishes) == 0
    assert not exchange.meter.renew_due(TTL_MS + 3)


def test_an_exhaustion_that_was_asked_about_is_remembered_longer() -> None:
    """Operators are not asked again by a consumer that tries once a minute, and its memory ends after ten."""
    exchange = Exchange()
    exchange.round_trip(0)
    assert exchange.reserve(1) is None
    exchange.round_trip(1, deny(DenyCode.EXHAUSTED))
    assert [want.ask for want in exchange.round_trip(2, deny(DenyCode.EXHAUSTED)).wants] == [True]
    exchange.round_trip(600_001)
    assert len(exchange.meter._wishes) == 1
    exchange.round_trip(600_002)
    assert len(exchange.meter._wishes) == 0


def test_who_waits_or_holds_a_lease_is_not_forgotten() -> None:
    """However long it takes: a lease must be accounted for, and somebody who waits must be served."""
    exchange = Exchange()
    exchange.round_trip(0, grant(1, 5, BERT))
    assert exchange.reserve(1) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.round_trip(1)
    unacknowledged = exchange.renew(10 * TTL_MS)
    assert [report.final for report in unacknowledged.reports] == [True]
    assert [want.consumer for want in unacknowledged.wants] == [ANNA]
    assert len(exchange.meter._wishes) == 2
    exchange.meter.accept(10 * TTL_MS, answer(unacknowledged))
    exchange.meter.waiting(MODEL, ANNA, -1)
    exchange.round_trip(10 * TTL_MS + 1)
    assert len(exchange.meter._wishes) == 0


def test_whoever_waits_is_asked_for_first() -> None:
    """A thousand consumers that draw ahead do not keep the one out who has nothing."""
    exchange = Exchange()
    exchange.round_trip(0, *(grant(number, 2, consumer) for number, consumer in enumerate(consumers(1_500))))
    for consumer in consumers(1_500):
        exchange.post(exchange.reserved(0, 1, consumer), 1)
    assert exchange.reserve(1, 1, ANNA) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    wants = exchange.renew(1).wants
    assert len(wants) == 1_000
    assert wants[0].consumer == ANNA


def test_final_reports_come_first() -> None:
    """More open leases than fit into a renewal do not keep back those that free units."""
    exchange = Exchange()
    exchange.round_trip(0, *(grant(number, 9, consumer) for number, consumer in enumerate(consumers(1_500))))
    for number, consumer in enumerate(consumers(1_500)):
        reservation = exchange.reserved(0, 9 if number == 1_499 else 1, consumer)
        exchange.meter.post(reservation, reservation.units)
    reports = exchange.renew(1).reports
    assert len(reports) == 1_000
    assert [report.final for report in reports].index(True) == 0


# --- Large and small requests of one consumer ------------------------------------------------------


@dataclass
class Crowd:
    """Requests of Anna that wait while Bert's work keeps the model busy, and a custodian that has `left` units."""

    waiting: list[int]
    left: int
    code: DenyCode = DenyCode.RESERVED
    exchange: Exchange = field(default_factory=Exchange)
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.exchange.round_trip(0, grant(1, 8, BERT))
        self.exchange.reserved(1, 1, BERT)
        for units in self.waiting:
            assert self.exchange.reserve(1, units) is None
            self.exchange.meter.waiting(MODEL, ANNA, 1)

    def renew(self, now_ms: int) -> Renew:
        """Renew if it is due, and let everybody who waits try again."""
        renew = self.exchange.renew(now_ms)
        results: list[Grant | Deny] = []
        for want in renew.wants:
            units = want.minimum.inferences
            self.asked.append(units)
            if units > self.left:
                results.append(deny(self.code, available=self.left))
            else:
                results.append(grant(1 + len(self.asked), units))
        self.exchange.meter.accept(now_ms, answer(renew, *results))
        for units in list(self.waiting):
            if self.exchange.reserve(now_ms, units) is not None:
                self.waiting.remove(units)
                self.exchange.meter.waiting(MODEL, ANNA, -1)
        return renew


def test_a_large_request_does_not_keep_small_ones_from_being_asked_for() -> None:
    """A batch is denied, and what is left would serve a row: it is asked for at once, and then the batch again."""
    crowd = Crowd([100, 1], left=50)
    for now_ms in (1, 2, 3):
        assert crowd.exchange.meter.renew_due(now_ms)
        crowd.renew(now_ms)
    assert (crowd.asked, crowd.waiting) == ([100, 1, 100], [100])
    assert not crowd.exchange.meter.renew_due(4)
    assert crowd.exchange.meter.renew_due(2_003)


def test_all_that_fit_into_what_is_left_are_asked_for_together() -> None:
    """One lease is for the largest of them; the next is for the batch that did not fit."""
    crowd = Crowd([7, 100, 1, 30], left=50)
    for now_ms in (1, 2, 3):
        crowd.renew(now_ms)
    assert crowd.asked == [100, 30, 100]


def test_a_small_request_that_is_denied_too_is_not_asked_for_in_a_loop() -> None:
    """A custodian may leave fifty to a batch and none to a row: both wait for the time that it named."""
    crowd = Crowd([100, 1], left=50, code=DenyCode.CAPPED)
    crowd.renew(1)
    crowd.left = 0
    crowd.renew(2)
    assert crowd.asked == [100, 1]
    assert not crowd.exchange.meter.renew_due(2_001)
    assert crowd.exchange.meter.renew_due(2_002)


def test_leases_are_given_back_with_the_wish_for_the_whole_and_not_before() -> None:
    """Three units do not serve the five rows that are asked for first; they go back when the batch is short again."""
    crowd = Crowd([], left=50)
    exchange = crowd.exchange
    exchange.round_trip(1, grant(50, 3))
    for units in (100, 5):
        assert exchange.reserve(1, units) is None
        exchange.meter.waiting(MODEL, ANNA, 1)
        crowd.waiting.append(units)
    assert [crowd.renew(now_ms).reports for now_ms in (1, 2, 3)] == [[], [], []]
    assert exchange.meter.renew_due(4)
    (report,) = crowd.renew(4).reports
    assert (report.lease_id, report.final) == (grant(50, 3).lease_id, True)
    assert crowd.asked == [100, 5, 100, 100]


def test_what_nobody_waits_for_any_more_is_not_asked_for() -> None:
    """A batch has given up; the row that comes after it is asked for as if it were alone."""
    exchange = Exchange()
    exchange.round_trip(0)
    assert exchange.reserve(1, 100) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.meter.waiting(MODEL, ANNA, -1)
    assert exchange.reserve(2, 1) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    assert [want.minimum.inferences for want in exchange.renew(2).wants] == [1]


# --- More paths than fit into a renewal ------------------------------------------------------------


def test_paths_beyond_a_thousand_have_their_turn() -> None:
    """Fifteen hundred consumers wait for what others hold: two renewals ask for all of them."""
    exchange = Exchange()
    exchange.round_trip(0)
    for consumer in consumers(1_500):
        assert exchange.reserve(1, 1, consumer) is None
        exchange.meter.waiting(MODEL, consumer, 1)
    asked = [{want.consumer for want in exchange.round_trip(now_ms).wants} for now_ms in (1, 2, 3)]
    assert [len(each) for each in asked] == [1_000, 1_000, 1_000]
    assert asked[0] | asked[1] == set(consumers(1_500))
    assert asked[2] != asked[1]


def test_what_is_not_in_the_renewal_was_not_asked_for() -> None:
    """A wish that a renewal has no room for asks operators nothing: it does so when its turn has come."""
    exchange = Exchange()
    exchange.round_trip(0)
    assert exchange.reserve(1) is None
    exchange.round_trip(1, deny(DenyCode.EXHAUSTED))
    for consumer in consumers(1_000):
        assert exchange.reserve(2, 1, consumer) is None
        exchange.meter.waiting(MODEL, consumer, 1)
    renew = exchange.renew(2)
    assert ANNA not in {want.consumer for want in renew.wants}
    exchange.meter.accept(2, answer(renew, *(grant(9 + n, 8, c) for n, c in enumerate(consumers(1_000)))))
    (want,) = exchange.renew(3).wants
    assert (want.consumer, want.ask) == (ANNA, True)


def test_a_denial_stands_while_only_others_are_asked_for() -> None:
    """Whoever has no place in a renewal is told what the custodian last said, and does not wait for an answer."""
    exchange = Exchange()
    exchange.round_trip(0)
    assert exchange.reserve(1, 2) is None
    exchange.meter.waiting(MODEL, ANNA, 1)
    exchange.round_trip(1, deny(DenyCode.RESERVED, available=1))
    assert exchange.reserve(2, 1) is None
    for consumer in consumers(1_000):
        assert exchange.reserve(2, 1, consumer) is None
        exchange.meter.waiting(MODEL, consumer, 1)
    assert ANNA not in {want.consumer for want in exchange.renew(2).wants}
    with pytest.raises(BudgetReservedError):
        exchange.reserve(3, 2)
