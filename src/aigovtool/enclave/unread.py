"""Answers that were made and not taken yet: how much memory a consumer may have the enclave keep for it.

How large an answer is shows when it is there; then it is charged, and has to leave. A consumer that takes its answers
slowly, or one byte at a time, would have the enclave hold as many of them as it may have connections. So what is made
is counted until it has been taken, and whoever has much of it has nothing more run, before anything is charged.

Nobody has more than is left to others; whoever has little is always served. What is being run when the bound is reached
comes on top: a few answers, as the engine works on a few runs at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aigovtool.errors import OverloadedError
from aigovtool.ids import ConsumerId
from aigovtool.limits import MAX_UNREAD_BYTES, MAX_UNREAD_BYTES_PER_CONSUMER, UNREAD_BYTES_OF_ANYBODY


class Unread:
    """Bytes of answers that are in memory, by consumer."""

    def __init__(self, per_consumer: int = MAX_UNREAD_BYTES_PER_CONSUMER, in_all: int = MAX_UNREAD_BYTES) -> None:
        self._per_consumer: Final = per_consumer
        self._in_all: Final = in_all
        self._held: Final[dict[ConsumerId, int]] = {}
        self._total = 0

    @contextmanager
    def hold(self, consumer: ConsumerId, size_bytes: int) -> Iterator[None]:
        """Count an answer of so many bytes as long as the block lasts; it is never refused."""
        self._change(consumer, size_bytes)
        try:
            yield
        finally:
            self._change(consumer, -size_bytes)

    def require_few(self, consumer: ConsumerId) -> None:
        """Refuse to run anything for whoever has too much that it has not taken.

        Raises:
            OverloadedError: `answers_not_taken`.
        """
        own = self._held.get(consumer, 0)
        most = max(UNREAD_BYTES_OF_ANYBODY, min(self._per_consumer, self._in_all - self._total))
        if own > most:
            raise OverloadedError(
                "this consumer has not taken the answers that were made for it",
                reason="answers_not_taken",
                fix="read answers as they come, or ask for fewer at a time",
                retry_after_s=1,
            )

    def _change(self, consumer: ConsumerId, change: int) -> None:
        self._total += change
        left = self._held.get(consumer, 0) + change
        if left:
            self._held[consumer] = left
        else:
            self._held.pop(consumer, None)
