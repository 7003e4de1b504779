"""The push stream is opened again when it breaks, and never at full speed, whatever the other side does."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.enclave.site import Service, Site, served

from aigovtool.codec import Message
from aigovtool.enclave.listening import LIVED_S, RETRY_S, listen
from aigovtool.errors import AIGovToolError, UnreachableError
from aigovtool.protocol.messages import Push


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    """An instance that runs."""
    async with served(site) as made:
        yield made


class Enough(Exception):  # noqa: N818 - it is no error
    """So many streams were opened."""


async def waits(
    service: Service, monkeypatch: pytest.MonkeyPatch, *, lives_s: list[float], breaks: bool
) -> list[float]:
    """Return how long was waited after each stream; each sends a line at once and is cut after its life."""
    now_s, waited, lines = 0.0, list[float](), list[Push]()
    lives = iter(lives_s)

    async def stream(_: Message) -> AsyncIterator[Push]:
        nonlocal now_s
        yield Push()
        now_s += next(lives)
        if breaks:
            raise UnreachableError("cut", reason="custodian")

    async def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == len(lives_s):
            raise Enough

    async def pushed(line: Push) -> None:
        lines.append(line)

    def failed(error: AIGovToolError) -> None:
        assert error.reason == "custodian"

    monkeypatch.setattr(service.run.instance.link, "listen", stream)
    with pytest.raises(Enough):
        async with asyncio.timeout(20):
            await listen(service.run.instance, pushed, failed, now_s=lambda: now_s, pause=pause)
    assert len(lines) == len(lives_s)
    return waited


@pytest.mark.parametrize("breaks", [True, False])
async def test_who_answers_one_line_and_cuts_is_asked_less_and_less_often(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    breaks: bool,  # noqa: FBT001
) -> None:
    """A custodian, or whoever ends its connections, has no enclave open its stream at full speed for ever."""
    waited = await waits(service, monkeypatch, lives_s=[0.5] * 8, breaks=breaks)
    assert waited == [*RETRY_S, 2.0, 2.0, 2.0]


async def test_a_stream_that_lived_is_opened_again_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A custodian that is started anew after hours is heard again without delay."""
    lives_s = [0.0, 0.0, LIVED_S - 1, LIVED_S, 0.0]
    waited = await waits(service, monkeypatch, lives_s=lives_s, breaks=True)
    assert waited == [0.1, 0.2, 0.5, 0.1, 0.2]
