"""How much of one caller is done before the event loop looks at others: the rule by itself, and requests by it."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from aigovtool.limits import MAX_REQUESTS_IN_A_ROUND
from aigovtool.transport.rounds import Rounds
from aigovtool.transport.server import HttpServer, bind_loopback

GREEDY, MODEST = "127.0.0.1", "127.0.0.2"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until it is so."""
    while not condition():  # noqa: ASYNC110 - there is nobody to tell of it
        await asyncio.sleep(0)


async def done(rounds: Rounds, *works: tuple[str, int]) -> list[list[str]]:
    """Return whose work was done in each round, if all of it comes at once."""
    found: list[list[str]] = [[]]

    async def one(caller: str, amount: int) -> None:
        await rounds.turn(caller, amount)
        found[-1].append(caller)

    tasks = [asyncio.create_task(one(*work)) for work in works]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        found.append([])
    return [each for each in found if each]


async def test_each_caller_has_its_part_of_each_round() -> None:
    """In the order of coming; what alone is more than a part is done in a round of its caller's own."""
    rounds = Rounds(2)
    assert await done(rounds, *[("a", 1)] * 5, ("b", 1)) == [["a", "a", "b"], ["a", "a"], ["a"]]
    assert await done(rounds, ("a", 1), ("a", 9), ("a", 1)) == [["a"], ["a"], ["a"]]
    assert not rounds._waiting


async def test_who_gives_up_takes_no_part() -> None:
    """A later one of the same caller is done in its place."""
    rounds = Rounds(1)
    turns = [asyncio.create_task(rounds.turn("a", 1)) for _ in range(4)]
    await asyncio.sleep(0)
    turns[1].cancel()
    await asyncio.gather(*turns, return_exceptions=True)
    assert [turn.cancelled() for turn in turns] == [False, True, False, False]
    assert not rounds._waiting
    await rounds.turn("a", 1)


async def test_the_requests_of_one_address_do_not_keep_another_waiting() -> None:
    """All that it sends at once is begun in many rounds, and in the first of them what another one sends."""
    begun: list[str] = []

    async def application(scope: Any, _: Any, send: Any) -> None:
        begun.append(scope["client"][0])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    listener = bind_loopback()
    async with HttpServer(application, listener, None) as server:
        with ExitStack() as stack:
            links = []
            for address in (*[GREEDY] * 4 * MAX_REQUESTS_IN_A_ROUND, MODEST):
                link = stack.enter_context(socket.create_connection(server.address, source_address=(address, 0)))
                links.append(link)
            await until(lambda: server.connections == len(links))
            for link in links:  # while the loop does nothing else
                link.sendall(GET)
            await until(lambda: len(begun) == len(links))
    listener.close()
    assert begun.index(MODEST) <= 2 * MAX_REQUESTS_IN_A_ROUND
