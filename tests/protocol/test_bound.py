"""Bound mode: a lease is for one request, which names it by a digest, and serves no other."""

import msgspec
import pytest
from tests.protocol.test_metering import (
    ANNA,
    BERT,
    CUSTODIAN,
    INSTANCE,
    MODEL,
    TTL_MS,
    Exchange,
    answer,
    deny,
    grant,
    inferences,
    stop_state,
)

from aigovtool.errors import BudgetExhaustedError, BudgetReservedError, ConflictError, LeaseCappedError
from aigovtool.ids import Digest, digest_of
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.limits import MAX_WANTS_PER_RENEWAL
from aigovtool.protocol.holding import Holding
from aigovtool.protocol.messages import Deny, DenyCode, Grant
from aigovtool.protocol.metering import Meter
from aigovtool.protocol.reservation import Reservation

POLICY = msgspec.structs.replace(default_policy(Dial.BOUND), wipe_after_ms=90_000)
FIRST, SECOND = digest_of(b"the first request"), digest_of(b"the second request")
RUN_AND_WAIT = ((b"running", 100), (b"waiting", 30))


def bound(number: int, request: Digest | None, units: int = 1) -> Grant:
    return msgspec.structs.replace(grant(number, units), request=request)


def denied(code: DenyCode, request: Digest) -> Deny:
    return msgspec.structs.replace(deny(code), request=request)


def reserve(exchange: Exchange, now_ms: int, request: Digest | None, units: int = 1) -> Reservation | None:
    return exchange.meter.reserve(now_ms, MODEL, ANNA, inferences(units), request)


def wait(exchange: Exchange, now_ms: int, request: Digest, units: int = 1) -> None:
    """Begin to wait for a lease of this request."""
    assert reserve(exchange, now_ms, request, units) is None
    exchange.meter.waiting(MODEL, ANNA, 1, request, inferences(units))


def leave(exchange: Exchange, request: Digest) -> None:
    exchange.meter.waiting(MODEL, ANNA, -1, request)


@pytest.fixture
def exchange() -> Exchange:
    """An instance with authority and without leases, whose model is lent in bound mode."""
    meter = Meter(
        instance=INSTANCE, custodian=CUSTODIAN, policies={MODEL: POLICY}, stop_state=stop_state(1), admitted_ms=0
    )
    made = Exchange(meter)
    made.round_trip(0)
    return made


def test_a_wish_without_a_request_is_an_error(exchange: Exchange) -> None:
    """Whoever serves a bound model says for what: nothing is drawn ahead or in stock."""
    with pytest.raises(ConflictError) as caught:
        reserve(exchange, 1, None)
    assert caught.value.reason == "unbound"
    assert exchange.renew(TTL_MS // 3).wants == []


def test_other_modes_do_not_ask_for_what() -> None:
    """There a request's digest neither selects nor names a lease."""
    usual = Exchange()
    usual.round_trip(0, grant(1, 5))
    assert reserve(usual, 1, FIRST) is not None
    second = reserve(usual, 1, SECOND, 4)
    assert second is not None
    usual.meter.post(second, inferences(4))
    assert [want.request for want in usual.renew(2).wants] == [None]


def test_a_lease_serves_only_its_request(exchange: Exchange) -> None:
    """The second request waits, although the first one's lease has units."""
    wait(exchange, 1, FIRST)
    (want,) = exchange.round_trip(1, bound(1, FIRST, 5)).wants
    assert (want.request, want.minimum, want.target) == (FIRST, inferences(1), inferences(1))
    assert reserve(exchange, 2, SECOND) is None
    reservation = reserve(exchange, 2, FIRST)
    assert reservation is not None
    leave(exchange, FIRST)
    exchange.meter.post(reservation, inferences(1))


def test_a_lease_for_no_request_serves_none(exchange: Exchange) -> None:
    """One that was granted on other terms, or for any request, is no lease in bound mode."""
    wait(exchange, 1, FIRST)
    exchange.round_trip(1, bound(1, None, 5))
    assert reserve(exchange, 2, FIRST) is None


def test_each_request_asks_for_a_lease_of_its_own(exchange: Exchange) -> None:
    """Two at once are two wishes, each with what it needs."""
    wait(exchange, 1, FIRST, 2)
    wait(exchange, 1, SECOND, 7)
    renew = exchange.round_trip(1, bound(1, SECOND, 7))
    assert [(want.request, want.minimum) for want in renew.wants] == [(FIRST, inferences(2)), (SECOND, inferences(7))]
    # Of the two only the one that has no lease is asked for again.
    assert [want.request for want in exchange.renew(2).wants] == [FIRST]


def test_nothing_is_asked_for_ahead(exchange: Exchange) -> None:
    """A lease that is used up is not followed by another before there is a request for it."""
    wait(exchange, 1, FIRST)
    exchange.round_trip(1, bound(1, FIRST))
    reservation = reserve(exchange, 2, FIRST)
    assert reservation is not None
    leave(exchange, FIRST)
    exchange.meter.post(reservation, inferences(1))
    renew = exchange.round_trip(3)
    assert renew.wants == []
    assert [(report.used, report.final) for report in renew.reports] == [(inferences(1), True)]


def test_a_lease_whose_request_has_left_is_closed_unused(exchange: Exchange) -> None:
    """Nobody else can use it: its units go back with the next renewal, long before its time is over."""
    wait(exchange, 1, FIRST)
    renew = exchange.renew(1)
    leave(exchange, FIRST)
    exchange.meter.accept(2, answer(renew, bound(1, FIRST, 5)))
    (report,) = exchange.renew(3).reports
    assert (report.used, report.final) == (inferences(0), True)


def test_what_a_request_leaves_of_its_lease_is_given_back(exchange: Exchange) -> None:
    """It has its answer: the rest of its lease has no other use."""
    wait(exchange, 1, FIRST, 3)
    exchange.round_trip(1, bound(1, FIRST, 3))
    reservation = reserve(exchange, 2, FIRST, 3)
    assert reservation is not None
    leave(exchange, FIRST)
    assert exchange.round_trip(2).reports == []  # it runs
    exchange.meter.post(reservation, inferences(1))
    (report,) = exchange.renew(3).reports
    assert (report.used, report.final) == (inferences(1), True)


def test_a_lease_whose_request_still_waits_is_kept(exchange: Exchange) -> None:
    """A renewal between the grant and its use does not take it away."""
    wait(exchange, 1, FIRST)
    exchange.round_trip(1, bound(1, FIRST))
    assert exchange.round_trip(2).reports == []
    assert reserve(exchange, 3, FIRST) is not None


def test_a_request_that_gives_up_is_forgotten(exchange: Exchange) -> None:
    """Nothing is asked for it any more, while others wait on."""
    wait(exchange, 1, FIRST)
    wait(exchange, 1, SECOND)
    leave(exchange, FIRST)
    assert [want.request for want in exchange.renew(2).wants] == [SECOND]


def test_exhaustion_is_remembered_for_every_request(exchange: Exchange) -> None:
    """Requests that come later are refused here, and the custodian is asked for more once."""
    wait(exchange, 1, FIRST)
    exchange.round_trip(1, denied(DenyCode.EXHAUSTED, FIRST))
    with pytest.raises(BudgetExhaustedError):
        reserve(exchange, 2, FIRST)
    leave(exchange, FIRST)
    for number in range(3):
        with pytest.raises(BudgetExhaustedError):
            reserve(exchange, 3 + number, digest_of(b"request %d" % number))
    assert exchange.meter._wishes._demand[MODEL, ANNA].requests == {}


def test_exhaustion_is_asked_about_in_the_name_of_who_waits(exchange: Exchange) -> None:
    """One wish of one renewal says so, and no later one."""
    wait(exchange, 1, FIRST)
    asks = []
    for now_ms in (1, 2, 12_000):
        renew = exchange.round_trip(now_ms, denied(DenyCode.EXHAUSTED, FIRST))
        asks.append([want.ask for want in renew.wants])
    assert asks == [[False], [True], [False]]


def test_units_that_others_hold_are_refused_with_a_hint(exchange: Exchange) -> None:
    """Once this instance holds nothing itself."""
    wait(exchange, 1, FIRST)
    exchange.round_trip(1, denied(DenyCode.RESERVED, FIRST))
    with pytest.raises(BudgetReservedError) as caught:
        reserve(exchange, 2, FIRST)
    assert caught.value.retry_after_s


def test_who_is_refused_a_place_in_the_queue_leaves_no_trace(exchange: Exchange) -> None:
    """Only who waits is asked for: a flood of requests that nobody lets wait draws no leases and takes no memory."""
    wait(exchange, 1, FIRST)
    for number in range(1_000):
        assert reserve(exchange, 2, digest_of(b"%d" % number)) is None
    renew = exchange.renew(3)
    assert [want.request for want in renew.wants] == [FIRST]
    demand = exchange.meter._wishes.get((MODEL, ANNA))
    assert demand is not None
    assert list(demand.requests) == [FIRST]
    leave(exchange, FIRST)
    assert not demand.requests


def test_two_who_wait_for_the_same_request_are_both_served(exchange: Exchange) -> None:
    """The same question twice is two answers: when the first has its lease, one is asked for the other."""
    wait(exchange, 1, FIRST)
    wait(exchange, 1, FIRST)
    exchange.round_trip(2, bound(1, FIRST))
    first = reserve(exchange, 3, FIRST)
    assert first is not None
    leave(exchange, FIRST)
    assert reserve(exchange, 3, FIRST) is None
    renew = exchange.round_trip(4, bound(2, FIRST))
    assert [want.request for want in renew.wants] == [FIRST]
    assert reserve(exchange, 5, FIRST) is not None


def test_one_consumers_many_requests_do_not_crowd_out_anothers(exchange: Exchange) -> None:
    """Where a renewal cannot take all wishes, each path has its turn."""
    for number in range(MAX_WANTS_PER_RENEWAL + 5):
        wait(exchange, 1, digest_of(b"%d" % number))
    assert exchange.meter.reserve(1, MODEL, BERT, inferences(1), SECOND) is None
    exchange.meter.waiting(MODEL, BERT, 1, SECOND, inferences(1))
    wants = exchange.renew(2).wants
    assert len(wants) == MAX_WANTS_PER_RENEWAL
    assert SECOND in [want.request for want in wants[:2]]


def test_what_waits_is_not_compared_with_every_lease(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred run and thirty wait: each of these looks at its own leases alone, however many others there are."""
    looks = 0
    named = Holding.__dict__["request"]

    def counted(holding: Holding) -> Digest | None:
        nonlocal looks
        looks += 1
        request: Digest | None = named.__get__(holding)
        return request

    running, waiting = ([digest_of(b"%s %d" % (name, n)) for n in range(count)] for name, count in RUN_AND_WAIT)
    for number, request in enumerate(running):
        wait(exchange, 1, request)
        exchange.round_trip(1, bound(number, request))
        assert reserve(exchange, 1, request) is not None
        leave(exchange, request)
    for request in waiting:
        wait(exchange, 2, request)
    monkeypatch.setattr(Holding, "request", property(counted, named.__set__))
    assert exchange.meter.renew_due(3)
    assert len(exchange.renew(3).wants) == len(waiting)
    for request in waiting:
        assert reserve(exchange, 3, request) is None
    assert looks <= len(running)


def test_a_small_request_and_a_large_one_are_both_denied_and_both_wait(exchange: Exchange) -> None:
    """That more would be left to the large one than the small one needs does not make its denial worth asking again."""
    wait(exchange, 1, FIRST, 1)
    wait(exchange, 1, SECOND, 100)
    capped = msgspec.structs.replace(denied(DenyCode.CAPPED, SECOND), available=inferences(50))
    exchange.round_trip(1, denied(DenyCode.CAPPED, FIRST), capped)
    for request, units in ((FIRST, 1), (SECOND, 100)):
        with pytest.raises(LeaseCappedError):
            reserve(exchange, 2, request, units)
    assert not exchange.meter.renew_due(2)


def test_requests_beyond_a_thousand_have_their_turn(exchange: Exchange) -> None:
    """Those that one renewal asked for stand behind those for which it had no room."""
    requests = [digest_of(b"%d" % number) for number in range(MAX_WANTS_PER_RENEWAL + 5)]
    for request in requests:
        wait(exchange, 1, request)
    asked = {want.request for now_ms in (2, 3) for want in exchange.round_trip(now_ms).wants}
    assert asked == set(requests)
