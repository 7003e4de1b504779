"""Small requests that are answered together: each as if it had come alone; what does not leave is not charged."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.gateway.fast import Fast, binary, connection, head_of, in_json, outputs_of, parts, receipt_of
from tests.enclave.site import Service, Site, asked, served

from aigovtool.crypto.identity import IdentityKind
from aigovtool.enclave.engines.lanes import Lane
from aigovtool.enclave.gateway import batch
from aigovtool.enclave.gateway.asked import Asked
from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.gateway.shape import Shape, Shapes
from aigovtool.errors import BudgetExhaustedError, BudgetReservedError, ConflictError, InvalidValueError, StoppedError
from aigovtool.ids import ConsumerId
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.receipt import salted_digest, verify_receipt

SALT = "ab" * 16
ANOTHER = ConsumerId("second-ward")
BUDGET = 1_000_000


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    """An instance with a budget of a million and two consumers."""
    for consumer in (CONSUMER, ANOTHER):
        await site.bench.add_consumer(consumer, BORROWER)
    await site.bench.grant(BUDGET)
    async with served(site) as made:
        yield made


@pytest.fixture
async def fast(service: Service) -> Fast:
    """Its fast path, which has units."""
    made = Fast(service)
    await made.warm()
    return made


def free(service: Service) -> int:
    """Return what is free of the consumer's leases."""
    return service.run.instance.meter.remaining(MODEL, CONSUMER).inferences


# -- Answers ------------------------------------------------------------------------------------------


async def test_each_request_of_a_group_gets_its_own_answer(site: Site, service: Service, fast: Fast) -> None:
    """Of twenty at once, which one signature covers, each has its outputs and a receipt that can be checked alone."""
    before = receipt_of(await fast.ask()).receipt
    outcomes = [fast.ask(binary((number, -number)), aigovtool_request_id=f"k{number}") for number in range(20)]
    answers = await asyncio.gather(*outcomes)
    assert [outputs_of(answer) for answer in answers] == [[number, -number] for number in range(20)]
    signed = [receipt_of(answer) for answer in answers]
    assert {one.batch.payload for one in signed} == {signed[0].batch.payload}
    if signed[0].receipt.lease_id == before.lease_id:
        assert signed[0].receipt.sequence == before.sequence + 1
    assert [one.receipt.sequence - signed[0].receipt.sequence for one in signed] == list(range(20))
    for number, (one, answer) in enumerate(zip(signed, answers, strict=True)):
        receipt, (fields, body) = verify_receipt(one, service.run.instance.identity.public), parts(answer)
        request = salted_digest(b"", "request", [binary((number, -number))[0]])
        assert (receipt.request, receipt.response) == (request, salted_digest(b"", "response", [body]))
        assert receipt.request_key == fields["aigovtool-request-id"] == f"k{number}"
    await service.shut_down()
    assert await site.posted() == fast.charged


@pytest.mark.parametrize("body", [binary(), binary((float("inf"), -0.0)), in_json(), binary(binary_data_output=False)])
async def test_an_answer_is_that_of_the_long_way(body: tuple[bytes, str | None], service: Service, fast: Fast) -> None:
    """Body and fields are the same, but for what tells one request from another."""
    first, again = [parts(await fast.ask(body, aigovtool_salt=SALT)) for _ in range(2)]
    request = replace(asked(service.run, salt=bytes.fromhex(SALT)), body=body[0], header_length=body[1])
    long = await infer(service.run, request)
    assert first[1] == again[1] == long.body
    own = {"aigovtool-request-id", "aigovtool-receipt", "aigovtool-units-remaining"}
    for fields, _ in (first, again):
        del fields["content-length"]
        assert fields.pop("aigovtool-warning") == service.run.instance.warning
        assert list(fields) == [name for name, _ in long.headers]
        assert {name: fields[name] for name in fields.keys() - own} == {
            name: value for name, value in long.headers if name not in own
        }


async def test_forms_that_come_together_are_told_apart(fast: Fast) -> None:
    """JSON and binary, in turns: no answer goes to another request."""
    bodies = [in_json((number, 0)) if number % 2 else binary((number, 0)) for number in range(12)]
    answers = await asyncio.gather(*map(fast.ask, bodies))
    assert [outputs_of(answer) for answer in answers] == [[number, 0] for number in range(12)]
    assert ["inference-header-content-length" in parts(answer)[0] for answer in answers] == [True, False] * 6


async def test_a_row_is_charged_as_a_row(site: Site, service: Service, fast: Fast) -> None:
    """Five requests of three rows each are fifteen inferences, in the receipts and in the ledger."""
    answers = await asyncio.gather(*(fast.ask(in_json(rows=3)) for _ in range(5)))
    assert [receipt_of(answer).receipt.units.inferences for answer in answers] == [3] * 5
    await service.shut_down()
    assert await site.posted() == fast.charged


async def test_a_warning_reaches_who_is_answered_fast(service: Service, fast: Fast) -> None:
    """It says that the platform is a simulated one: loud everywhere."""
    assert service.run.instance.warning is not None
    fields, _ = parts(await fast.ask())
    assert fields["aigovtool-warning"] == service.run.instance.warning


async def test_one_consumer_does_not_keep_another_waiting(service: Service, fast: Fast) -> None:
    """Of two hundred requests at once some are begun in a turn; one of somebody else that comes after is, too."""
    del service
    other = connection(ANOTHER)
    await fast.warm(other)
    order: list[str] = []
    many = [fast.ask() for _ in range(200)]
    for one in many:
        one.add_done_callback(lambda _: order.append("many"))
    last = fast.ask(by=other)
    last.add_done_callback(lambda _: order.append("other"))
    await asyncio.gather(*many, last)
    assert order.index("other") < 100


async def test_large_requests_are_looked_at_a_few_at_a_time(fast: Fast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: two hundred bodies of nested lists at once, of whoever has no units; the loop has turns for others."""
    looked_at, turns = 0, 0
    real = Shapes.of

    def counted(shapes: Shapes, request: Asked, policy: ServingPolicy) -> Any:
        nonlocal looked_at
        looked_at += 1
        return real(shapes, request, policy)

    monkeypatch.setattr(Shapes, "of", counted)
    outcomes = [fast.ask((b"[" * 15_000, None)) for _ in range(50)]
    while looked_at < 50:
        before = looked_at
        await asyncio.sleep(0)
        assert looked_at <= before + 3
        turns += 1
    assert await asyncio.gather(*outcomes) == [None] * 50
    assert turns >= 16


# -- What goes the way of all others ------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"content_type": "application/json; charset=utf-8"},
        {"content_type": "text/plain"},
    ],
)
async def test_what_is_out_of_the_ordinary_is_not_wanted(fields: dict[str, str], fast: Fast) -> None:
    """It is the server's to answer, or to refuse in the words for it."""
    body, length = binary()
    assert not fast.path.wants(head_of(body, length, {name.replace("_", "-"): value for name, value in fields.items()}))


async def test_large_bodies_and_other_models_are_not_wanted(fast: Fast) -> None:
    """A large one is worth a task; a model that is not here is refused elsewhere."""
    assert not fast.path.wants(head_of(bytes(20_000), None, {}))
    head = head_of(*binary(), {})
    assert fast.path.wants(head)
    assert not fast.path.wants(head._replace(line=head.line.replace(MODEL.encode(), b"another")))


@pytest.mark.parametrize(
    ("by", "fields"),
    [
        (connection(kind=IdentityKind.OPERATOR), {}),
        (connection(borrower="clinic"), {}),
        (connection(valid=(0, 1)), {}),
        (connection(valid=(1 << 49, 1 << 50)), {}),
        (connection("nobody"), {}),
        (connection(), {"aigovtool_request_id": "not a key"}),
        (connection(), {"aigovtool_salt": "abc"}),
        (connection(), {"aigovtool_salt": "ab" * 65}),
    ],
)
async def test_who_may_not_ask_is_given_back(by: Any, fields: dict[str, Any], service: Service, fast: Fast) -> None:
    """Another's consumer, an operator, an expired credential, who has no units, bad fields: nothing is reserved."""
    before = free(service)
    assert await fast.ask(by=by, **fields) is None
    assert free(service) == before
    assert await fast.ask() is not None


@pytest.mark.parametrize("body", [(b"{", None), (b"[]", None), (binary()[0], "9"), (binary()[0][:-1], binary()[1])])
async def test_what_cannot_be_read_is_given_back(body: tuple[bytes, str | None], service: Service, fast: Fast) -> None:
    """And whoever came with it is answered."""
    before = free(service)
    bad, good = fast.ask(body), fast.ask()
    assert await bad is None
    assert outputs_of(await good) == [1.0, 2.0]
    assert free(service) == before - 1


async def test_a_request_id_is_charged_once(site: Site, service: Service, fast: Fast) -> None:
    """Twice in a group, the long way at once, and later: one is answered, and all others get that answer."""
    first, second = fast.ask(aigovtool_request_id="k1"), fast.ask(aigovtool_request_id="k1")
    await asyncio.sleep(0)
    body, length = binary()
    request = replace(asked(service.run, "k1"), body=body, header_length=length)
    joined = await infer(service.run, request)
    answer = await first
    assert (await second, parts(answer)[1]) == (None, joined.body)
    assert parts(answer)[0]["aigovtool-receipt"] == dict(joined.headers)["aigovtool-receipt"]
    assert await fast.ask(aigovtool_request_id="k1") is None
    assert await infer(service.run, request) == joined
    with pytest.raises(ConflictError) as caught:
        await infer(service.run, replace(request, body=binary((3.0, 4.0))[0]))
    assert caught.value.reason == "request_key_reused"
    await service.shut_down()
    assert await site.posted() == fast.charged


async def test_what_is_given_back_keeps_its_id(service: Service, fast: Fast, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could not be done here is carried out as all others are, and who asks again joins it."""
    monkeypatch.setattr(service.run.instance.engine.groups, "place", lambda *_: None)
    assert await fast.ask(aigovtool_request_id="k1") is None
    body, length = binary()
    answered = await infer(service.run, replace(asked(service.run, "k1"), body=body, header_length=length))
    assert outputs_of(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % len(answered.body) + (
        answered.lines.encode() + b"\r\n" + answered.body
    )) == [1.0, 2.0]  # fmt: skip


async def test_as_many_as_there_are_units_for_are_answered(site: Site) -> None:
    """The others are given back, and told that the budget is used up."""
    await site.bench.add_consumer(CONSUMER, BORROWER)
    await site.bench.grant(200)
    async with served(site) as service:
        fast = Fast(service)
        async with asyncio.timeout(60):
            while fast.charged < 200:
                await asyncio.gather(*(fast.ask() for _ in range(24)))
                await asyncio.sleep(0.01)
        assert fast.charged == 200
        assert await fast.ask() is None
        with pytest.raises((BudgetExhaustedError, BudgetReservedError)):
            await infer(service.run, asked(service.run))
    assert (await site.posted(), await site.pending()) == (200, 0)


async def test_who_has_caused_failures_is_looked_at_one_by_one(service: Service, fast: Fast) -> None:
    """Runs that fail are counted where each is on its own, until they are made up for; others go on as they did."""
    other, failed_runs = connection(ANOTHER), service.run.failed_runs
    await fast.warm(other)
    failed = InvalidValueError("a run that tells something", reason="model_refused_input")
    failed_runs.note(CONSUMER, MODEL, failed, failed_runs.clock.now_ms())
    assert await fast.ask() is None
    assert outputs_of(await fast.ask(by=other)) == [1.0, 2.0]
    failed_runs._until_ms[CONSUMER, MODEL] = failed_runs.clock.now_ms()
    assert outputs_of(await fast.ask()) == [1.0, 2.0]


# -- Between compute and release ----------------------------------------------------------------------


async def test_a_stop_holds_back_what_was_computed(site: Site, service: Service, fast: Fast) -> None:
    """It comes while the group is with the engine: none of it leaves, and none is charged."""
    outcomes = [fast.ask(aigovtool_request_id=f"k{number}") for number in range(5)]
    await asyncio.sleep(0)
    service.run.instance.meter.stopped = frozenset({CONSUMER})
    assert await asyncio.gather(*outcomes) == [None] * 5
    with pytest.raises(StoppedError):
        await infer(service.run, asked(service.run, "k1"))
    await service.shut_down()
    assert await site.posted() == fast.charged


async def test_a_dead_engine_gives_everything_back(service: Service, fast: Fast) -> None:
    """Nobody waits for what cannot come."""
    outcomes = [fast.ask() for _ in range(5)]
    await asyncio.sleep(0)
    service.run.instance.engine.kill()
    assert await asyncio.wait_for(asyncio.gather(*outcomes), 20) == [None] * 5
    await service.ended()
    assert await fast.ask() is None


@pytest.mark.parametrize("where", ["answer", "signed_texts"])
async def test_a_fault_of_ours_charges_nothing(
    where: str, site: Site, service: Service, fast: Fast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong before the charge: the requests go the way of all others, and the units are free again."""
    units = free(service)

    def broken(*_: object) -> None:
        raise ValueError("a fault")

    with monkeypatch.context() as patched:
        patched.setattr(Shape if where == "answer" else batch, where, broken)
        assert await asyncio.gather(*(fast.ask() for _ in range(5))) == [None] * 5
    assert free(service) == units
    assert outputs_of(await fast.ask()) == [1.0, 2.0]
    await service.shut_down()
    assert await site.posted() == fast.charged


async def test_a_fault_after_the_charge_keeps_no_answer_back(
    site: Site, service: Service, fast: Fast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is charged is answered, and not run and charged once more, though it cannot be kept for a repetition."""

    def broken(*_: object) -> None:
        raise OSError("no memory for the ids")

    with monkeypatch.context() as patched:
        patched.setattr(service.run.results, "finish", broken)
        answers = await asyncio.gather(*(fast.ask(aigovtool_request_id=f"k{number}") for number in range(5)))
    assert [outputs_of(answer) for answer in answers] == [[1.0, 2.0]] * 5
    await service.shut_down()
    assert await site.posted() == fast.charged


async def test_a_form_that_fails_is_left_alone_for_a_moment(
    service: Service, fast: Fast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large answer, a long run: it would only be computed twice; other forms go on."""
    monkeypatch.setattr(Shape, "is_paused", lambda shape, _: shape.paused_until_ms > 0)
    shapes = fast.path._shapes[CONSUMER, service.run.instance.models[MODEL].loaded.handle]
    (shape,) = shapes._shapes.values()
    shape.pause(1, Lane.SHORT)
    assert await fast.ask() is None
    assert outputs_of(await fast.ask(in_json())) == [1.0, 2.0]
