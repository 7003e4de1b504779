"""Who may ask an enclave in sealed requests, of which clients, and what those are told who do not seal.

A certificate and a signature within a request stand for what a TLS handshake proves.
"""

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from tests.attacks.balancer import Balancer, Passed, balancing
from tests.attacks.deployments import Consumer, Deployment
from tests.attacks.sealing import Sender, file_of, now_ms, place_of
from tests.e2e.commandline import aigovtool
from tests.e2e.world import BORROWER, MODEL

from aigovtool.consumer import AsyncClient, Client
from aigovtool.consumer.clock import SYSTEM_CLOCK
from aigovtool.consumer.connect.app import ConnectOptions, gateway
from aigovtool.crypto.frames import FRAME_BYTES
from aigovtool.crypto.sign import SigningKey
from aigovtool.errors import AIGovToolError, BudgetExhaustedError, StoppedError
from aigovtool.ids import BorrowerId
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol import commands, sealed

#: A prompt that is found again wherever it goes.
PROMPT = np.random.default_rng(11).standard_normal((1, 64)).astype(np.float32)
NAME = "canary-of-a-sealed-request"


# -- Who asks -------------------------------------------------------------------------------------


@pytest.fixture
def sender(world: Deployment, consumer: Consumer) -> Sender:
    """The consumer, who seals by hand."""
    return Sender(world.enclave_port, consumer.certificate, consumer.key, name=consumer.name)


def reason_of(answer: tuple[int, bytes]) -> tuple[int, str | None]:
    """Return status and reason of a refusal."""
    status, body = answer
    return status, json.loads(body).get("reason")


def test_whoever_may_not_ask_over_a_connection_may_not_ask_sealed(world: Deployment, sender: Sender) -> None:
    """Certificates of others, of other roles and of other borrowers; keys that are not the certificate's."""
    instance, key = place_of(sender)
    strange = SigningKey.generate()
    elsewhere = world.add_consumer(f"elsewhere{world.consumers}", borrower=BORROWER)
    world.add_borrower(BorrowerId(f"clinic{world.consumers}"))
    foreign = world.add_consumer(f"foreign{world.consumers}", borrower=BorrowerId(f"clinic{world.consumers}"))
    operator = Sender(sender.port, world.operator.certificate, world.operator_key)
    callers = {
        "itself": (sender, (200, None)),
        "another of its borrower": (replace(sender, certificate=elsewhere.certificate, key=elsewhere.key), (200, None)),
        "a key that is not the certificate's": (replace(sender, key=strange), (403, "wrong_key")),
        "another's certificate": (replace(sender, certificate=elsewhere.certificate), (403, "wrong_key")),
        "an operator": (operator, (403, "wrong_role")),
        "a consumer elsewhere": (
            replace(sender, certificate=foreign.certificate, key=foreign.key),
            (403, "foreign_consumer"),
        ),
        "a clock that is slow": (replace(sender, late_ms=sealed.MAX_AGE_MS + 5_000), (401, "sealed_at_another_time")),
        "a clock that is fast": (replace(sender, late_ms=-sealed.MAX_AGE_MS - 5_000), (401, "sealed_at_another_time")),
    }
    found = {who: reason_of(one.ask(instance, key, "/v2")) for who, (one, _) in callers.items()}
    assert found == {who: expected for who, (_, expected) in callers.items()}
    evidence = {}
    for who, (one, _) in callers.items():
        answer = one.evidence()
        evidence[who] = answer.status if answer.status == 200 else reason_of((answer.status, answer.body))
    assert {who for who, told in evidence.items() if told == 200} == {"itself"}, "a challenge says its own name"


def test_a_revoked_consumer_is_refused_sealed_as_well(world: Deployment, consumer: Consumer, sender: Sender) -> None:
    """The stop reaches the enclave, and both ways end; a sealed client gets the type of the refusal."""
    with (
        balancing(world.enclave_port) as balancer,
        Client.connect(balancer.url, file_of(consumer), sealed=True, allow_simulated=True) as client,
    ):
        client.infer(MODEL, PROMPT)
        world.command(commands.Stop(target=StopTarget.CONSUMER, value=consumer.name, reason="test"))

        def stopped() -> bool:
            try:
                client.infer(MODEL, PROMPT)
            except StoppedError:
                return True
            return False

        world.wait_for(stopped, "the stop is told to a sealed consumer")
    assert sender.evidence().status == 423


def test_a_budget_holds_whichever_way_is_used(world: Deployment, balancer: Balancer) -> None:
    """Units are of a consumer, not of a connection."""
    consumer, _ = world.new_consumer(3)
    file = file_of(consumer)
    direct = f"https://127.0.0.1:{world.enclave_port}"
    with (
        Client.connect(direct, file, allow_simulated=True) as pinned,
        Client.connect(balancer.url, file, sealed=True, allow_simulated=True) as through,
    ):
        for client in (through, pinned, through):
            client.infer(MODEL, PROMPT, wait=True, deadline_s=30)

        def used_up() -> bool:
            try:
                through.infer(MODEL, PROMPT)
            except BudgetExhaustedError:
                return True
            except AIGovToolError as error:
                assert error.code == "budget_reserved"
            return False

        world.wait_for(used_up, "the budget is used up")
    assert world.charged_to(consumer) == 3


@pytest.mark.parametrize("path", [sealed.SEALED_PATH, sealed.SEALED_EVIDENCE_PATH, "/v2/models/none", "/nothing"])
def test_a_sealed_request_reaches_only_what_a_consumer_has(path: str, sender: Sender) -> None:
    """No sealed request within a sealed request, and no route that there is not."""
    instance, key = place_of(sender)
    status, reason = reason_of(sender.ask(instance, key, path, b"{}"))
    assert (status, reason) in {(404, "no_route"), (404, "no_such_model"), (405, "method_not_allowed"), (400, None)}


@pytest.mark.parametrize(
    ("more", "status", "reason"),
    [
        ({"body_bytes": 7}, 400, "sealed_length"),
        ({"body_bytes": 1}, 400, "sealed_length"),
        ({"instance": "0" * 64}, 409, "sealed_for_another"),
    ],
)
def test_what_a_head_says_holds(more: dict[str, Any], status: int, reason: str, sender: Sender) -> None:
    """A body of the announced length, and the instance that it is for."""
    instance, key = place_of(sender)
    sender.more = more
    answer = sender.ask(instance, key, f"/v2/models/{MODEL}/infer", b"{ }", content_type="application/json")
    assert reason_of(answer) == (status, reason)


@pytest.mark.parametrize("size_bytes", [1, FRAME_BYTES - 1])
def test_a_body_in_small_frames_is_refused_at_the_first(size_bytes: int, sender: Sender) -> None:
    """One of 64 MiB in frames of a byte took the enclave ten seconds, in which it did little else."""
    instance, key = place_of(sender)
    sender.frame_bytes = size_bytes
    body = bytes(2 * FRAME_BYTES if size_bytes > 1 else 8)
    answer = sender.ask(instance, key, f"/v2/models/{MODEL}/infer", body, content_type="application/json")
    assert reason_of(answer) == (400, "frame_size")
    sender.frame_bytes = FRAME_BYTES
    answer = sender.ask(
        instance, key, f"/v2/models/{MODEL}/infer", bytes(2 * FRAME_BYTES), content_type="application/json"
    )
    assert reason_of(answer) == (400, "not_json")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\x00\x10",
        b"\x00\x10" + bytes(16),
        b"\xff\xff" + bytes(70_000),
        bytes(70_000),
        b"\x00\x40" + bytes(64),
    ],
)
def test_what_is_no_sealed_request_is_refused_in_the_clear(body: bytes, sender: Sender) -> None:
    """Bounded and typed, whatever the bytes are."""
    answer = sender.posted(sealed.SEALED_PATH, body)
    assert reason_of((answer.status, answer.body))[1] in {"no_sealed_head", "unknown_body_key"}
    assert answer.status in {400, 409}


def test_an_enclave_that_was_started_anew_is_attested_anew(world: Deployment, balancer: Balancer) -> None:
    """What may have reached the old one is not sent to the new one, unless that was accepted; the next request is."""
    consumer, _ = world.new_consumer(50)
    with Client.connect(balancer.url, file_of(consumer), sealed=True, allow_simulated=True) as client:
        client.infer(MODEL, PROMPT)
        before = client.instance
        world.end("enclave")
        world.start_enclave()
        with pytest.raises(AIGovToolError) as caught:
            client.infer(MODEL, PROMPT)
        assert caught.value.reason == "retry_may_charge"
        client.infer(MODEL, PROMPT)
        assert client.instance != before


# -- Other clients, and who does not seal ---------------------------------------------------------


async def test_an_asynchronous_client_seals_as_well(balancer: Balancer, consumer: Consumer) -> None:
    """Several requests at once, over the same connections to the balancer."""
    async with AsyncClient.connect(balancer.url, file_of(consumer), sealed=True, allow_simulated=True) as client:
        results = await asyncio.gather(*(client.infer(MODEL, PROMPT) for _ in range(8)))
    assert len({result.request_id for result in results}) == 8
    assert {tuple(result.outputs["label"]) for result in results} == {tuple(results[0].outputs["label"])}


def test_the_command_line_seals_as_well(world: Deployment, balancer: Balancer, consumer: Consumer) -> None:
    """And says what to do where it was not told to."""
    prompt, file = world.directory / "prompt.npy", file_of(consumer)
    np.save(prompt, PROMPT)
    words = ("--enclave", balancer.url, "--credential", file, "--input", prompt, "--allow-simulated", "--json")
    answer = json.loads(aigovtool("infer", MODEL, *words, "--sealed").stdout)
    assert answer["model"] == MODEL
    failure = json.loads(aigovtool("infer", MODEL, *words, code=4).stdout)["error"]
    assert "--sealed" in failure["fix"]


async def test_a_gateway_seals_what_its_programs_ask(world: Deployment, balancer: Balancer, consumer: Consumer) -> None:
    """Programs know nothing of it, and the balancer nothing of them."""
    options = ConnectOptions(
        enclaves=[balancer.url],
        credential_file=file_of(consumer),
        home=world.directory / f"home-{consumer.name}",
        port=0,
        allow_simulated=True,
        sealed=True,
    )
    body = json.dumps(
        {"inputs": [{"name": "X", "shape": [1, 64], "datatype": "FP32", "data": PROMPT[0].tolist()}]}
    ).encode()
    async with gateway(options) as running, httpx.AsyncClient(base_url=running.url, trust_env=False) as program:
        answer = await program.post(f"/v2/models/{MODEL}/infer", content=body, headers={"aigovtool-request-id": NAME})
        (shown,) = (await program.get("/aigovtool/status")).json()["enclaves"]
    assert answer.status_code == 200
    assert answer.json()["outputs"]
    assert (shown["state"], shown["sealed"]) == ("verified", True)
    read = balancer.everything()
    assert body[40:90] not in read
    assert NAME.encode() not in read


@pytest.mark.parametrize("answered", ["by the balancer", "by the enclave"])
def test_who_does_not_seal_is_told_that_somebody_may_end_tls(
    answered: str, balancer: Balancer, consumer: Consumer
) -> None:
    """Whether the balancer answers itself, or the enclave finds no certificate."""
    if answered == "by the balancer":
        balancer.rule = lambda _: Passed(404, b"<html>", {"content-type": "text/html"})
    with pytest.raises(AIGovToolError) as caught:
        Client.connect(balancer.url, file_of(consumer), allow_simulated=True)
    assert "sealed=True" in (caught.value.fix or "")


@pytest.mark.parametrize("wrong_ms", [-600_000, 600_000])
def test_whose_clock_is_wrong_is_told_so(wrong_ms: int, balancer: Balancer, consumer: Consumer) -> None:
    """In words of its own: advice of who has proven nothing is not passed on."""
    clock = replace(SYSTEM_CLOCK, now_ms=lambda: now_ms() + wrong_ms)
    with pytest.raises(AIGovToolError) as caught:
        Client.connect(balancer.url, file_of(consumer), sealed=True, allow_simulated=True, clock=clock)
    assert caught.value.reason == "sealed_at_another_time"
    assert (caught.value.fix or "").startswith("set the clock of this machine, by which it is 20")


@pytest.mark.parametrize("status", [404, 502, 503])
def test_a_balancer_that_has_no_enclave_is_named(status: int, balancer: Balancer, consumer: Consumer) -> None:
    """Its page is not taken for the enclave's word."""
    balancer.rule = lambda _: Passed(status, b"<html>", {"content-type": "text/html"})
    with pytest.raises(AIGovToolError) as caught:
        Client.connect(balancer.url, file_of(consumer), sealed=True, allow_simulated=True)
    assert (caught.value.code, caught.value.reason) == ("unreachable", "answered_between")
    assert str(status) in caught.value.message
