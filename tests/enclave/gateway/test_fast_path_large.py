"""Larger requests, and longer runs, that take the fast path: their room, their lane, and what they are charged."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.gateway.fast import Fast, binary, connection, head_of, outputs_of, parts, receipt_of
from tests.enclave.site import Service, Site, asked, served

from aigovtool.crypto.identity import IdentityKind
from aigovtool.enclave.boot import ServedModel
from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.engines.lanes import Lane
from aigovtool.enclave.gateway import asked as asked_module
from aigovtool.enclave.gateway.asked import Asked, Valid, is_plain
from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.gateway.shape import Shape
from aigovtool.ids import Digest
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.receipt import salted_digest, verify_receipt
from aigovtool.package.manifest import Datatype, TensorSpec

ROWS = 2_500
Body = tuple[bytes, str | None]


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    """An instance with a budget of ten million units."""
    await site.bench.add_consumer(CONSUMER, BORROWER)
    await site.bench.grant(10_000_000)
    async with served(site) as made:
        yield made


@pytest.fixture
async def fast(service: Service) -> Fast:
    """Its fast path, which has units for several large requests."""
    made = Fast(service)
    async with asyncio.timeout(60):
        while None in await asyncio.gather(*(made.ask(large()) for _ in range(4))):
            body, length = large(8 * ROWS)  # on the long way, which waits for a lease, and asks for a larger one
            one = replace(asked(service.run), body=body, header_length=length, repeatable=False)
            await infer(service.run, one)
            made.charged += 8 * ROWS
    return made


def large(rows: int = ROWS, **parameters: object) -> Body:
    """Return the body of a request for many rows."""
    return binary(np.arange(2 * rows, dtype="<f4").tolist(), rows=rows, **parameters)


def taken(service: Service) -> int:
    """Return the bytes of bodies that have room."""
    return service.run.bodies._total


async def test_a_large_request_is_answered_and_charged_as_any(site: Site, service: Service, fast: Fast) -> None:
    """Its receipt says what was sent and what came back; its room is free again when it is answered."""
    body, length = large()
    asking = fast.ask((body, length), aigovtool_request_id="pixels")
    assert taken(service) == len(body)
    answer = await asking
    assert taken(service) == 0
    assert outputs_of(answer) == np.arange(2 * ROWS, dtype="<f4").tolist()
    receipt, (_, content) = verify_receipt(receipt_of(answer), service.run.instance.identity.public), parts(answer)
    assert receipt.request == salted_digest(b"", "request", [body])
    assert receipt.response == salted_digest(b"", "response", [content])
    assert (receipt.units.inferences, receipt.request_key) == (ROWS, "pixels")
    await service.shut_down()
    assert await site.posted() == fast.charged


async def test_large_requests_that_come_together_are_begun_one_after_another(service: Service, fast: Fast) -> None:
    """Attack: many at once, each hashed on the event loop; others have their turns between them."""
    turns = 0
    asking = [fast.ask(large(5_000)) for _ in range(4)]
    while fast.path._waiting:
        before = sum(map(len, fast.path._waiting.values()))
        await asyncio.sleep(0)
        assert before - sum(map(len, fast.path._waiting.values())) <= 1
        turns += 1
    assert turns >= 4
    await asyncio.gather(*asking)
    assert taken(service) == 0


def _long_json() -> Body:
    """Return a request whose JSON part is longer than is parsed on the loop for a large one."""
    return large(id="x" * 5_000)


NOT_TAKEN: dict[str, tuple[Body, dict[str, str], Any]] = {
    "no binary form": ((bytes(20_000), None), {}, None),
    "much JSON": (_long_json(), {}, None),
    "no length at all": ((large()[0], "0"), {}, None),
    "a length with a sign": ((large()[0], "+120"), {}, None),
    "over a megabyte": (large(140_000), {}, None),
    "another type": (large(), {"content-type": "text/plain"}, None),
    "an operator": (large(), {}, connection(kind=IdentityKind.OPERATOR)),
    "another borrower's": (large(), {}, connection(borrower="clinic")),
}


@pytest.mark.parametrize("why", NOT_TAKEN)
async def test_a_large_request_out_of_the_ordinary_gets_no_room(why: str, service: Service, fast: Fast) -> None:
    """It is the server's to answer, or to refuse in the words for it; nothing is taken by asking."""
    (body, length), fields, by = NOT_TAKEN[why]
    head = head_of(body, length, fields)
    assert not fast.path.wants(head)
    assert fast.path.room_for(head, by or connection()) is None
    assert taken(service) == 0


async def test_a_large_request_for_another_model_gets_no_room(fast: Fast) -> None:
    """Where it is answered that there is none, it is not here."""
    head = head_of(*large(), {})
    other = head._replace(line=head.line.replace(MODEL.encode(), b"another"))
    assert fast.path.room_for(other, connection()) is None
    assert fast.path.room_for(head, connection()) is not None


async def test_bodies_have_no_more_room_than_there_is(service: Service, fast: Fast) -> None:
    """Attack: bodies announced on many connections, of which none comes; the room given back is another's."""
    body, length = large(100_000)
    head, given = head_of(body, length, {}), []
    while (give_back := fast.path.room_for(head, connection())) is not None:
        given.append(give_back)
        assert taken(service) == len(given) * len(body)
    assert taken(service) <= service.run.bodies._per_caller
    given.pop()()
    assert fast.path.room_for(head, connection()) is not None


@pytest.mark.parametrize(
    ("datatype", "plain"), [(Datatype.FP32, True), (Datatype.BOOL, False), (Datatype.BYTES, False)]
)
def test_data_that_is_walked_is_not_walked_on_the_loop(datatype: Datatype, plain: bool) -> None:  # noqa: FBT001
    """Attack: a megabyte of texts, which takes tens of milliseconds to look at."""
    interface = ModelInterface((TensorSpec(name="x", datatype=datatype, shape=(1,)),), ())
    assert is_plain(cast("ServedModel", SimpleNamespace(loaded=SimpleNamespace(interface=interface)))) is plain


# -- Longer runs --------------------------------------------------------------------------------------


def learn(service: Service, lane: Lane) -> None:
    """Have the consumer's next run begin in this lane."""
    handle = service.run.instance.models[MODEL].loaded.handle
    service.run.instance.engine._pending.habits.learn(CONSUMER, handle, lane)


async def test_longer_runs_are_answered_each_on_its_own(site: Site, service: Service, fast: Fast) -> None:
    """None waits for another's run, so each has a signature of its own; all are charged once."""
    learn(service, Lane.MIDDLE)
    answers = await asyncio.gather(*(fast.ask(binary((number, 0))) for number in range(4)))
    assert [outputs_of(answer) for answer in answers] == [[number, 0] for number in range(4)]
    assert len({receipt_of(answer).batch.payload for answer in answers}) == 4
    await service.shut_down()
    assert await site.posted() == fast.charged


async def test_runs_that_may_take_all_their_time_go_the_long_way(service: Service, fast: Fast) -> None:
    """They wait as one of all others, and have the whole deadline."""
    learn(service, Lane.LONG)
    assert await asyncio.gather(*(fast.ask() for _ in range(3))) == [None] * 3


async def test_a_longer_form_that_fails_is_left_alone_for_a_minute(service: Service, fast: Fast) -> None:
    """Attack: answers that are too large for this, each computed twice for up to a second."""
    handle = service.run.instance.models[MODEL].loaded.handle
    learn(service, Lane.MIDDLE)
    now_ms = service.run.instance.clock.now_ms()
    assert await fast.ask(large(10_000)) is None
    (shape,) = (one for one in fast.path._shapes[CONSUMER, handle]._shapes.values() if one.is_paused(now_ms + 30_000))
    assert not shape.is_paused(now_ms + 90_000)
    assert outputs_of(await fast.ask()) == [1.0, 2.0]


async def test_a_longer_run_that_was_late_is_left_alone_for_a_minute(service: Service, fast: Fast) -> None:
    """Attack: each of its tries takes a second of the engine's time, which no short run makes up for."""
    handle = service.run.instance.models[MODEL].loaded.handle
    shape: Shape = next(iter(fast.path._shapes[CONSUMER, handle]._shapes.values()))
    now_ms = service.run.instance.clock.now_ms()
    late = SimpleNamespace(shape=shape, entries=[None], done=0, took_us=0)
    fast.path._failed(cast("Any", late), cast("Any", SimpleNamespace(late=True)), Lane.MIDDLE)
    assert shape.is_paused(now_ms + 30_000)


async def test_each_lane_has_its_own_time(service: Service, fast: Fast) -> None:
    """A try may take no longer than its lane has, or than the terms say."""
    handle = service.run.instance.models[MODEL].loaded.handle
    shape: Shape = next(iter(fast.path._shapes[CONSUMER, handle]._shapes.values()))
    assert {lane: form.compute_ms for lane, form in shape.forms.items()} == {Lane.SHORT: 10, Lane.MIDDLE: 1_000}


# -- One look -----------------------------------------------------------------------------------------


async def test_a_request_is_hashed_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on the long way, where its digest is both what its id stands for and what its receipt says."""
    seen: list[int] = []
    real = asked_module.request_digest

    def counted(one: Asked) -> Digest:
        seen.append(len(one.body))
        return real(one)

    monkeypatch.setattr(asked_module, "request_digest", counted)
    body, length = large()
    answered = await infer(service.run, replace(asked(service.run), body=body, header_length=length))
    assert answered.body
    assert seen == [len(body)]


async def test_a_request_is_looked_at_again_on_other_terms(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found on the terms of before does not count for those in force when it is run."""
    looks: list[ServingPolicy] = []
    real = asked_module.validated
    now = service.run.charging.terms(MODEL)
    monkeypatch.setattr(service.run.charging, "terms", lambda _: now)

    def changing(one: Asked, policy: ServingPolicy) -> Valid:
        nonlocal now
        looks.append(policy)
        if len(looks) == 1:
            now = msgspec.structs.replace(policy, version=policy.version + 1)
        return real(one, policy)

    monkeypatch.setattr(asked_module, "validated", changing)
    body, length = large()
    assert (await infer(service.run, replace(asked(service.run), body=body, header_length=length))).body
    assert [policy.version for policy in looks] == [now.version - 1, now.version]
