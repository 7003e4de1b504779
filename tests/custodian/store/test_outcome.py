"""A task waits for what a job comes to as a thread does: told once, from any thread; who went away is not told."""

import asyncio
import threading

import pytest

from aigovtool.custodian.store.outcome import TaskOutcome


async def test_a_task_is_told_by_another_thread() -> None:
    """What the job gave, or what it failed of."""
    given, failed = TaskOutcome[str](), TaskOutcome[str]()

    def work() -> None:
        assert given.set_running_or_notify_cancel()
        assert failed.set_running_or_notify_cancel()
        assert given.running()
        assert failed.running()
        given.set_result("granted")
        failed.set_exception(ZeroDivisionError("refused"))

    writer = threading.Thread(target=work)
    writer.start()
    assert await given.get() == "granted"
    with pytest.raises(ZeroDivisionError, match="refused"):
        await failed.get()
    writer.join()


async def test_who_went_away_before_the_job_began_has_it_not_run() -> None:
    """As a future that was cancelled."""
    outcome = TaskOutcome[str]()
    waiting = asyncio.create_task(outcome.get())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not outcome.set_running_or_notify_cancel()
    assert not outcome.running()


async def test_who_goes_away_while_the_job_runs_is_not_told() -> None:
    """The writer need not know."""
    outcome = TaskOutcome[str]()
    assert outcome.set_running_or_notify_cancel()
    waiting = asyncio.create_task(outcome.get())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    outcome.set_result("nobody hears it")
    await asyncio.sleep(0)


def test_a_loop_that_has_ended_hurts_nobody() -> None:
    """A custodian that shuts down while a job runs."""
    outcome = asyncio.run(_made())
    assert outcome.set_running_or_notify_cancel()
    outcome.set_result("nobody hears it")
    outcome.set_exception(ZeroDivisionError())


async def _made() -> TaskOutcome[str]:
    return TaskOutcome()


async def test_either_the_writer_has_the_job_or_who_waited_is_gone() -> None:
    """Both at the same time, many times: never both, and never neither."""
    for _ in range(300):
        outcome = TaskOutcome[str]()
        waiting = asyncio.create_task(outcome.get())
        await asyncio.sleep(0)
        began: list[bool] = []

        def work(outcome: TaskOutcome[str] = outcome, began: list[bool] = began) -> None:
            began.append(outcome.set_running_or_notify_cancel())
            if began[0]:
                outcome.set_result("done")

        writer = threading.Thread(target=work)
        writer.start()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        writer.join()
        assert outcome.running() == began[0]
        assert not outcome.set_running_or_notify_cancel()  # somebody has it, or nobody will
