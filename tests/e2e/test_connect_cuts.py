"""The network is cut in the middle of a request and of an answer: asked again under the same id, and charged once.

Between consumer and enclave for the gateway and for the library; and between a program and its gateway. Bodies of a
megabyte, so that the middle is one.
"""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.e2e.gateways import Gateway, connecting
from tests.e2e.party_files import consumer_file
from tests.e2e.twins import Replaceable, replaceable
from tests.e2e.world import MODEL, wait_for

from aigovtool.consumer import Client
from aigovtool.consumer.connect.evidence_log import Event
from aigovtool.errors import AIGovToolError, DeadlineError, UnreachableError
from aigovtool.testing.fault_proxy import Direction

WIDTH = 120_000
#: Well inside of a body, whichever way it goes.
MIDDLE_BYTES = 200_000
#: Far in the past of whatever is asked: no renewal of evidence comes between.
SELDOM = ("--allow-simulated", "--verify-every", 3600)
GIVEN = np.arange(WIDTH, dtype=np.float32).reshape(1, WIDTH)


def doubler() -> bytes:
    """Return a model that doubles a row of any width, for one unit each."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubler",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "n"])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def in_json() -> bytes:
    """Return a request of more than a megabyte."""
    tensor = {"name": "x", "shape": [1, WIDTH], "datatype": "FP32", "data": GIVEN.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Replaceable]:
    """A deployment behind an address where connections can be cut."""
    with replaceable(tmp_path / "world", doubler()) as made:
        yield made


#: Asks once under an id; returns what was answered, or raises or returns what was said instead.
Ask = Callable[[str], Any]


@pytest.fixture(params=["gateway", "library"])
def ask(request: pytest.FixtureRequest, site: Replaceable, tmp_path: Path) -> Iterator[Ask]:
    """Ask once, through the gateway or with the library: the numbers, or the error."""
    credential = consumer_file(site.world)
    if request.param == "library":
        with Client.connect(site.url, credential, allow_simulated=True) as client:

            def by_library(key: str) -> Any:
                return client.infer(MODEL, GIVEN, request_id=key).outputs["y"]

            by_library("first")
            yield by_library
        return
    with connecting(tmp_path, credential, site.url, options=SELDOM) as gateway:

        def by_gateway(key: str) -> Any:
            answer = gateway.infer(in_json(), key)
            if answer.status_code == 200:
                return np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(1, WIDTH)
            told = answer.json()
            assert (answer.status_code, told["code"]) == (503, "unreachable")
            raise UnreachableError(told["detail"], reason=told["reason"], fix=told["fix"])

        by_gateway("first")
        yield by_gateway


def charged_for_good(site: Replaceable) -> int:
    """End the enclave in good order, and return what was used."""
    site.world.kill("enclave", 15)
    site.world.processes["enclave"].wait(30)
    site.world.wait_for(lambda: site.world.outstanding() == 0, "all leases are closed")
    return site.world.posted()


@pytest.mark.parametrize("direction", Direction, ids=["in the request", "in the answer"])
def test_one_cut_in_the_middle_is_not_noticed(direction: Direction, site: Replaceable, ask: Ask) -> None:
    """The same request goes out once more; an answer that was made already comes again."""
    site.proxy.cut_after(direction, MIDDLE_BYTES)
    assert np.array_equal(ask("case-1"), 2 * GIVEN)
    assert site.proxy.cut_in_stream == 1
    assert charged_for_good(site) == 2


@pytest.mark.parametrize("direction", Direction, ids=["in the request", "in the answer"])
def test_two_cuts_are_told_with_the_id_to_ask_again_under(direction: Direction, site: Replaceable, ask: Ask) -> None:
    """Typed, with the id; asked again under it there is one answer and one charge, however often it is repeated."""
    site.proxy.cut_after(direction, MIDDLE_BYTES, times=2)
    with pytest.raises(UnreachableError) as caught:
        ask("case-1")
    assert caught.value.reason in {"hung_up", "connection_lost"}
    assert "case-1" in (caught.value.fix or "")
    assert site.proxy.cut_in_stream == 2
    for _ in range(3):
        assert np.array_equal(ask("case-1"), 2 * GIVEN)
    assert charged_for_good(site) == 2


def test_silence_in_the_middle_of_an_answer_ends_with_the_time_and_is_charged_once(site: Replaceable) -> None:
    """Nothing is reset; the answer that was made is there when it is asked for again."""
    with Client.connect(site.url, consumer_file(site.world), allow_simulated=True) as client:
        client.infer(MODEL, GIVEN, request_id="first")
        site.proxy.drop(Direction.TO_CLIENT)
        with pytest.raises(DeadlineError) as caught:
            client.infer(MODEL, GIVEN, request_id="case-1", deadline_s=3)
        assert caught.value.reason == "answer_timeout"
        assert "case-1" in (caught.value.fix or "")
        assert site.proxy.dropped[Direction.TO_CLIENT] > 0
        site.proxy.heal()
        assert np.array_equal(client.infer(MODEL, GIVEN, request_id="case-1").outputs["y"], 2 * GIVEN)
    assert charged_for_good(site) == 2


def test_an_enclave_that_is_gone_for_a_while_is_told_and_nothing_is_charged(site: Replaceable, ask: Ask) -> None:
    """No connection is taken: certainly not received, so there is no id to keep."""
    site.proxy.refuse()
    site.proxy.cut()
    with pytest.raises(AIGovToolError) as caught:
        ask("case-1")
    assert caught.value.code == "unreachable"
    site.proxy.heal()
    assert np.array_equal(ask("case-1"), 2 * GIVEN)
    assert charged_for_good(site) == 2


# -- Between a program and its gateway ----------------------------------------------------------------


@pytest.fixture
def gateway(site: Replaceable, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that serves."""
    with connecting(tmp_path, consumer_file(site.world), site.url, options=SELDOM) as made:
        yield made


def program(gateway: Gateway, body: bytes, *, declared: int | None = None) -> socket.socket:
    """Connect as a program, and send a request whose body may be longer than what is sent of it."""
    port = int(gateway.url.rpartition(":")[2])
    wire = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\naigovtool-request-id: case-1\r\n"
    wire.sendall(f"{head}content-length: {declared or len(body)}\r\n\r\n".encode() + body)
    return wire


def test_a_program_that_is_cut_off_in_its_request_is_charged_nothing(site: Replaceable, gateway: Gateway) -> None:
    """The gateway passes on what is whole, and nothing else."""
    body = in_json()
    program(gateway, body[:MIDDLE_BYTES], declared=len(body)).close()
    assert gateway.infer(body, "case-1").status_code == 200
    assert [kept.signed.receipt.request_key for kept in gateway.receipts()] == ["case-1"]
    assert charged_for_good(site) == 1


def test_a_program_that_is_cut_off_in_its_answer_gets_it_again_under_its_id(
    site: Replaceable, gateway: Gateway
) -> None:
    """It was charged, and a record is kept; asked for again there is no second charge."""
    body = in_json()
    wire = program(gateway, body)
    assert wire.recv(4096).startswith(b"HTTP/1.1 200")
    wire.close()
    wait_for(lambda: len(gateway.receipts()) == 1, "the record of the answer is kept")
    again = gateway.infer(body, "case-1")
    assert again.status_code == 200
    assert {kept.signed.receipt.request_key for kept in gateway.receipts()} == {"case-1"}
    assert charged_for_good(site) == 1


def test_what_was_lost_is_in_the_log_and_what_was_mended_is_not(site: Replaceable, gateway: Gateway) -> None:
    """One cut is nobody's business; two are told, and that the enclave is verified again."""
    body = in_json()
    assert gateway.infer(body, "first").status_code == 200
    site.proxy.cut_after(Direction.TO_CLIENT, MIDDLE_BYTES)
    assert gateway.infer(body, "case-1").status_code == 200
    assert [line.event for line in gateway.told()] == [Event.VERIFIED]
    site.proxy.cut_after(Direction.TO_CLIENT, MIDDLE_BYTES, times=2)
    assert gateway.infer(body, "case-2").status_code == 503
    gateway.wait_for_event(Event.VERIFIED)
    assert [line.event for line in gateway.told()] == [Event.VERIFIED, Event.UNREACHABLE, Event.VERIFIED]
    assert "case-2" not in str(gateway.enclave())


def test_a_gateway_that_is_killed_over_a_request_is_started_again_and_charges_it_once(
    site: Replaceable, tmp_path: Path
) -> None:
    """Kill -9 while an answer that was charged is on its way: under its id it comes from the next gateway."""
    credential, body = consumer_file(site.world), in_json()
    with connecting(tmp_path, credential, site.url, options=SELDOM) as gateway:
        assert gateway.infer(body, "first").status_code == 200
        site.proxy.drop(Direction.TO_CLIENT)
        with program(gateway, body):
            wait_for(lambda: site.proxy.dropped[Direction.TO_CLIENT] > MIDDLE_BYTES, "an answer is on its way")
            gateway.process.kill()
            gateway.process.wait(20)
        site.proxy.heal()
    with connecting(tmp_path, credential, site.url, options=SELDOM) as gateway:
        assert gateway.infer(body, "case-1").status_code == 200
        assert [kept.signed.receipt.request_key for kept in gateway.receipts()] == ["first", "case-1"]
    assert charged_for_good(site) == 2
