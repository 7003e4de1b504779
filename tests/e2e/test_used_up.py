"""Why a consumer is told 429 before 402 when a budget is used up, as the messages between enclave and custodian show.

The wish for the next lease goes out before the last one is used up, and while that one is lent the custodian can only
say `reserved`: it cannot know whether units of it will come back. That they were used it learns from the final report,
which goes with the next renewal. Who asks in between is told what the custodian last said.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event

import pytest
from tests.attacks.between import Between, Message, Reply
from tests.e2e.world import MakeWorld, World

from aigovtool.codec import decode
from aigovtool.crypto.sign import Envelope
from aigovtool.protocol.messages import Answer, Deny, DenyCode, Renew, RenewReply

RENEW = "/v1/renew"


@dataclass
class Trace:
    """What went between enclave and custodian; a renewal with a final report is held for as long as wished.

    Of each renewal: how many final reports it brought, and what was denied in its answer.
    """

    seen: list[tuple[int, list[DenyCode]]] = field(default_factory=list)
    came: Event = field(default_factory=Event)
    released: Event = field(default_factory=Event)

    def rule(self, message: Message) -> Reply:
        """Note a renewal and its answer."""
        renewal = decode(decode(message.body, Envelope).payload, Renew)
        final = sum(report.final for report in renewal.reports)
        if final:
            self.came.set()
            assert self.released.wait(30)
        reply = message.forward()
        answer = decode(decode(reply.body, RenewReply).answer.payload, Answer)
        self.seen.append((final, [one.code for one in answer.results if isinstance(one, Deny)]))
        return reply

    def denied(self, code: DenyCode) -> list[int]:
        """Return how many final reports had come, by each renewal that was denied with this."""
        brought, found = 0, []
        for final, codes in self.seen:
            brought += final
            if code in codes:
                found.append(brought)
        return found


@pytest.fixture
def traced(make_world: MakeWorld) -> Iterator[tuple[World, Trace]]:
    """A budget of one unit, and who reads along. There is a renewal every three seconds."""
    with ExitStack() as stack:
        trace = Trace()
        stack.callback(trace.released.set)

        def prepare(world: World) -> None:
            between = stack.enter_context(Between(world.directory / "custodian", world.custodian_port))
            between.on(RENEW, trace.rule)
            world.custodian_seen_at = between.port

        yield make_world(budget=1, ttl_ms=9_000, prepare=prepare), trace


def test_what_is_used_up_is_reserved_until_the_custodian_has_heard_of_it(
    traced: tuple[World, Trace], body: bytes
) -> None:
    """429 with `Retry-After` while the final report is on its way, and 402 as soon as it was answered."""
    world, trace = traced
    connection = world.connect()
    assert connection.infer(body).status == 200
    assert trace.came.wait(20), "the final report goes with a renewal, whether anybody asks or not"
    early = connection.infer(body)
    assert (early.status, early.json()["code"]) == (429, "budget_reserved")
    assert 1 <= int(early.headers["retry-after"]) <= 3
    assert trace.denied(DenyCode.RESERVED) == [0]
    assert trace.denied(DenyCode.EXHAUSTED) == []
    trace.released.set()
    world.wait_for(lambda: connection.infer(body).status == 402, "the custodian says that nothing is left")
    late = connection.infer(body)
    assert (late.status, late.json()["code"]) == (402, "budget_exhausted")
    assert set(trace.denied(DenyCode.EXHAUSTED)) == {1}
    assert world.posted() == 1
