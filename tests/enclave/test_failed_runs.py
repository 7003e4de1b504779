"""How many runs may fail by what one consumer asks: which count, when more are allowed, and what is remembered."""

import pytest

from aigovtool.enclave.failed_runs import FailedRuns
from aigovtool.errors import AIGovToolError, DeadlineError, EngineError, InvalidValueError, OverloadedError
from aigovtool.ids import ConsumerId, ModelId
from aigovtool.limits import FAILED_RUN_MS, MAX_FAILED_RUNS

ANN, BEN, CAT = (ConsumerId(name) for name in ("ann", "ben", "cat"))
XRAY, SORTER = ModelId("xray"), ModelId("sorter")
TELLING = EngineError("no", reason="run_failed")
NOW_MS = 5_000


def failed(runs: FailedRuns, times: int, *, consumer: ConsumerId = ANN, now_ms: int = NOW_MS) -> None:
    for _ in range(times):
        runs.require_few(consumer, XRAY, now_ms)
        runs.note(consumer, XRAY, TELLING, now_ms)


def wait_s(runs: FailedRuns, now_ms: int, *, consumer: ConsumerId = ANN, model: ModelId = XRAY) -> float | None:
    """Return after how many seconds one more request is taken; nothing if it is taken now."""
    try:
        runs.require_few(consumer, model, now_ms)
    except OverloadedError as error:
        assert error.reason == "too_many_failed"
        return error.retry_after_s
    return None


def test_so_many_at_once_and_then_one_a_second() -> None:
    """However long it was quiet before: the next one is refused, and taken when the time that it was told is over."""
    runs = FailedRuns()
    for now_ms in (NOW_MS, NOW_MS + 10**9):
        failed(runs, MAX_FAILED_RUNS, now_ms=now_ms)
        for later_ms in (0, FAILED_RUN_MS - 1):
            assert wait_s(runs, now_ms + later_ms) == 1
        for second in range(1, 5):
            failed(runs, 1, now_ms=now_ms + second * FAILED_RUN_MS)
            assert wait_s(runs, now_ms + second * FAILED_RUN_MS) == 1


def test_what_was_under_way_is_counted_too() -> None:
    """Of many requests at once all that fail are made up for, also those that were let in before the first failed."""
    runs = FailedRuns()
    failed(runs, MAX_FAILED_RUNS)
    for _ in range(100):
        runs.note(ANN, XRAY, TELLING, NOW_MS)
    assert wait_s(runs, NOW_MS) == 101
    assert wait_s(runs, NOW_MS + 100 * FAILED_RUN_MS) == 1
    assert wait_s(runs, NOW_MS + 101 * FAILED_RUN_MS) is None


@pytest.mark.parametrize("reason", ["no_memory_for_request", "engine_died", None])
def test_what_others_brought_about_is_not_counted(reason: str | None) -> None:
    """Whoever fills the engine's memory, or ends it, does not have others refused afterwards."""
    runs = FailedRuns()
    for _ in range(MAX_FAILED_RUNS + 1):
        runs.note(ANN, XRAY, EngineError("no", reason=reason), NOW_MS)
    assert wait_s(runs, NOW_MS) is None


def test_failures_are_of_one_consumer_and_one_model_until_they_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has caused none of this model, or whose time is over, is not asked about them."""
    runs = FailedRuns()
    assert not runs.has_any(ANN, XRAY)
    failed(runs, 2)
    seen = {}
    for now_ms in (NOW_MS, NOW_MS + 2 * FAILED_RUN_MS - 1, NOW_MS + 2 * FAILED_RUN_MS):
        monkeypatch.setattr(runs.clock, "now_ms", lambda now_ms=now_ms: now_ms)
        seen[now_ms - NOW_MS] = [runs.has_any(*path) for path in ((ANN, XRAY), (BEN, XRAY), (ANN, SORTER))]
    others = [False, False]
    assert seen == {0: [True, *others], 2 * FAILED_RUN_MS - 1: [True, *others], 2 * FAILED_RUN_MS: [False, *others]}


def test_one_consumer_and_one_model_alone_are_refused() -> None:
    """Others ask that model, and that consumer asks others."""
    runs = FailedRuns()
    failed(runs, MAX_FAILED_RUNS)
    assert wait_s(runs, NOW_MS) == 1
    assert (wait_s(runs, NOW_MS, consumer=BEN), wait_s(runs, NOW_MS, model=SORTER)) == (None, None)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (EngineError("", reason="run_failed"), True),
        (InvalidValueError("", reason="model_refused_input"), True),
        (EngineError("", reason="output_mismatch"), True),
        (EngineError("", reason="output_too_large"), True),
        (EngineError("", reason="out_of_memory"), True),
        (DeadlineError("", reason="compute_limit"), True),
        (InvalidValueError("", reason="not_finite"), False),
        (InvalidValueError("", reason="wrong_shape"), False),
        (EngineError("", reason="engine_died"), False),
        (OverloadedError("", reason="too_many_failed"), False),
        (DeadlineError(""), False),
    ],
)
def test_only_what_can_tell_of_the_model_counts(error: AIGovToolError, counts: bool) -> None:  # noqa: FBT001 -- case
    """Neither what was refused before it ran, nor the engine's own end, nor the refusal for too many."""
    runs = FailedRuns()
    for _ in range(MAX_FAILED_RUNS):
        runs.note(ANN, XRAY, error, NOW_MS)
    assert (wait_s(runs, NOW_MS) is not None) is counts


def test_what_is_remembered_is_bounded() -> None:
    """For a newcomer those are forgotten who have nothing left, or else who has caused the fewest."""
    runs = FailedRuns(kept=2)
    failed(runs, MAX_FAILED_RUNS)
    failed(runs, 1, consumer=BEN)
    failed(runs, MAX_FAILED_RUNS, consumer=CAT)
    assert set(runs._until_ms) == {(ANN, XRAY), (CAT, XRAY)}
    assert wait_s(runs, NOW_MS) == wait_s(runs, NOW_MS, consumer=CAT) == 1
    later_ms = NOW_MS + MAX_FAILED_RUNS * FAILED_RUN_MS
    failed(runs, 1, consumer=BEN, now_ms=later_ms)
    assert set(runs._until_ms) == {(BEN, XRAY)}
