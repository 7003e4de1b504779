"""How an answer leaves: a small one at once, a large one piece by piece, for as long as it may."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.results import Answered
from aigovtool.errors import LeaseExpiredError
from aigovtool.ids import ConsumerId

#: A large answer is encrypted and handed to the socket in pieces of this size: 64 MiB at once take 0.4 s of the event
#: loop, and as much memory again until the consumer has read them.
_PIECE_BYTES: Final = 256 << 10
#: The reason of the meter's refusal where an instance has ended, and was not stopped.
INSTANCE_ENDED: Final = "instance_ended"


class Leave:
    """Whether more of one answer may leave, asked before each piece: a consumer may take them as slowly as it likes.

    It may also when its instance has but ended, as when the engine died. But such an instance hears of no stop
    any more, and may be the last one for long: so it may for as long as there was authority when the piece before left.
    """

    def __init__(self, run: InstanceRun, consumer: ConsumerId) -> None:
        self._run: Final = run
        self._consumer: Final = consumer
        self._until_ms = self._authority_ends_ms()

    def __call__(self) -> None:
        """Raise unless it may.

        Raises:
            RefusalError: why not.
        """
        try:
            self._run.charging.check(self._consumer)
        except LeaseExpiredError as error:
            clock = self._run.instance.clock
            if error.reason != INSTANCE_ENDED or clock.tampered or clock.now_ms() >= self._until_ms:
                raise
        else:
            self._until_ms = self._authority_ends_ms()

    def _authority_ends_ms(self) -> int:
        now_ms = self._run.instance.clock.now_ms()
        return now_ms + self._run.instance.meter.authority_left_ms(now_ms)


class _InPieces(StreamingResponse):
    """A large answer, each piece when the consumer has taken those before; until it has all, the enclave holds it."""

    def __init__(self, body: bytes, held: AbstractContextManager[None], require_leave: Callable[[], None]) -> None:
        super().__init__(_pieces(body, require_leave), headers={"content-length": str(len(body))})
        self._held: Final = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


def response_of(answered: Answered, held: AbstractContextManager[None], require_leave: Callable[[], None]) -> Response:
    """Return an answer as it is sent.

    A large one is `held` as long as that takes, and ends in the middle when `require_leave` raises: a consumer that
    reads slowly would have it leave for hours after a stop.
    """
    body = answered.body
    response = Response(body) if len(body) <= _PIECE_BYTES else _InPieces(body, held, require_leave)
    for name, value in answered.headers:
        response.headers[name] = value
    return response


async def _pieces(body: bytes, require_leave: Callable[[], None]) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        require_leave()
        yield view[start : start + _PIECE_BYTES]
