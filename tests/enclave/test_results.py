"""Kept answers: a retry is answered alike and never charged twice."""

import asyncio

import pytest

from aigovtool.enclave import id_table
from aigovtool.enclave.results import Answered, ResultLimits, Results, Running
from aigovtool.errors import ConflictError, DeadlineError, OverloadedError
from aigovtool.ids import ConsumerId, RequestKey, digest_of
from aigovtool.limits import RESULT_RETENTION_MS

ANN, BEN = ConsumerId("ann"), ConsumerId("ben")
KEY, OTHER_KEY = RequestKey("k1"), RequestKey("k2")
BODY, OTHER_BODY = digest_of(b"body"), digest_of(b"other body")
ANSWER = Answered(b"answer", "aigovtool-request-id: k1\r\n")
SHARE, IDS = 20_000, 10
LARGE = Answered(bytes(SHARE // 2 - 1024), "")


@pytest.fixture
def results() -> Results:
    return Results()


@pytest.fixture
def small() -> Results:
    """Room for two large answers of each consumer, and for four in all."""
    return Results(ResultLimits(bytes_per_consumer=SHARE, bytes_in_all=2 * SHARE, ids_per_consumer=IDS))


def keep(
    results: Results, key: RequestKey, answer: Answered = ANSWER, at_ms: int = 0, consumer: ConsumerId = ANN
) -> None:
    _ = results.begin(consumer, key, BODY)
    results.finish(consumer, key, answer, at_ms)


async def kept(results: Results, consumer: ConsumerId, key: str, now_ms: int = 0) -> Answered | None:
    found = results.find(consumer, RequestKey(key), BODY, now_ms)
    return await found.outcome() if isinstance(found, Running) else found


async def test_a_new_request_is_not_found(results: Results) -> None:
    """Nothing is known of a key before its first run."""
    assert results.find(ANN, KEY, BODY, 0) is None


async def test_a_finished_run_is_answered_alike(results: Results) -> None:
    """Body and headers, again and again."""
    keep(results, KEY)
    for _ in range(3):
        assert results.find(ANN, KEY, BODY, 1) == ANSWER


async def test_a_run_under_way_is_joined(results: Results) -> None:
    """Two equal requests at the same time are one run; both get its answer."""
    first = results.begin(ANN, KEY, BODY)
    joined = results.find(ANN, KEY, BODY, 0)
    assert joined is first
    waiting = [first.outcome(), joined.outcome()]
    results.finish(ANN, KEY, ANSWER, 0)
    assert list(await asyncio.gather(*waiting)) == [ANSWER, ANSWER]


@pytest.mark.parametrize("finished", [True, False])
async def test_a_key_stands_for_one_body(finished: bool, results: Results) -> None:  # noqa: FBT001
    """The same key with another body is a conflict, whether the first still runs or not."""
    _ = results.begin(ANN, KEY, BODY)
    if finished:
        results.finish(ANN, KEY, ANSWER, 0)
    with pytest.raises(ConflictError) as caught:
        _ = results.find(ANN, KEY, OTHER_BODY, 0)
    assert caught.value.reason == "request_key_reused"


async def test_consumers_do_not_share_keys(results: Results) -> None:
    """Another consumer's key is another key: no answer, and no hint that it exists."""
    keep(results, KEY)
    assert results.find(BEN, KEY, BODY, 0) is None
    assert results.find(BEN, KEY, OTHER_BODY, 0) is None


async def test_a_run_without_a_charge_leaves_no_trace(results: Results) -> None:
    """Whoever joined it gets its error; the key is free, also for another body."""
    _ = results.begin(ANN, KEY, BODY)
    joined = results.find(ANN, KEY, BODY, 0)
    assert isinstance(joined, Running)
    outcome = joined.outcome()
    results.forget(ANN, KEY, DeadlineError("too late"))
    with pytest.raises(DeadlineError):
        await outcome
    assert results.find(ANN, KEY, OTHER_BODY, 0) is None
    keep(results, KEY)


async def test_an_error_that_nobody_waits_for_is_not_reported_as_lost(results: Results) -> None:
    """Asyncio complains of errors that are never looked at; here nobody need look."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    _ = results.begin(ANN, KEY, BODY).outcome()
    results.forget(ANN, KEY, DeadlineError("too late"))
    del results
    await asyncio.sleep(0)
    assert complaints == []


@pytest.mark.parametrize(("age_ms", "kept"), [(RESULT_RETENTION_MS - 1, True), (RESULT_RETENTION_MS, False)])
async def test_an_answer_is_kept_for_ten_minutes(age_ms: int, kept: bool, results: Results) -> None:  # noqa: FBT001
    """From its end on; afterwards the key is free again."""
    keep(results, KEY, at_ms=1000)
    assert (results.find(ANN, KEY, BODY, 1000 + age_ms) is not None) is kept


async def test_a_run_under_way_does_not_expire(results: Results) -> None:
    """However long it takes: forgetting it would run and charge it twice."""
    _ = results.begin(ANN, KEY, BODY)
    assert results.find(ANN, KEY, BODY, 100 * RESULT_RETENTION_MS) is not None


async def test_an_answer_dropped_for_space_is_refused_and_not_run_again(small: Results) -> None:
    """It was charged: running it again would charge it twice. The newest answers stay."""
    for name in ("a", "b", "c"):
        keep(small, RequestKey(name), LARGE)
    for request in (BODY, OTHER_BODY):
        with pytest.raises(ConflictError) as caught:
            _ = small.find(ANN, RequestKey("a"), request, 0)
        assert caught.value.reason == "result_evicted"
    assert [await kept(small, ANN, name) for name in ("b", "c")] == [LARGE, LARGE]


async def test_what_there_is_no_memory_to_remember_is_not_forgotten(
    small: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id of an answer that should go could not be noted: the answer stays, or its id would be charged again."""

    def fails(*_: object, **__: object) -> None:
        raise OSError("no memory")

    for number in range(2):
        keep(small, RequestKey(f"k{number}"), LARGE)
    with monkeypatch.context() as patched:
        patched.setattr(id_table, "mmap", fails)
        with pytest.raises(OSError, match="no memory"):
            keep(small, RequestKey("k2"), LARGE)
    assert [small.find(ANN, RequestKey(f"k{number}"), BODY, 0) for number in range(3)] == [LARGE] * 3
    assert small._spent.of(ANN) == len(small._spent) == 0
    keep(small, RequestKey("k3"), LARGE)
    assert small._spent.of(ANN) == 2
    for number in range(4):
        assert small.knows(ANN, RequestKey(f"k{number}"))


async def test_an_answer_larger_than_its_share_reaches_whoever_waits(small: Results) -> None:
    """It is not kept, but it was computed and charged, and the run's own client gets it."""
    outcome = small.begin(ANN, KEY, BODY).outcome()
    small.finish(ANN, KEY, Answered(bytes(3 * SHARE), ""), 0)
    assert len((await outcome).body) == 3 * SHARE
    with pytest.raises(ConflictError):
        _ = small.find(ANN, KEY, BODY, 0)


async def test_space_is_counted_per_consumer_and_given_back(small: Results) -> None:
    """One consumer's large answers do not push out another's, and expired ones make room."""
    keep(small, KEY, LARGE, consumer=BEN)
    for name in ("a", "b", "c"):
        keep(small, RequestKey(name), LARGE)
    assert await kept(small, BEN, KEY) == LARGE
    small.expire(RESULT_RETENTION_MS)
    for name in ("d", "e"):
        keep(small, RequestKey(name), LARGE, RESULT_RETENTION_MS)
    assert await kept(small, ANN, "d", RESULT_RETENTION_MS) == LARGE


async def test_space_in_all_is_bounded(small: Results) -> None:
    """Many consumers, each within its share: the oldest answer of all goes first."""
    names = [ConsumerId(f"c{number}") for number in range(5)]
    for at_ms, name in enumerate(names):
        keep(small, KEY, LARGE, at_ms, consumer=name)
    with pytest.raises(ConflictError):
        _ = small.find(names[0], KEY, BODY, 5)
    assert [await kept(small, name, KEY, 5) for name in names[1:]] == [LARGE] * 4
    assert small._size <= 4 * SHARE // 2


async def test_headers_take_space_as_well(small: Results) -> None:
    """A receipt is larger than most answers: not only bodies are counted."""
    for number in range(IDS):
        keep(small, RequestKey(f"k{number}"), Answered(b"", "r" * 2000))
    assert len(small) == SHARE // (2000 + 1024)


async def test_answers_expire_whoever_comes(small: Results) -> None:
    """Anybody's request, or the heartbeat, takes away what is over: also of consumers that never come back."""
    keep(small, KEY, at_ms=1000)
    keep(small, OTHER_KEY, at_ms=2000)
    keep(small, KEY, consumer=BEN, at_ms=3000)
    small.expire(2000 + RESULT_RETENTION_MS)
    assert list(small._accounts) == [BEN]
    small.expire(3000 + RESULT_RETENTION_MS)
    assert (len(small), small._accounts, small._size) == (0, {}, 0)


async def test_expiry_is_no_pause(results: Results) -> None:
    """However many answers end at once, one request takes away a few; an expired one is not answered all the same."""
    for number in range(1000):
        keep(results, RequestKey(f"k{number}"))
    results.expire(RESULT_RETENTION_MS)
    assert results.find(ANN, RequestKey("k999"), BODY, RESULT_RETENTION_MS) is None
    assert 900 < len(results) < 1000


async def test_ids_are_bounded_per_consumer(small: Results) -> None:
    """Running, kept and dropped ones count: a consumer that never repeats itself cannot fill the memory with ids."""
    for name in ("a", "b", "c"):
        keep(small, RequestKey(name), LARGE)
    for number in range(IDS - 4):
        keep(small, RequestKey(f"k{number}"), Answered(b"", ""))
    _ = small.begin(ANN, KEY, BODY)
    with pytest.raises(OverloadedError) as caught:
        _ = small.begin(ANN, OTHER_KEY, BODY)
    assert (caught.value.reason, caught.value.retry_after_s) == ("request_keys", 60)
    keep(small, KEY, consumer=BEN)
    small.forget(ANN, KEY, DeadlineError("too late"))
    keep(small, OTHER_KEY)


async def test_ids_in_all_are_bounded() -> None:
    """Also when each consumer stays within its share; ten minutes later there is room again."""
    results = Results(ResultLimits(ids_in_all=3, ids_of_anybody=0))
    for name in ("a", "b", "c"):
        keep(results, KEY, consumer=ConsumerId(name))
    with pytest.raises(OverloadedError):
        _ = results.begin(ANN, KEY, BODY)
    results.expire(RESULT_RETENTION_MS)
    keep(results, KEY)


async def test_who_has_few_ids_is_served_when_others_have_used_up_all() -> None:
    """Attack: two consumers that pay for hundreds of thousands of requests, so that no third one is answered."""
    results = Results(ResultLimits(ids_in_all=3, ids_of_anybody=2))
    for name in ("a", "b", "c"):
        keep(results, RequestKey(name), consumer=BEN)
    for name in ("a", "b"):
        keep(results, RequestKey(name))
    for consumer in (ANN, BEN):
        with pytest.raises(OverloadedError):
            _ = results.begin(consumer, RequestKey("d"), BODY)


async def test_a_consumer_that_went_away_takes_no_memory(small: Results) -> None:
    """After ten minutes nothing of it is left, not even the ids of dropped answers a little later."""
    for name in ("a", "b", "c"):
        keep(small, RequestKey(name), LARGE)
    small.expire(RESULT_RETENTION_MS + 60_000)
    assert (len(small), small._accounts, len(small._spent), small._spent.of(ANN)) == (0, {}, 0, 0)
    assert small.find(ANN, RequestKey("a"), BODY, RESULT_RETENTION_MS + 60_000) is None


async def test_a_wipe_drops_everything_and_lets_nobody_wait(results: Results) -> None:
    """No answer survives, whoever had joined is told, and a run that ends afterwards leaves nothing."""
    keep(results, KEY)
    waiting = results.begin(ANN, OTHER_KEY, BODY).outcome()
    results.clear()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    results.finish(ANN, OTHER_KEY, ANSWER, 0)
    results.forget(ANN, OTHER_KEY, DeadlineError("too late"))
    assert results.find(ANN, KEY, BODY, 0) is None
    assert results.find(ANN, OTHER_KEY, BODY, 0) is None


async def test_an_id_is_known_while_anything_of_its_request_is(small: Results) -> None:
    """Under way, answered, and dropped for space; not before, not after a run without a charge, and of nobody else."""
    assert not small.knows(ANN, KEY)
    _ = small.begin(ANN, KEY, BODY)
    assert [small.knows(ANN, KEY), small.knows(BEN, KEY), small.knows(ANN, OTHER_KEY)] == [True, False, False]
    small.forget(ANN, KEY, DeadlineError("too late"))
    assert not small.knows(ANN, KEY)
    for name in ("a", "b", "c"):
        keep(small, RequestKey(name), LARGE)
    assert len(small) == 2
    assert [small.knows(ANN, RequestKey(name)) for name in ("a", "b", "c", "d")] == [True, True, True, False]
    assert not any(small.knows(BEN, RequestKey(name)) for name in ("a", "b", "c"))
    small.expire(RESULT_RETENTION_MS)
    assert [small.knows(ANN, RequestKey(name)) for name in ("a", "b", "c")] == [True, False, False]
    small.expire(RESULT_RETENTION_MS + 60_000)
    assert not any(small.knows(ANN, RequestKey(name)) for name in ("a", "b", "c"))


async def test_asking_whether_an_id_is_known_changes_nothing(results: Results) -> None:
    """Also where its answer is over and was not taken away yet: then it is still known, and found to be over."""
    keep(results, KEY)
    for _ in range(2):
        assert results.knows(ANN, KEY)
        assert len(results) == 1
    assert results.find(ANN, KEY, BODY, RESULT_RETENTION_MS) is None
    assert not results.knows(ANN, KEY)
