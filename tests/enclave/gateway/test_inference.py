"""One inference, from the request to the answer that may leave: what is charged is released, and nothing else."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.custodian.conftest import BORROWER, CONSUMER
from tests.enclave.site import Service, Site, asked, served

from aigovtool.enclave.engines import process
from aigovtool.enclave.gateway import answer, inference
from aigovtool.enclave.gateway import asked as asked_module
from aigovtool.enclave.gateway.asked import Asked
from aigovtool.enclave.gateway.inference import infer
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.enclave.results import Answered
from aigovtool.errors import AIGovToolError, FaultError, OverloadedError
from aigovtool.ids import RequestKey
from aigovtool.limits import MAX_ON_LOOP_BYTES
from aigovtool.protocol.oip import InferClaim, read_infer_claim
from aigovtool.protocol.tensor import Outline
from aigovtool.transport.room import Room


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    """An instance with a budget of a million."""
    await site.bench.add_consumer(CONSUMER, BORROWER)
    await site.bench.grant(1_000_000)
    async with served(site) as made:
        yield made


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_run_that_cannot_be_signed_is_charged_nothing(
    repeatable: bool,  # noqa: FBT001 -- case
    site: Site,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The receipt comes before the charge: the consumer gets a typed error, and its request id is free."""
    run = service.run

    def unsignable(*_: object) -> None:
        raise ValueError("no signature")

    with monkeypatch.context() as broken:
        broken.setattr(inference, "sign_batch", unsignable)
        with pytest.raises(FaultError) as caught:
            await infer(run, asked(run, repeatable=repeatable))
    assert caught.value.reason == "internal"
    answered = await infer(run, asked(run))
    assert json.loads(answered.body)["outputs"][0]["data"] == [1.0, 2.0]
    await service.shut_down()
    assert (await site.posted(), await site.pending()) == (1, 0)


async def test_a_chosen_id_is_charged_once(site: Site, service: Service) -> None:
    """Ten at a time and one later: one run, one answer."""
    run = service.run
    answers = await asyncio.gather(*(infer(run, asked(run)) for _ in range(10)))
    answers.append(await infer(run, asked(run)))
    assert len(set(answers)) == 1
    await service.shut_down()
    assert await site.posted() == 1


async def test_of_an_id_that_the_enclave_made_nothing_is_kept(site: Site, service: Service) -> None:
    """Who got no answer never saw it, and who got one needs no other: each request is a run."""
    run = service.run
    for _ in range(3):
        await infer(run, asked(run, repeatable=False))
    assert (len(run.results), run.results._accounts) == (0, {})
    await service.shut_down()
    assert await site.posted() == 3


async def test_requests_that_wait_are_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold their bodies for up to a minute, also when their clients are gone: the next is refused at once."""
    run = service.run
    monkeypatch.setattr(run.charging, "_queue", Room(2, 4, "too_many_waiting"))
    answers = await asyncio.gather(
        *(infer(run, asked(run, f"k{number}")) for number in range(4)), return_exceptions=True
    )
    refusals = [answer for answer in answers if isinstance(answer, OverloadedError)]
    assert [(refusal.reason, refusal.retry_after_s) for refusal in refusals] == [("too_many_waiting", 1)] * 2
    assert len([answer for answer in answers if isinstance(answer, Answered)]) == 2


# --- Nothing large on the loop, and nothing for nothing -----------------------------------------


def binary(run: InstanceRun, data: bytes, **members: object) -> Asked:
    """Return a request whose one input is sent in the binary form, changed by `members`."""
    form = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}} | members
    head = json.dumps({"inputs": [form]}).encode()
    return replace(asked(run, repeatable=False), body=head + data, header_length=str(len(head)))


@pytest.mark.parametrize(
    ("size", "members", "reason"),
    [
        (8, {"name": "z", "datatype": "BYTES"}, "unknown_input"),
        (8, {"datatype": "BYTES"}, "wrong_datatype"),
        (2, {"datatype": "BOOL"}, "wrong_datatype"),
        (8, {"shape": [2]}, "wrong_rank"),
        (12, {"shape": [1, 3]}, "wrong_dimension"),
    ],
)
async def test_data_that_the_model_cannot_take_is_never_walked(
    size: int, members: dict[str, object], reason: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million elements of an input that the model has not cost a comparison of names, not a second of work."""
    walked: list[str] = []
    monkeypatch.setattr(Outline, "filled", lambda outline, _: walked.append(outline.name))
    with pytest.raises(AIGovToolError) as caught:
        await infer(service.run, binary(service.run, b"\xff" * size, **members))
    assert (caught.value.reason, walked) == (reason, [])


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("as_json", [True, False])
async def test_large_bodies_and_answers_are_worked_on_beside_the_loop(
    repeatable: bool,  # noqa: FBT001 -- case
    as_json: bool,  # noqa: FBT001 -- case
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second of parsing, walking or hashing on the loop is a second without heartbeat, pushes and other consumers."""
    done: dict[str, bool] = {}

    def watch(where: Any, name: str) -> None:
        real = getattr(where, name)

        def watched(*arguments: Any) -> Any:
            done[name] = threading.current_thread() is threading.main_thread()
            return real(*arguments)

        monkeypatch.setattr(where, name, watched)

    for name in ("read_infer_claim", "check_inputs", "request_digest"):
        watch(asked_module, name)
    watch(inference, "salted_digest")
    watch(answer, "encode_infer_response")
    watch(process, "check_answer")
    for rows, small in ((1, True), (MAX_ON_LOOP_BYTES // 2, False)):
        request = asked(service.run, f"k{rows}", rows=rows) if as_json else binary(
            service.run, bytes(8 * rows), shape=[rows, 2]
        )  # fmt: skip
        await infer(service.run, replace(request, key=RequestKey(f"k{rows}"), repeatable=repeatable))
        names = {"read_infer_claim", "check_inputs", "check_answer", "request_digest", "salted_digest"}
        assert done == dict.fromkeys(names | {"encode_infer_response"}, small)
        done.clear()


async def test_the_same_large_request_is_validated_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id is taken before it is parsed: nine that come while it is being read join it."""
    claims: list[InferClaim] = []

    def noted(body: bytes, length: str | None) -> InferClaim:
        claims.append(read_infer_claim(body, length))
        return claims[-1]

    monkeypatch.setattr("aigovtool.enclave.gateway.asked.read_infer_claim", noted)
    request = asked(service.run, rows=MAX_ON_LOOP_BYTES // 8)
    answers = await asyncio.gather(*(infer(service.run, request) for _ in range(10)))
    assert (len(set(answers)), len(claims)) == (1, 1)


async def test_a_request_that_is_refused_leaves_its_id_free(service: Service) -> None:
    """It was taken before the request was read."""
    run = service.run
    with pytest.raises(AIGovToolError):
        await infer(run, replace(asked(run), body=b"{"))
    assert (len(run.results), run.results._accounts) == (0, {})
    assert isinstance(await infer(run, asked(run)), Answered)


@pytest.mark.parametrize(("room", "refused"), [(7_999, True), (8_000, False)])
async def test_what_became_of_json_takes_room_beside_its_body(
    room: int,
    refused: bool,  # noqa: FBT001 -- case
    site: Site,
    service: Service,
) -> None:
    """Two bytes of text are four of FP32 and eight of FP64, while the request waits; views of a body take nothing."""
    run = service.run
    run.bodies = Room(room, 1 << 20, "open_bodies")
    data = b'{"inputs":[{"name":"x","shape":[1000,2],"datatype":"FP32","data":[%b]}]}' % b",".join([b"0"] * 2_000)
    request = replace(asked(run), body=data)
    if refused:
        with pytest.raises(OverloadedError) as caught:
            await infer(run, request)
        assert caught.value.reason == "open_bodies"
    else:
        await infer(run, request)
    await infer(run, binary(run, bytes(8_000), shape=[1_000, 2]))
    assert run.bodies._total == 0
    await service.shut_down()
    assert await site.posted() == 1_000 + (0 if refused else 1_000)
