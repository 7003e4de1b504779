"""A host's clock that leaps is not written into the ledger, whose time never goes back.

Time that passes and time that the clock shows are two numbers in a test's hand here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.custodian.conftest import CONSUMER, YEAR_MS, Bench, Enclave, make_bench, want
from tests.postgres_server import PostgresServer

from aigovtool.custodian import timekeeping
from aigovtool.custodian.app import add_operator, open_custodian
from aigovtool.custodian.clock import MAX_AHEAD_MS, MAX_OFF_MS, HostClock, system_time_ms
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.store import facts
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.time_order import accept_time, look_at_time
from aigovtool.custodian.timekeeping import ledger_clock
from aigovtool.errors import AIGovToolError, ClockLeaptError, ConflictError
from aigovtool.ids import ConsumerId
from aigovtool.ledger import entry
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.protocol import commands as acts
from aigovtool.protocol.messages import Deny, DenyCode, Grant

DAY_MS = 86_400_000
START_MS = 1_800_000_000_000
CONSUMER_2 = ConsumerId("ward8")
STOP = acts.Stop(target=StopTarget.CONSUMER, value=CONSUMER, reason="drill")


@dataclass
class Hands:
    """A wall clock and time that passes."""

    wall_ms: int = START_MS
    passed_ms: int = 0
    clock: HostClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = HostClock(lambda: self.wall_ms, lambda: self.passed_ms)

    def go(self, wall_ms: int, passed_ms: int | None = None) -> None:
        """Let the wall clock show so much more, and let as much time pass unless another number is said."""
        self.wall_ms += wall_ms
        self.passed_ms += wall_ms if passed_ms is None else passed_ms


@pytest.fixture
def hands() -> Hands:
    """A clock that agrees with a ledger that was written a moment ago."""
    made = Hands()
    made.clock.begin(START_MS)
    assert made.clock.read(START_MS) == START_MS
    return made


# --- What is believed -------------------------------------------------------------------------------------------


def test_time_that_has_passed_is_believed(hands: Hands) -> None:
    """However much it is, between two readings: a machine may have slept."""
    hands.go(400 * DAY_MS)
    assert hands.clock.read(START_MS) == START_MS + 400 * DAY_MS
    assert hands.clock.leapt_ms == 0


@pytest.mark.parametrize(("step_ms", "believed"), [(MAX_AHEAD_MS, True), (MAX_AHEAD_MS + 1, False)])
def test_a_step_ahead_is_believed_up_to_five_minutes(step_ms: int, believed: bool, hands: Hands) -> None:  # noqa: FBT001
    """What is not believed moves nothing: time goes on by what has passed, until the clock is right again."""
    hands.go(step_ms, passed_ms=0)
    assert hands.clock.read(START_MS) == START_MS + (step_ms if believed else 0)
    assert hands.clock.leapt_ms == (0 if believed else step_ms)
    hands.go(1_000)
    assert hands.clock.read(START_MS) == START_MS + 1_000 + (step_ms if believed else 0)
    hands.go(-step_ms, passed_ms=0)
    hands.clock.read(START_MS)
    assert (hands.clock.leapt_ms, hands.clock.behind_ms) == (0, 0)


def test_many_small_steps_are_a_leap_too(hands: Hands) -> None:
    """Five minutes in all, and as much again in a day: not more with each reading."""
    told_ms = 0
    for _ in range(10):
        hands.go(MAX_AHEAD_MS // 2, passed_ms=0)
        told_ms = hands.clock.read(START_MS)
    assert told_ms == START_MS + MAX_AHEAD_MS
    assert hands.clock.leapt_ms == 4 * MAX_AHEAD_MS
    hands.wall_ms = told_ms + MAX_AHEAD_MS // 2
    for _ in range(DAY_MS // 100_000 // 2 - 1):  # by readings that are near each other
        hands.go(100_000)
        hands.clock.read(START_MS)
    assert hands.clock.leapt_ms
    hands.go(200_000)
    hands.clock.read(START_MS)
    assert hands.clock.leapt_ms == 0


def test_a_clock_that_is_put_back_stops_no_time(hands: Hands) -> None:
    """A correction is waited for; from five minutes on the ledger's time goes on by what passes."""
    hands.go(-MAX_AHEAD_MS, passed_ms=0)
    assert hands.clock.read(START_MS) == START_MS
    assert hands.clock.behind_ms == 0
    hands.go(-10 * YEAR_MS, passed_ms=1_000)
    assert hands.clock.read(START_MS) == START_MS + 1_000
    assert hands.clock.behind_ms == 10 * YEAR_MS + MAX_AHEAD_MS + 1_000
    hands.go(10 * YEAR_MS + MAX_AHEAD_MS + DAY_MS, passed_ms=DAY_MS)
    assert hands.clock.read(START_MS + 1_000) == START_MS + DAY_MS
    assert (hands.clock.leapt_ms, hands.clock.behind_ms) == (0, 0)


def test_time_that_others_wrote_into_the_ledger_is_believed(hands: Hands) -> None:
    """This machine was held for a day, the other custodians were not; or a person has confirmed the time."""
    hands.go(DAY_MS, passed_ms=0)
    assert hands.clock.read(START_MS) == START_MS
    assert hands.clock.leapt_ms == DAY_MS
    assert hands.clock.read(START_MS + DAY_MS) == START_MS + DAY_MS
    assert hands.clock.leapt_ms == 0


@pytest.mark.parametrize(
    ("off_ms", "other_ms", "believed"),
    [
        (MAX_OFF_MS, None, True),
        (MAX_OFF_MS + 1, None, False),
        (DAY_MS, DAY_MS, True),
        (DAY_MS, DAY_MS - MAX_AHEAD_MS - 1, False),
        (DAY_MS, 0, False),
        (MAX_AHEAD_MS, -DAY_MS, True),  # the database's clock is wrong, and this one is where the ledger is
        (MAX_OFF_MS + 1, MAX_OFF_MS + 1, False),  # both are
    ],
)
def test_what_a_custodian_believes_when_it_begins(off_ms: int, other_ms: int | None, believed: bool) -> None:  # noqa: FBT001
    """It may have been off for sixty days; a database that has a clock knows better."""
    hands = Hands(wall_ms=START_MS + off_ms)
    hands.clock.begin(START_MS, None if other_ms is None else START_MS + other_ms)
    assert hands.clock.has_met is believed
    assert hands.clock.read(START_MS) == START_MS + (off_ms if believed else 0)
    assert bool(hands.clock.leapt_ms) is not believed


def test_a_host_may_learn_the_time_after_it_began() -> None:
    """Without a battery it begins years ago; then it may be as far ahead of the ledger as if it began then."""
    hands = Hands(wall_ms=0)
    hands.clock.begin(START_MS)
    assert hands.clock.read(START_MS) == START_MS
    assert hands.clock.behind_ms == START_MS
    hands.wall_ms, hands.passed_ms = START_MS + DAY_MS, 1_000
    hands.clock.begin(START_MS)
    assert hands.clock.read(START_MS) == START_MS + DAY_MS
    assert (hands.clock.leapt_ms, hands.clock.behind_ms) == (0, 0)


# --- At a custodian ---------------------------------------------------------------------------------------------


@pytest.fixture
def held(lent: Bench) -> Hands:
    """The custodian that lends, with its two clocks in the test's hands."""
    hands = Hands(wall_ms=lent.now_ms)
    lent.custodian.clock = hands.clock
    return hands


async def refused(act: Callable[[], Awaitable[object]]) -> str:
    with pytest.raises(AIGovToolError) as caught:
        await act()
    return caught.value.code


async def test_a_leap_grants_nothing_and_ends_nothing(held: Hands, lent: Bench) -> None:
    """No unit, boot, key or order by such a time; a stop, a revocation and reports as ever. Then all is as before."""
    enclave = Enclave(lent)
    await enclave.boot()
    await lent.grant(100)
    late = Enclave(lent)
    request = late.sealed(late.request(late.claims(await late.challenge())))
    held.go(10 * YEAR_MS, passed_ms=1_000)
    lent.now_ms += 1_000  # of the operator, whose own clock is true
    (denied,) = (await enclave.renew(want(5))).results
    assert isinstance(denied, Deny)
    assert denied.code is DenyCode.RESERVED
    for act in (late.challenge, lambda: late.admit(request), enclave.release, lambda: lent.grant(1)):
        assert await refused(act) == "clock_leapt"
    lines = [type(body) for body in await lent.log()]
    assert not {entry.LeaseGranted, entry.KeyReleased} & set(lines)
    await lent.command(STOP)
    with pytest.raises(ClockLeaptError):
        await lent.command(acts.Resume(target=StopTarget.CONSUMER, value=CONSUMER, reason="drill over"))
    await lent.command(acts.RevokeParty(role=PartyRole.CONSUMER, name=CONSUMER))
    assert (await ledger_clock(lent.custodian))() < lent.now_ms + MAX_AHEAD_MS
    held.go(-10 * YEAR_MS, passed_ms=0)
    await lent.add_consumer(CONSUMER_2, enclave.borrower)
    (grant,) = (await enclave.renew(want(5, consumer=CONSUMER_2))).results
    assert isinstance(grant, Grant)
    await enclave.release()


async def test_a_clock_that_is_put_back_grants_as_before(held: Hands, lent: Bench) -> None:
    """And what was lent still runs out: time goes on by what passes."""
    enclave = Enclave(lent)
    await enclave.boot()
    await lent.grant(100)
    held.go(-10 * YEAR_MS, passed_ms=1_000)
    (grant,) = (await enclave.renew(want(5))).results
    assert isinstance(grant, Grant)
    until_ms = (await enclave.record()).valid_until_ms
    held.go(0, passed_ms=until_ms - lent.now_ms)
    (denied,) = (await enclave.renew(want(5))).results
    assert isinstance(denied, Deny)
    assert denied.code is DenyCode.REATTEST


async def test_one_replica_with_a_wrong_clock_carries_nobody_away(bench: Bench, ledger: str | None) -> None:
    """One that begins an hour ahead of the database and of the ledger is alone with it. On SQLite it was off."""
    second = open_custodian(bench.directory) if ledger else bench.custodian
    try:
        before_ms = await bench.custodian.database.run(bench.custodian.now)
        hands = Hands(wall_ms=system_time_ms() + 3_600_000)
        second.clock = hands.clock
        after_ms = await second.database.run(second.now)
        assert bool(second.clock.leapt_ms) is bool(ledger)
        assert (after_ms - before_ms < MAX_AHEAD_MS) is bool(ledger)
        assert await bench.custodian.database.run(stored_ms) == after_ms
    finally:
        if ledger:
            second.database.close()


async def test_a_replica_whose_clock_leaps_while_it_runs_is_alone_with_it(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """It grants nothing; the other goes on by true time, and what that writes is believed there too."""
    bench = make_bench(tmp_path / "custodian", ledger=postgres_server.database())
    second = open_custodian(bench.directory)
    try:
        hands = Hands(wall_ms=bench.now_ms)
        second.clock = hands.clock
        assert await second.database.run(second.require_clock) == bench.now_ms
        hands.go(3_600_000, passed_ms=1_000)
        with pytest.raises(ClockLeaptError):
            await second.database.run(second.require_clock)
        bench.now_ms += 2_000
        assert await bench.custodian.database.run(bench.custodian.require_clock) == bench.now_ms
        bench.now_ms += 3_600_000  # that was the truth, and this machine the one that was held
        assert await bench.custodian.database.run(bench.custodian.require_clock) == bench.now_ms
        assert await second.database.run(second.require_clock) == bench.now_ms
    finally:
        second.database.close()
        bench.custodian.database.close()


def stored_ms(transaction: Transaction) -> int:
    return transaction.head.clock_ms


# --- A person decides -------------------------------------------------------------------------------------------


def open_anew(directory: Path, hands: Hands) -> Custodian:
    custodian = open_custodian(directory)
    custodian.clock = hands.clock
    return custodian


async def test_whoever_holds_the_directory_confirms_a_leap(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing in the directory is done by such a time before; then the ledger's time is that, and the log says who."""
    before_ms = await bench.custodian.database.run(bench.custodian.now)
    bench.custodian.database.close()
    leapt_ms = system_time_ms() + MAX_OFF_MS + DAY_MS
    monkeypatch.setattr(timekeeping, "system_time_ms", lambda: leapt_ms)
    monkeypatch.setattr(timekeeping, "HostClock", lambda: HostClock(lambda: leapt_ms, lambda: 0))
    with pytest.raises(ClockLeaptError):
        await asyncio.to_thread(add_operator, bench.directory, "bob", tmp_path / "bob.json")
    assert look_at_time(bench.directory).before_ms == before_ms
    made = await asyncio.to_thread(accept_time, bench.directory)
    assert (made.before_ms, made.accepted_ms) == (before_ms, leapt_ms)
    with pytest.raises(ConflictError) as caught:
        await asyncio.to_thread(accept_time, bench.directory)
    assert caught.value.reason == "clock_not_ahead"
    bench.custodian = open_anew(bench.directory, Hands(wall_ms=leapt_ms))
    assert (await bench.log())[-1] == entry.ClockAccepted(before_ms=before_ms)
    assert await bench.custodian.database.run(bench.custodian.now) == leapt_ms
    assert bench.custodian.clock.leapt_ms == 0


def test_the_servers_log_says_what_is_wrong(hands: Hands, caplog: pytest.LogCaptureFixture) -> None:
    """Once at the beginning, again after five minutes, and when it is over."""
    teller = timekeeping.ClockTeller(hands.clock)
    teller.look()
    hands.go(10 * YEAR_MS, passed_ms=0)
    hands.clock.read(START_MS)
    for _ in range(61):
        teller.look()
    hands.go(-10 * YEAR_MS, passed_ms=0)
    hands.clock.read(START_MS)
    teller.look()
    hands.go(-YEAR_MS, passed_ms=0)
    hands.clock.read(START_MS)
    teller.look()
    told = [record.message for record in caplog.records]
    assert told == ["clock_leapt", "clock_leapt", "clock_believed_again", "clock_put_back"]
    assert vars(caplog.records[0])["ahead_s"] == 10 * YEAR_MS // 1000


async def test_the_databases_clock_is_asked_where_there_is_one(bench: Bench, ledger: str | None) -> None:
    """It is that of the server."""
    told_ms = await bench.custodian.database.run(facts.server_time_ms)
    assert (told_ms is not None) is bool(ledger)
    if told_ms is not None:
        assert abs(told_ms - system_time_ms()) < MAX_AHEAD_MS
