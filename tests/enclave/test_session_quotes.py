"""Quotes for consumers are shared and bounded: whoever asks cannot exhaust the platform."""

import asyncio
import threading

import msgspec
import pytest
from tests.attestation.test_binding import binding

from aigovtool.attestation.binding import Audience, Binding
from aigovtool.attestation.model import Evidence, TeeType
from aigovtool.enclave.session_quotes import Quoted, SessionQuotes
from aigovtool.errors import EvidenceError, OverloadedError
from aigovtool.ids import Nonce
from aigovtool.limits import MAX_SHARERS
from aigovtool.protocol.session import expected_of

CLAIMS = binding()
Caller = tuple[Audience, Nonce]


def caller(number: int, name: str | None = None) -> Caller:
    return Audience(f"consumer:{name or f'ward{number}'}"), Nonce(f"{number:064x}")


class Platform:
    """Makes quotes slowly: each waits until it is let go."""

    def __init__(self) -> None:
        self.quoted: list[Caller] = []
        self.at_once = 0
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.broken = False

    def quote(self, audience: Audience, nonce: Nonce) -> tuple[Binding, Evidence]:
        self.at_once += 1
        assert self.at_once == 1
        self.quoted.append((audience, nonce))
        self.begun.release()
        assert self.go.acquire(timeout=20)
        self.at_once -= 1
        if self.broken:
            raise EvidenceError("the device is gone", reason="attester_device")
        claims = msgspec.structs.replace(CLAIMS, audience=audience, nonce=nonce)
        return claims, Evidence(tee=TeeType.SIMULATED, data=claims.report_data())


@pytest.fixture
def platform() -> Platform:
    return Platform()


async def started(quotes: SessionQuotes, platform: Platform, first: Caller) -> asyncio.Task[Quoted]:
    """Ask, and wait until the platform is at it."""
    task = asyncio.create_task(quotes.evidence_for(*first))
    await asyncio.to_thread(platform.begun.acquire, timeout=20)
    return task


async def asked(quotes: SessionQuotes, platform: Platform, callers: list[Caller], first: Caller) -> list[Quoted]:
    """Ask for `first`, and while its quote is being made for all others; let both quotes go."""
    early = await started(quotes, platform, first)
    others = [asyncio.create_task(quotes.evidence_for(*one)) for one in callers]
    await asyncio.sleep(0)
    platform.go.release(2)
    return [await early, *(await asyncio.gather(*others))]


async def test_who_asks_meanwhile_shares_the_next_quote(platform: Platform) -> None:
    """A hundred consumers cost two quotes, one after the other; each one's evidence is for it."""
    callers = [caller(number) for number in range(1, 101)]
    alone, *shared = await asked(SessionQuotes(platform.quote), platform, callers, caller(0))
    assert len(platform.quoted) == 2
    assert (alone.share, alone.claims.nonce) == (None, caller(0)[1])
    assert len({quoted.claims.nonce for quoted in shared}) == 1
    for one, quoted in zip(callers, shared, strict=True):
        assert expected_of(quoted.share, quoted.claims, *one) == (quoted.claims.audience, quoted.claims.nonce)


async def test_one_who_waits_alone_gets_a_quote_of_its_own(platform: Platform) -> None:
    """There is nothing to share."""
    _, second = await asked(SessionQuotes(platform.quote), platform, [caller(1)], caller(0))
    assert (second.share, second.claims.audience, second.claims.nonce) == (None, *caller(1))


async def test_who_waits_is_bounded(platform: Platform) -> None:
    """Attack: more requests than any quote answers, or a share of them from one consumer; others are served."""
    quotes = SessionQuotes(platform.quote)
    early = await started(quotes, platform, caller(0))
    greedy = [asyncio.create_task(quotes.evidence_for(*caller(number, "greedy"))) for number in range(20)]
    many = [asyncio.create_task(quotes.evidence_for(*caller(number))) for number in range(1, 2 * MAX_SHARERS)]
    await asyncio.sleep(0)
    refused = [task for task in (*greedy, *many) if task.done() and task.exception() is not None]
    assert all(isinstance(task.exception(), OverloadedError) for task in refused)
    assert len([task for task in refused if task in greedy]) == 20 - 8
    assert len(refused) == 20 + len(many) - 2 * MAX_SHARERS
    platform.go.release(3)
    await early
    served = await asyncio.gather(*(task for task in (*greedy, *many) if task not in refused))
    assert len(served) == 2 * MAX_SHARERS
    assert len(platform.quoted) == 3


async def test_a_platform_that_fails_fails_for_all_who_wait_and_for_nobody_later(platform: Platform) -> None:
    """Everybody hears why; the next one is tried again."""
    quotes = SessionQuotes(platform.quote)
    platform.broken = True
    early = await started(quotes, platform, caller(0))
    others = [asyncio.create_task(quotes.evidence_for(*caller(number))) for number in (1, 2)]
    await asyncio.sleep(0)
    platform.go.release(2)
    for task in (early, *others):
        with pytest.raises(EvidenceError):
            await task
    platform.broken = False
    platform.go.release(1)
    assert (await quotes.evidence_for(*caller(3))).share is None


async def test_who_goes_away_takes_no_place(platform: Platform) -> None:
    """A consumer that ends its request disturbs neither the quote nor the others."""
    quotes = SessionQuotes(platform.quote)
    early = await started(quotes, platform, caller(0))
    gone, stays = (asyncio.create_task(quotes.evidence_for(*caller(number))) for number in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    early.cancel()
    await asyncio.sleep(0)
    platform.go.release(2)
    assert (await stays).share is None
    assert [audience for audience, _ in platform.quoted] == [caller(0)[0], caller(2)[0]]
