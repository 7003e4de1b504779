"""How much of each caller is done in one round of the event loop, where many have something to do at once.

In a round the loop does all that has come by its beginning, and looks at nobody else until it is through with that. A
caller may have hundreds of connections, each with something that takes a millisecond or ten. So of each caller only so
much is done in a round; the rest waits, in the order of coming, for later ones. Nobody is refused, and where nobody
else has anything to do nothing takes longer: rounds follow each other as fast as the loop gets through with them.
"""

import asyncio
from collections import deque
from typing import Final


class Rounds:
    """The rounds of one event loop."""

    def __init__(self, most: int) -> None:
        """Have so much done of each caller in a round, and one piece of work of it however much that is."""
        self._most: Final = most
        self._done: Final[dict[str, int]] = {}
        self._waiting: Final[dict[str, deque[tuple[int, asyncio.Future[None]]]]] = {}

    async def turn(self, caller: str, amount: int) -> None:
        """Return, at once if it may be, in a round in which so much is done of this caller; nobody overtakes."""
        if caller not in self._waiting and self._take(caller, amount):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append((amount, turn))
        await turn

    def _take(self, caller: str, amount: int) -> bool:
        done = self._done.get(caller, 0)
        if done and done + amount > self._most:
            return False
        if not self._done:
            asyncio.get_running_loop().call_soon(self._next)
        self._done[caller] = done + amount
        return True

    def _next(self) -> None:
        self._done.clear()
        for caller, waiting in tuple(self._waiting.items()):
            while waiting and (waiting[0][1].done() or self._take(caller, waiting[0][0])):
                _, turn = waiting.popleft()
                if not turn.done():  # or else whoever waited has gone
                    turn.set_result(None)
            if not waiting:
                del self._waiting[caller]
