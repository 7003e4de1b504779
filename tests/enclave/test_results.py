"""Kept answers: a retry is answered alike and never charged twice."""

import asyncio

import pytest

from aigovtool.enclave.results import Answered, Results
from aigovtool.errors import ConflictError, DeadlineError, OverloadedError
from aigovtool.ids import ConsumerId, RequestKey, digest_of
from aigovtool.limits import MAX_RETAINED_RESULT_BYTES, RESULT_RETENTION_MS

ANN, BEN = ConsumerId("ann"), ConsumerId("ben")
KEY, OTHER_KEY = RequestKey("k1"), RequestKey("k2")
BODY, OTHER_BODY = digest_of(b"body"), digest_of(b"other body")
ANSWER = Answered(b"answer", (("aigovtool-request-id", "k1"),))
LARGE = Answered(bytes(MAX_RETAINED_RESULT_BYTES // 2), ())


@pytest.fixture
def results() -> Results:
    return Results()


def keep(results: Results, key: RequestKey, answer: Answered = ANSWER, at_ms: int = 0) -> None:
    _ = results.begin(ANN, key, BODY)
    results.finish(ANN, key, answer, at_ms)


async def test_a_new_request_is_not_found(results: Results) -> None:
    """Nothing is known of a key before its first run."""
    assert results.find(ANN, KEY, BODY, 0) is None


async def test_a_finished_run_is_answered_alike(results: Results) -> None:
    """Body and headers, again and again."""
    keep(results, KEY)
    for _ in range(3):
        found = results.find(ANN, KEY, BODY, 1)
        assert found is not None
        assert await found == ANSWER


async def test_a_run_under_way_is_joined(results: Results) -> None:
    """Two equal requests at the same time are one run; both get its answer."""
    first = results.begin(ANN, KEY, BODY)
    joined = results.find(ANN, KEY, BODY, 0)
    assert joined is first
    results.finish(ANN, KEY, ANSWER, 0)
    assert list(await asyncio.gather(first, joined)) == [ANSWER, ANSWER]


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
    assert joined is not None
    results.forget(ANN, KEY, DeadlineError("too late"))
    with pytest.raises(DeadlineError):
        await joined
    assert results.find(ANN, KEY, OTHER_BODY, 0) is None
    keep(results, KEY)


async def test_an_error_that_nobody_waits_for_is_not_reported_as_lost(results: Results) -> None:
    """Asyncio complains of errors that are never looked at; here nobody need look."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    _ = results.begin(ANN, KEY, BODY)
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


async def test_an_answer_dropped_for_space_is_refused_and_not_run_again(results: Results) -> None:
    """It was charged: running it again would charge it twice. The newest answers stay."""
    for name in ("a", "b", "c"):
        keep(results, RequestKey(name), LARGE)
    with pytest.raises(ConflictError) as caught:
        _ = results.find(ANN, RequestKey("a"), BODY, 0)
    assert caught.value.reason == "result_evicted"
    for name in ("b", "c"):
        found = results.find(ANN, RequestKey(name), BODY, 0)
        assert found is not None
        assert found.done()


async def test_space_is_counted_per_consumer_and_given_back(results: Results) -> None:
    """One consumer's large answers do not push out another's, and expired ones make room."""
    _ = results.begin(BEN, KEY, BODY)
    results.finish(BEN, KEY, LARGE, 0)
    for name in ("a", "b", "c"):
        keep(results, RequestKey(name), LARGE)
    assert results.find(BEN, KEY, BODY, 0) is not None
    assert results.find(ANN, OTHER_KEY, BODY, RESULT_RETENTION_MS) is None  # expires all of ann's
    assert results._bytes[ANN] == 0
    for name in ("d", "e"):
        keep(results, RequestKey(name), LARGE, RESULT_RETENTION_MS)
    assert results.find(ANN, RequestKey("d"), BODY, RESULT_RETENTION_MS) is not None


async def test_keys_are_bounded(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that never repeats itself cannot fill the memory with keys."""
    monkeypatch.setattr("aigovtool.enclave.results._MAX_KEYS", 3)
    for name in ("a", "b", "c"):
        keep(results, RequestKey(name))
    with pytest.raises(OverloadedError) as caught:
        _ = results.begin(ANN, RequestKey("d"), BODY)
    assert caught.value.retry_after_s
    _ = results.begin(BEN, RequestKey("d"), BODY)


async def test_a_wipe_drops_everything_and_lets_nobody_wait(results: Results) -> None:
    """No answer survives, whoever had joined is told, and a run that ends afterwards leaves nothing."""
    keep(results, KEY)
    waiting = results.begin(ANN, OTHER_KEY, BODY)
    results.clear()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    results.finish(ANN, OTHER_KEY, ANSWER, 0)
    results.forget(ANN, OTHER_KEY, DeadlineError("too late"))
    assert results.find(ANN, KEY, BODY, 0) is None
    assert results.find(ANN, OTHER_KEY, BODY, 0) is None
