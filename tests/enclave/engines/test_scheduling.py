"""Whose turn it is, by a clock of the test's own."""

import asyncio
from dataclasses import dataclass, field
from random import Random

import pytest

from aigovtool.enclave.engines.lanes import BEYOND, MIDDLE_MS, SHORT_MS, Lane, is_short, threads
from aigovtool.enclave.engines.pending import MAX_HABITS, Habits
from aigovtool.enclave.engines.scheduling import EACH_AHEAD, LEAST_AHEAD, MAX_PAST, MOST_AHEAD, Scheduler, Turn
from aigovtool.errors import DeadlineError
from aigovtool.ids import ConsumerId

ANN, BEN, CLEO = ConsumerId("ann"), ConsumerId("ben"), ConsumerId("cleo")
LONGER = (Lane.MIDDLE, Lane.LONG)


@dataclass
class Clock:
    """Time that passes when the test says so."""

    ms: int = 0

    def __call__(self) -> int:
        return self.ms * 1_000_000


@dataclass
class Hall:
    """A scheduler, and who was let in, in that order."""

    workers: int = 2
    clock: Clock = field(default_factory=Clock)
    let_in: list[Turn] = field(default_factory=list)
    waiting: "set[asyncio.Task[None]]" = field(default_factory=set)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.workers, self.clock)

    async def come(self, consumer: ConsumerId, lane: Lane, times: int = 1) -> None:
        for _ in range(times):
            task = asyncio.create_task(self._enter(consumer, lane))
            self.waiting.add(task)
            task.add_done_callback(self.waiting.discard)
            await asyncio.sleep(0)

    async def _enter(self, consumer: ConsumerId, lane: Lane) -> None:
        turn = self.scheduler.at_once(consumer, lane) or await self.scheduler.enter(consumer, lane, 3600)
        self.let_in.append(turn)

    async def end(self, turn: Turn, compute_us: int | None = None) -> None:
        self.let_in.remove(turn)
        self.scheduler.leave(turn, compute_us)
        for _ in range(3):
            await asyncio.sleep(0)

    def names(self, lane: Lane) -> list[ConsumerId]:
        return [turn.consumer for turn in self.let_in if turn.lane is lane]

    async def close(self) -> None:
        for task in list(self.waiting):
            task.cancel()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        while self.let_in:
            await self.end(self.let_in[0])


def known(hall: Hall) -> int:
    """Return of how many consumers, in all lanes, something is known."""
    return sum(len(queue._accounts) + len(queue._past) + len(queue._heap) for queue in hall.scheduler._queues)


@pytest.mark.parametrize("lane", LONGER)
async def test_one_consumer_alone_has_every_worker(lane: Lane) -> None:
    """Nobody waits, so nothing is kept free."""
    hall = Hall(workers=4)
    await hall.come(ANN, lane, times=6)
    assert hall.names(lane) == [ANN] * (5 if lane is Lane.MIDDLE else 4)  # of the middle one more, ahead
    await hall.close()


async def test_who_is_not_alone_has_nothing_ahead() -> None:
    """A run ahead would be one more before whoever waits; a run of the last lane counts as somebody, too."""
    hall = Hall(workers=2)
    await hall.come(BEN, Lane.LONG)
    await hall.come(ANN, Lane.MIDDLE, times=4)
    assert hall.names(Lane.MIDDLE) == [ANN]
    await hall.close()
    hall = Hall(workers=2)
    await hall.come(ANN, Lane.MIDDLE)
    await hall.come(BEN, Lane.MIDDLE)
    await hall.come(ANN, Lane.MIDDLE, times=4)
    assert hall.names(Lane.MIDDLE) == [ANN, BEN]
    await hall.close()


async def test_a_lane_without_a_run_at_work_has_room_for_one() -> None:
    """However many longer ones, of however many consumers, are at work."""
    hall = Hall(workers=2)
    await hall.come(ANN, Lane.LONG, times=8)
    await hall.come(CLEO, Lane.LONG, times=8)
    await hall.come(BEN, Lane.MIDDLE)
    await hall.come(BEN, Lane.SHORT)
    assert hall.names(Lane.LONG) == [ANN, ANN, CLEO]
    assert (hall.names(Lane.MIDDLE), hall.names(Lane.SHORT)) == ([BEN], [BEN])
    await hall.close()


async def test_long_runs_of_one_consumer_let_another_in_beside_them() -> None:
    """Also one who has used more than whoever else waits: that is Ann, who would keep him out with her next one."""
    hall = Hall(workers=2)
    await hall.come(BEN, Lane.LONG)
    hall.clock.ms += 50_000
    await hall.come(ANN, Lane.LONG, times=4)
    await hall.end(hall.let_in[0])
    await hall.come(BEN, Lane.LONG)
    assert hall.names(Lane.LONG) == [ANN, ANN, BEN]
    await hall.close()


async def test_turns_are_by_engine_time_and_not_by_number() -> None:
    """Ann's runs take four times as long as Ben's: he has four for each of hers."""
    hall, had = Hall(workers=1), {ANN: 0, BEN: 0}
    for consumer in had:
        await hall.come(consumer, Lane.MIDDLE, times=300)
    for _ in range(200):
        turn = hall.let_in[0]
        hall.clock.ms += 400 if turn.consumer == ANN else 100
        had[turn.consumer] += 1
        await hall.end(turn)
    assert 3 * had[ANN] <= had[BEN] <= 5 * had[ANN]
    await hall.close()


async def test_a_newcomer_is_next_and_has_no_more_than_its_share_then() -> None:
    """Ann was alone for an hour. She is not held back for it, and Ben owes nothing for others' past."""
    hall = Hall(workers=1)
    await hall.come(ANN, Lane.MIDDLE, times=400)
    for _ in range(200):
        hall.clock.ms += 18_000
        await hall.end(hall.let_in[0])
    await hall.come(BEN, Lane.MIDDLE, times=100)
    had = []
    for _ in range(21):
        had.append(hall.let_in[0].consumer)
        hall.clock.ms += 100
        await hall.end(hall.let_in[0])
    assert BEN in had[1:3]  # after what is at work: one, and the one ahead of whoever was alone
    assert 9 <= had.count(BEN) <= 12
    await hall.close()


async def test_time_not_used_is_not_saved_up() -> None:
    """Ben comes back after an hour in which Ann was served: he has his half from then on, not the hour."""
    hall = Hall(workers=1)
    await hall.come(ANN, Lane.MIDDLE, times=100)
    await hall.come(BEN, Lane.MIDDLE)
    for _ in range(40):
        hall.clock.ms += 90_000
        await hall.end(hall.let_in[0])
    await hall.come(BEN, Lane.MIDDLE, times=40)
    had = []
    for _ in range(21):
        had.append(hall.let_in[0].consumer)
        hall.clock.ms += 100
        await hall.end(hall.let_in[0])
    assert 9 <= had.count(BEN) <= 12
    await hall.close()


async def test_time_not_used_is_not_saved_up_by_whoever_always_has_a_little_there() -> None:
    """Ben was never away: he had one at a time. That is no claim on what others used meanwhile."""
    hall = Hall(workers=1)
    await hall.come(BEN, Lane.SHORT)
    await hall.come(ANN, Lane.SHORT, times=600)
    for _ in range(200):
        hers = next(turn for turn in hall.let_in if turn.consumer == ANN)
        await hall.end(hers, 9_000)
    await hall.come(BEN, Lane.SHORT, times=200)
    had = {ANN: 0, BEN: 0}
    for _ in range(150):
        had[hall.let_in[0].consumer] += 1
        hall.scheduler._ahead = LEAST_AHEAD  # or both had as many as each may have
        await hall.end(hall.let_in[0], 9_000)
    assert min(had.values()) >= 50
    await hall.close()


async def test_what_a_run_has_taken_so_far_counts() -> None:
    """Ann's has gone on for a while and is not over: Ben, who came after her next one, is before it."""
    hall = Hall(workers=2)
    await hall.come(CLEO, Lane.MIDDLE)
    await hall.come(ANN, Lane.MIDDLE)
    await hall.come(ANN, Lane.MIDDLE)
    await hall.come(BEN, Lane.MIDDLE)
    hall.clock.ms += 900
    await hall.end(hall.let_in[0])
    assert hall.names(Lane.MIDDLE) == [ANN, BEN]
    await hall.close()


@pytest.mark.parametrize("lane", LONGER)
async def test_a_turn_that_comes_in_the_moment_in_which_one_gives_up_is_passed_on(lane: Lane) -> None:
    """It is neither lost nor given twice."""
    hall = Hall(workers=1)
    await hall.come(ANN, lane)
    if lane is Lane.LONG:
        await hall.come(CLEO, lane)  # the one who is let in beside Ann
    (first, *_) = hall.let_in
    await hall.come(BEN, lane)
    (gives_up,) = hall.waiting
    await hall.come(ANN, lane)
    hall.let_in.remove(first)
    hall.scheduler.leave(first)
    gives_up.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert gives_up.cancelled()
    assert hall.names(lane) == ([ANN] if lane is Lane.MIDDLE else [CLEO, ANN])
    await hall.close()
    assert known(hall) == 0


async def test_who_leaves_and_comes_again_is_still_behind() -> None:
    """Ann keeps one request at a time and Ben one that waits: her hour is not forgotten between two of them."""
    hall = Hall(workers=1)
    await hall.come(ANN, Lane.MIDDLE)
    await hall.come(CLEO, Lane.MIDDLE, times=30)
    hall.clock.ms += 1_000
    await hall.end(hall.let_in[0])
    await hall.come(ANN, Lane.MIDDLE)
    had = []
    for _ in range(4):
        had.append(hall.let_in[0].consumer)
        hall.clock.ms += 100
        await hall.end(hall.let_in[0])
    assert ANN not in had
    await hall.close()


async def test_both_longer_lanes_have_workers_while_both_have_some_waiting() -> None:
    """Neither a stream of middle runs nor one of long ones has more of them than the other."""
    hall, had, chance = Hall(workers=8), dict.fromkeys(LONGER, 0), Random(1)
    for lane in LONGER:
        for consumer in (ANN, BEN, CLEO):
            await hall.come(consumer, lane, times=100)
    for _ in range(200):
        hall.clock.ms += 100
        turn = chance.choice(hall.let_in)
        had[turn.lane] += 1
        await hall.end(turn)
    assert min(had.values()) >= 80
    await hall.close()


@pytest.mark.parametrize("seed", range(20))
async def test_no_more_is_at_work_than_there_are_threads_and_nothing_is_lost(seed: int) -> None:
    """Whoever comes, waits, gives up and ends, in any order."""
    chance = Random(seed)
    hall = Hall(workers=chance.choice((1, 2, 4)))
    for _ in range(600):
        hall.clock.ms += chance.randrange(50)
        if chance.random() < 0.5 or not hall.let_in:
            await hall.come(ConsumerId(f"c{chance.randrange(6)}"), chance.choice(tuple(Lane)), chance.randrange(4))
        elif chance.random() < 0.3 and hall.waiting:
            chance.choice(list(hall.waiting)).cancel()  # and in the same turn of the loop, one ends
            await hall.end(chance.choice(hall.let_in), chance.choice((None, 10)))
        else:
            await hall.end(chance.choice(hall.let_in), chance.choice((None, 10)))
        longer = len(hall.names(Lane.MIDDLE)) + len(hall.names(Lane.LONG))
        assert longer <= hall.workers + BEYOND
        assert hall.workers + longer + 1 <= threads(hall.workers)
        assert len(hall.names(Lane.SHORT)) <= MOST_AHEAD * hall.workers
    for _ in range(2_000):
        if not hall.let_in:
            break
        await hall.end(hall.let_in[0], 10)
    assert (hall.let_in, hall.waiting, known(hall)) == ([], set(), 0)


async def test_few_short_tries_are_ahead_where_they_are_not_done() -> None:
    """With those that are done the child gets more at once, with the others it soon gets no more than it needs."""
    hall = Hall(workers=2)
    scheduler = hall.scheduler
    crowd = [ConsumerId(f"c{number}") for number in range(40)]
    for consumer in crowd:
        await hall.come(consumer, Lane.SHORT, times=10)
    assert len(hall.let_in) == LEAST_AHEAD * 2
    for _ in range(200):
        await hall.end(hall.let_in[0], 10)
    assert len(hall.let_in) == MOST_AHEAD * 2
    for _ in range(MOST_AHEAD * 2):
        await hall.end(hall.let_in[0], None)
    assert len(hall.let_in) == LEAST_AHEAD * 2 == scheduler._ahead
    await hall.close()


async def test_one_consumer_has_not_all_short_places() -> None:
    """The next one of it is let in when one of its own is done, and others meanwhile."""
    hall = Hall(workers=1)
    await hall.come(ANN, Lane.SHORT, times=100)
    for number in range(1, EACH_AHEAD + 5):
        assert hall.names(Lane.SHORT) == [ANN] * min(number, EACH_AHEAD)
        await hall.end(hall.let_in[0], 10)
    await hall.come(BEN, Lane.SHORT)
    assert hall.names(Lane.SHORT).count(BEN) == 1
    await hall.close()
    assert known(hall) == 0


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_after_a_short_try_that_was_not_done_a_consumer_has_one_for_each_worker(workers: int) -> None:
    """And no more before one of them is done: those at work may be as long, and must not hold all threads."""
    hall = Hall(workers=workers)
    await hall.come(ANN, Lane.SHORT, times=200)
    for _ in range(40):
        await hall.end(hall.let_in[0], 10)
    while len(hall.let_in) > workers:
        await hall.end(hall.let_in[0], None)
    assert hall.names(Lane.SHORT) == [ANN] * workers
    await hall.end(hall.let_in[0], None)
    assert hall.names(Lane.SHORT) == [ANN] * workers
    await hall.end(hall.let_in[0], 10)
    assert hall.names(Lane.SHORT) == [ANN] * (workers + 1)
    await hall.close()
    assert known(hall) == 0


async def test_whoever_waits_too_long_or_gives_up_is_forgotten() -> None:
    """Nothing stays of them, while the lane that they waited for is still taken."""
    hall = Hall(workers=1)
    await hall.come(ANN, Lane.LONG)
    await hall.come(BEN, Lane.LONG)
    before = known(hall)
    for number in range(50):
        with pytest.raises(DeadlineError):
            await hall.scheduler.enter(ConsumerId(f"c{number}"), Lane.LONG, 0.0)
    await hall.come(CLEO, Lane.LONG, times=5)
    for task in list(hall.waiting):
        task.cancel()
    await asyncio.gather(*hall.waiting, return_exceptions=True)
    assert known(hall) == before
    await hall.close()
    assert known(hall) == 0


@pytest.mark.parametrize("lane", list(Lane))
async def test_what_is_known_is_bounded_whoever_comes(lane: Lane) -> None:
    """Thousands of consumers with one run each, while one keeps the lane from ever being empty."""
    hall = Hall(workers=2)
    await hall.come(ANN, lane)
    for number in range(3 * MAX_PAST):
        await hall.come(ConsumerId(f"c{number}"), lane)
        hall.clock.ms += 5
        await hall.end(hall.let_in[-1], 5_000)
    assert known(hall) <= MAX_PAST + 4
    await hall.close()
    assert known(hall) == 0


def test_habits_are_bounded() -> None:
    """What was learned the longest ago is forgotten first, and short runs take no room."""
    habits = Habits()
    for number in range(2 * MAX_HABITS):
        habits.learn(ConsumerId(f"c{number}"), 1, Lane.LONG)
        habits.learn(ConsumerId(f"d{number}"), 1, Lane.SHORT)
    assert len(habits) == MAX_HABITS
    assert habits.lane(ConsumerId("c0"), 1) is Lane.SHORT
    assert habits.lane(ConsumerId(f"c{2 * MAX_HABITS - 1}"), 1) is Lane.LONG


@pytest.mark.parametrize(
    ("lane", "compute_ms", "try_ms"),
    [
        (Lane.SHORT, 0, SHORT_MS),
        (Lane.SHORT, SHORT_MS - 1, SHORT_MS - 1),
        (Lane.SHORT, MIDDLE_MS, SHORT_MS),
        (Lane.MIDDLE, 0, MIDDLE_MS),
        (Lane.MIDDLE, MIDDLE_MS + 1, MIDDLE_MS),
        (Lane.LONG, 0, 0),
        (Lane.LONG, 20_000, 20_000),
    ],
)
def test_a_try_computes_for_the_less_of_its_lane_and_its_run(lane: Lane, compute_ms: int, try_ms: int) -> None:
    """No limit is zero; only tries of the first lane may be waited for by others."""
    assert lane.try_ms(compute_ms) == try_ms
    assert is_short(try_ms) is (lane is Lane.SHORT)


@pytest.mark.parametrize(
    ("lane", "compute_us", "after"),
    [
        (Lane.SHORT, 900 * SHORT_MS, Lane.SHORT),
        (Lane.MIDDLE, 900 * SHORT_MS, Lane.MIDDLE),
        (Lane.MIDDLE, 500 * SHORT_MS, Lane.SHORT),
        (Lane.LONG, 900 * MIDDLE_MS, Lane.LONG),
        (Lane.LONG, 500 * MIDDLE_MS, Lane.MIDDLE),
        (Lane.LONG, 1, Lane.SHORT),
    ],
)
def test_the_next_run_begins_where_the_last_would_have_been_done_with_room(
    lane: Lane, compute_us: int, after: Lane
) -> None:
    """Runs that take about as long as a try are not begun twice each time."""
    assert lane.after(compute_us) is after
