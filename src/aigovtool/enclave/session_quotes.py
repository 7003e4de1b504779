"""Evidence for consumers: one quote at a time, for all who wait (spec: attestation, 3.4).

A quote costs the platform milliseconds, or with a TPM a second; a request for one costs a consumer nothing. So who asks
while a quote is being made waits, and then one quote answers all who wait: their nonces are the leaves of a Merkle tree
whose root is the nonce that is quoted. Between two quotes the platform rests as long as the last one took. Who waits is
bounded, in all and for each consumer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aigovtool.attestation.binding import Audience, Binding
from aigovtool.attestation.model import Evidence
from aigovtool.errors import OverloadedError
from aigovtool.ids import Nonce
from aigovtool.limits import MAX_SHARERS
from aigovtool.protocol.session import SHARED_AUDIENCE, Share, shares_of

#: All that one quote answers, twice over.
_MAX_WAITING: Final = 2 * MAX_SHARERS
_MAX_WAITING_OF_ONE: Final = 8
_MAX_REST_S: Final = 1.0

Quote = Callable[[Audience, Nonce], tuple[Binding, Evidence]]


@dataclass(frozen=True, slots=True)
class Quoted:
    """Claims, evidence over them, and the share in it of who asked, if others did at the same time."""

    claims: Binding
    evidence: Evidence
    share: Share | None


@dataclass(frozen=True, slots=True)
class _Waiting:
    audience: Audience
    nonce: Nonce
    answer: "asyncio.Future[Quoted]"


class SessionQuotes:
    """Whoever waits for evidence, and the quote that is being made."""

    def __init__(self, quote: Quote) -> None:
        """Make quotes with `quote`, in a thread: a device may block."""
        self._quote: Final = quote
        self._waiting: Final[deque[_Waiting]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def evidence_for(self, audience: Audience, nonce: Nonce) -> Quoted:
        """Return evidence that binds this audience and nonce.

        Raises:
            OverloadedError: too many wait, or too many of this audience (`quotes_waiting`).
            EvidenceError: the platform gives no evidence.
        """
        own = sum(one.audience == audience for one in self._waiting)
        if len(self._waiting) >= _MAX_WAITING or own >= _MAX_WAITING_OF_ONE:
            raise OverloadedError(
                "too many wait for evidence of this enclave", reason="quotes_waiting", retry_after_s=1
            )
        waiting = _Waiting(audience, nonce, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await waiting.answer

    async def _work(self) -> None:
        while self._waiting:
            began_s = time.monotonic()
            taken = [self._waiting.popleft() for _ in range(min(MAX_SHARERS, len(self._waiting)))]
            sharing = [one for one in taken if not one.answer.done()]  # who went away needs no share
            if not sharing:
                continue
            await self._answer(sharing)
            await asyncio.sleep(min(time.monotonic() - began_s, _MAX_REST_S))

    async def _answer(self, sharing: list[_Waiting]) -> None:
        shares: list[Share | None] = [None]
        audience, nonce = sharing[0].audience, sharing[0].nonce
        if len(sharing) > 1:
            nonce, made = shares_of([(one.audience, one.nonce) for one in sharing])
            audience, shares = SHARED_AUDIENCE, list(made)
        try:
            claims, evidence = await asyncio.to_thread(self._quote, audience, nonce)
        except Exception as error:  # noqa: BLE001 - whatever it is, everybody who waits hears of it
            for one in sharing:
                with suppress(asyncio.InvalidStateError):
                    one.answer.set_exception(error)
            return
        for one, share in zip(sharing, shares, strict=True):
            with suppress(asyncio.InvalidStateError):  # who went away meanwhile
                one.answer.set_result(Quoted(claims, evidence, share))
