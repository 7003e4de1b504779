"""What programs get from the gateway: answers of verified enclaves as they came, and refusals in words."""

import json

import msgspec
import pytest
from starlette.responses import Response
from tests.consumer.conftest import DOUBLER, MANIFEST, MODEL, FakeEnclave, World
from tests.consumer.connect.kit import PATH, connected, in_binary, in_json, reason_of

from aigovtool.consumer.connect.kept_receipts import find_receipt
from aigovtool.consumer.receipts import body_digest, verify_saved_receipt
from aigovtool.consumer.wiring import verifiers_for
from aigovtool.errors import BudgetExhaustedError, InvalidValueError, StoppedError
from aigovtool.ids import RequestKey
from aigovtool.protocol.session import RECEIPT_HEADER, REQUEST_ID_HEADER, WARNING_HEADER

HEADER_LENGTH = "inference-header-content-length"


# -- Answers ------------------------------------------------------------------------------------------


async def test_an_answer_in_json_is_that_of_the_enclave(world: World, enclave: FakeEnclave) -> None:
    """Its bytes, and nothing added but what the receipt and the evidence say."""
    async with connected(world, enclave) as asking:
        answer = await asking.infer()
    assert answer.status_code == 200
    (kept,) = enclave.kept.values()
    assert answer.content == bytes(kept.body)
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs == {"y": [2.0, 4.0], "n": [1]}
    assert answer.headers[REQUEST_ID_HEADER] == enclave.charged[0]
    assert RECEIPT_HEADER in answer.headers
    assert answer.headers[WARNING_HEADER].startswith("SIMULATED TEE")


async def test_binary_tensors_pass_both_ways(world: World, enclave: FakeEnclave) -> None:
    """The JSON part, its length and the bytes behind it."""
    body, fields = in_binary()
    async with connected(world, enclave) as asking:
        answer = await asking.program.post(PATH, content=body, headers=fields)
    length = int(answer.headers[HEADER_LENGTH])
    assert json.loads(answer.content[:length])["model_name"] == MODEL
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=utf-8", "application/x-www-form-urlencoded"])
async def test_a_program_may_say_what_it_likes_of_its_json(kind: str, world: World, enclave: FakeEnclave) -> None:
    """What `curl -d` and many a client say is not what it is."""
    async with connected(world, enclave) as asking:
        assert (await asking.infer(content_type=kind)).status_code == 200


@pytest.mark.parametrize("path", ["", "/versions/1"])
async def test_models_are_described_as_everywhere(path: str, world: World, enclave: FakeEnclave) -> None:
    """With and without the version; health and index as clients ask for them."""
    async with connected(world, enclave) as asking:
        found = (await asking.program.get(f"/v2/models/{MODEL}{path}")).json()
        ready = (await asking.program.get(f"/v2/models/{MODEL}{path}/ready")).json()
        index = (await asking.program.post("/v2/repository/index", content=b"{}")).json()
        health = [(await asking.program.get(f"/v2/health/{name}")).json() for name in ("live", "ready")]
        server = (await asking.program.get("/v2")).json()
    assert [one["name"] for one in found["inputs"]] == [one.name for one in DOUBLER.inputs]
    assert ready == {"name": MODEL, "ready": True}
    assert index == [{"name": MODEL, "version": "1", "state": "READY", "reason": ""}]
    assert health == [{"live": True}, {"ready": True}]
    assert "binary_tensor_data" in server["extensions"]


async def test_another_version_is_not_there(world: World, enclave: FakeEnclave) -> None:
    """There is one."""
    async with connected(world, enclave) as asking:
        assert (await asking.program.get(f"/v2/models/{MODEL}/versions/2")).status_code == 422


# -- Request ids and receipts -------------------------------------------------------------------------


async def test_a_request_with_a_name_is_charged_once(world: World, enclave: FakeEnclave) -> None:
    """A program that repeats what it asked, under the id that it chose, gets the same answer again."""
    async with connected(world, enclave) as asking:
        answers = [await asking.infer(aigovtool_request_id="case-1") for _ in range(3)]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert enclave.charged == ["case-1"]


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "\u00e9".encode().decode("latin-1")])
async def test_a_bad_name_is_refused_here(name: str, world: World, enclave: FakeEnclave) -> None:
    """Before anything is sent."""
    async with connected(world, enclave) as asking:
        answer = await asking.program.post(
            PATH, content=in_json(), headers=[(b"aigovtool-request-id", name.encode("latin-1"))]
        )
    assert answer.status_code in {400, 422}
    assert enclave.charged == []


async def test_the_receipt_of_each_answer_is_kept(world: World, enclave: FakeEnclave) -> None:
    """It can be checked without anybody's help, and with the two bodies."""
    body = in_json()
    async with connected(world, enclave) as asking:
        answer = await asking.infer(body, aigovtool_request_id="case-1")
        assert (await asking.status())["receipts_kept"] == 1
    saved = find_receipt(world.directory / "home" / "receipts", RequestKey("case-1"))
    verdict = verify_saved_receipt(
        saved,
        root=world.root.public,
        policy=world.policy,
        verifiers=verifiers_for(world.policy, allow_simulated=True),
        allow_simulated=True,
        request_body=body,
        response_body=answer.content,
    )
    assert verdict.receipt.manifest == MANIFEST
    assert verdict.bodies_checked == ("request", "response")
    assert saved.request == body_digest(saved.salt, "request", body)


@pytest.mark.parametrize("forged", ["response", "request", "manifest", "consumer", "request_key"])
async def test_an_answer_whose_receipt_does_not_fit_reaches_nobody(
    forged: str, world: World, enclave: FakeEnclave
) -> None:
    """Attack: an answer with a receipt for something else, as far as the wire can tell a good one."""
    other = {"consumer": "somebody", "request_key": "another"}.get(forged, "sha256:" + "0" * 64)
    enclave.forge_receipt = lambda receipt: msgspec.structs.replace(receipt, **{forged: other})
    async with connected(world, enclave) as asking:
        answer = await asking.infer()
        kept = (await asking.status())["receipts_kept"]
    assert answer.status_code >= 400
    assert reason_of(answer) == forged
    assert b"outputs" not in answer.content
    assert kept == 0


async def test_an_answer_without_a_receipt_reaches_nobody(world: World, enclave: FakeEnclave) -> None:
    """Attack: the receipt is taken off."""

    def bare(response: Response) -> Response:
        del response.headers[RECEIPT_HEADER]
        return response

    enclave.forge_answer = bare
    async with connected(world, enclave) as asking:
        answer = await asking.infer()
    assert (answer.status_code >= 400, reason_of(answer)) == (True, "missing")


async def test_a_receipt_that_cannot_be_kept_holds_no_answer_back(world: World, enclave: FakeEnclave) -> None:
    """It was charged: who asked gets it, and the status says that a record is missing."""
    async with connected(world, enclave) as asking:
        receipts = world.directory / "home" / "receipts"
        (receipts / "sessions").rmdir()
        assert (await asking.infer()).status_code == 200
        status = await asking.status()
    assert (status["receipts_kept"], status["receipts_lost"]) == (0, 1)


# -- Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoppedError("stopped", reason="model_stopped"), 423),
        (BudgetExhaustedError("nothing left", reason="exhausted", fix="ask for more"), 402),
        (InvalidValueError("not such a shape", reason="wrong_rank"), 422),
    ],
)
async def test_a_refusal_of_the_enclave_is_told_as_it_was_meant(
    error: object, status: int, world: World, enclave: FakeEnclave
) -> None:
    """With its status, its reason, and in the field that clients of the protocol show."""
    enclave.refusals = [error]  # type: ignore[list-item]
    async with connected(world, enclave) as asking:
        answer = await asking.infer()
        again = await asking.infer()
    assert (answer.status_code, reason_of(answer)) == (status, error.reason)  # type: ignore[attr-defined]
    assert again.status_code == 200


async def test_a_model_that_nobody_serves_is_not_asked_for_again_and_again(world: World, enclave: FakeEnclave) -> None:
    """Attack: each such question would cost the enclave a quote."""
    async with connected(world, enclave) as asking:
        answers = [await asking.program.get("/v2/models/another") for _ in range(5)]
    assert [(answer.status_code, reason_of(answer)) for answer in answers] == [(404, "no_such_model")] * 5
    assert len(enclave.challenges) <= 2


async def test_what_is_not_of_the_protocol_is_not_there(world: World, enclave: FakeEnclave) -> None:
    """The gateway passes nothing on that it does not know."""
    async with connected(world, enclave) as asking:
        found = [
            (await asking.program.request(method, path)).status_code
            for method, path in [
                ("GET", "/.well-known/aigovtool/attestation"),
                ("POST", "/v2/models/doubler"),
                ("DELETE", PATH),
                ("GET", "/v2/models/doubler?x=1"),
                ("GET", "/v2/models/..%2f..%2fv1"),
            ]
        ]
    assert found == [404, 405, 405, 422, 400]
    assert enclave.charged == []
