"""A deadline that is paused does not expire, and costs no new timer when it is set again."""

import asyncio
from collections.abc import Callable

import pytest

from aigovtool.transport.deadline import Deadline


class Expiry:
    """Counts how often a deadline expired."""

    def __init__(self) -> None:
        self.count = 0
        self.came = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self.came.set()

    async def comes(self) -> None:
        """Wait for it."""
        async with asyncio.timeout(10):
            await self.came.wait()


async def test_it_expires_once() -> None:
    """What was set last counts, and nothing expires twice."""
    expiry = Expiry()
    deadline = Deadline(expiry)
    deadline.set(100)
    deadline.set(0.01)
    await expiry.comes()
    await asyncio.sleep(0.05)
    assert expiry.count == 1
    assert deadline._handle is None


@pytest.mark.parametrize("stop", [Deadline.pause, Deadline.clear])
async def test_it_does_not_expire_once_it_is_stopped(stop: Callable[[Deadline], None]) -> None:
    """Neither when its timer would have fired nor later."""
    expiry = Expiry()
    deadline = Deadline(expiry)
    deadline.set(0.01)
    stop(deadline)
    await asyncio.sleep(0.1)
    assert expiry.count == 0


@pytest.mark.parametrize("stop", [Deadline.pause, Deadline.clear])
@pytest.mark.parametrize("before_s", [0.01, 100.0], ids=["fires-first", "fires-later"])
@pytest.mark.parametrize("waited_s", [0.0, 0.05], ids=["at-once", "after-a-while"])
async def test_it_expires_when_it_is_set_again(
    stop: Callable[[Deadline], None], before_s: float, waited_s: float
) -> None:
    """Whether the timer of before is still there, is late or has fired in vain."""
    expiry = Expiry()
    deadline = Deadline(expiry)
    deadline.set(before_s)
    stop(deadline)
    await asyncio.sleep(waited_s)
    assert expiry.count == 0
    deadline.set(0.02)
    await expiry.comes()
    assert expiry.count == 1


async def test_a_timer_that_fires_early_waits_for_the_time_that_was_set_last() -> None:
    """The timer of a paused deadline is that of the next one: it neither expires with it nor forgets it."""
    expiry, loop = Expiry(), asyncio.get_running_loop()
    deadline = Deadline(expiry)
    deadline.set(0.01)
    deadline.pause()
    due = loop.time() + 0.2
    deadline.set(0.2)
    await expiry.comes()
    assert loop.time() > due - 0.05  # a loop may fire a little early
    assert expiry.count == 1


async def test_pausing_and_setting_again_takes_one_timer() -> None:
    """What happens with each request of a connection makes no timer, and leaves none to be cleaned away."""
    deadline = Deadline(Expiry())
    deadline.set(10)
    timer = deadline._handle
    assert timer is not None
    for _ in range(100):
        deadline.pause()
        assert deadline._handle is timer
        deadline.set(20)
        assert deadline._handle is timer
    assert not timer.cancelled()
    deadline.clear()
    assert deadline._handle is None
    assert timer.cancelled()


async def test_an_earlier_time_is_kept_after_a_pause() -> None:
    """The timer that stays may be too late for the next deadline: then it is another one, and the old one is gone."""
    deadline = Deadline(Expiry())
    deadline.set(100)
    late = deadline._handle
    deadline.pause()
    deadline.set(10)
    assert late is not None
    assert late.cancelled()
    assert deadline._handle is not None
    assert deadline._handle is not late
    deadline.clear()
