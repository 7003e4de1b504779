"""Whoever is refused leaves a trace in the server's log: of each reason a count, and nothing that it chose itself."""

import asyncio
import logging
from collections import Counter
from dataclasses import replace

import pytest
from tests.transport.conftest import SMALL, World, all_closed, connected, exchange, served

from aigovtool.crypto.identity import IdentityKind
from aigovtool.transport.notices import OTHERS, Notices

#: What a peer puts wherever it can.
MARK = "mark-4c1e"
GET = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
QUIET = replace(SMALL, notice_period_s=100)


def counted(messages: list[str]) -> Counter[str]:
    """Add up what lines about the loopback address say."""
    found: Counter[str] = Counter()
    for message in messages:
        event, address, *counts = message.split(" ")
        assert (event, address) == ("turned_away", "address=127.0.0.1")
        found.update({what: int(number) for what, _, number in (count.rpartition("=") for count in counts)})
    return found


async def test_each_refusal_is_counted_by_its_reason(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Of routes, of roles, of credentials, of the application and on the wire: two lines for thirty-six of them."""
    caplog.set_level(logging.INFO, "aigovtool")
    consumer = world.client(world.credential(IdentityKind.CONSUMER, MARK))
    late = world.client(world.credential(IdentityKind.OPERATOR, "anna", offset_ms=-500_000))
    tries = [
        (world.client(), GET % f"/{MARK}".encode()),
        (world.client(), GET.replace(b"GET", b"PUT") % b"/hello"),
        (world.client(), GET % b"/operators"),
        (consumer, GET % b"/operators"),
        (late, GET % b"/operators"),
        (consumer, GET % b"/refuse"),
        (world.client(), GET % f"/models/a?{MARK}=1".encode()),
        (world.client(), b"GET /hello HTTP/1.1\nHost: a\n\n"),
        (world.client(), b"GET /hello HTTP/1.1\r\nHost: a\r\nX: \x1b[31m" + MARK.encode() + b"\r\n\r\n"),
    ]
    async with served(world, QUIET) as server:
        for context, request in tries * 4:
            (answer,) = await exchange(server, context, request)
            assert answer.status >= 400
        await all_closed(server)
    assert len(caplog.messages) == 2
    assert MARK not in caplog.text
    assert counted(caplog.messages) == {
        "not_found/no_route": 4,
        "malformed/method_not_allowed": 4,
        "unauthenticated/no_credential": 4,
        "forbidden/wrong_role": 4,
        "unauthenticated/credential_expired": 4,
        "budget_exhausted/pool_empty": 4,
        "invalid_value/bad_query": 4,
        "malformed/bare_lf": 4,
        "malformed/bad_byte": 4,
    }


async def test_a_connection_that_is_silent_or_too_slow_is_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """One that asked nothing, one that never ended its head, one that never ended its body; not one that was served."""
    caplog.set_level(logging.INFO, "aigovtool")
    begun = [b"", b"GET /hello HTTP/1.1\r\n", b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"]
    bounds = replace(QUIET, header_timeout_s=0.3, body_idle_timeout_s=0.3)
    async with served(world, bounds) as server:
        for sent in [*begun, b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"]:
            async with connected(server, world.client()) as (reader, writer):
                writer.write(sent)
                await reader.read(-1)
        await all_closed(server)
    assert counted(caplog.messages) == {"silent": 1, "too_slow": 2}


async def test_an_answer_that_nobody_reads_is_counted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The connection ends, and the log says why."""
    caplog.set_level(logging.INFO, "aigovtool")
    async with (
        served(world, replace(QUIET, write_stall_timeout_s=0.3)) as server,
        connected(server, world.client()) as (reader, writer),
    ):
        writer.write(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"}")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET % b"/stream")
        await all_closed(server)
    assert counted(caplog.messages) == {"answer_not_read": 1}


async def test_only_so_many_reasons_have_a_count_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """The others share one, so that a line stays short."""
    caplog.set_level(logging.INFO, "aigovtool")
    notices = Notices(logging.getLogger("aigovtool.test"), period_s=100)
    for number in range(1_000):
        notices.note("127.0.0.1", f"reason_{number}")
    await asyncio.sleep(0)
    notices.close()
    first, second = caplog.messages
    assert len(second) < 1_000
    assert counted([first]) == {"reason_0": 1}
    assert counted([second])[OTHERS] > 900
    assert counted([second]).total() == 999
