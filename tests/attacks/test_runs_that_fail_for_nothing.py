"""A consumer learns a model by whether it fails, which is charged nothing: it does so slowly."""

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.attacks.deployments import Consumer, Deployment, deployed
from tests.e2e.world import Answer, Connection, wait_for
from tests.observations import Observed

from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.limits import FAILED_RUN_MS, MAX_FAILED_RUNS

pytestmark = pytest.mark.attack(30)

UNITS = 1_000
#: The weight that is to be found: of a larger number than it the model has no row.
SECRET = 700


def model() -> bytes:
    """Return a model that looks `index` up in a table: how long that is follows from the weights."""
    table = numpy_helper.from_array(np.arange(SECRET, dtype=np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        "looked-up",
        [helper.make_tensor_value_info("index", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [table],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment of that model."""
    with deployed(
        tmp_path_factory.mktemp("looked-up") / "world", model=model(), policy=default_policy(Dial.BALANCED)
    ) as made:
        yield made


@pytest.fixture
def prober(world: Deployment) -> tuple[Consumer, Connection]:
    return world.new_consumer(UNITS)


def look_up(connection: Connection, index: int) -> Answer:
    tensor = {"name": "index", "shape": [1], "datatype": "INT64", "data": [index]}
    return connection.infer(json.dumps({"inputs": [tensor]}).encode())


def killed(world: Deployment) -> None:
    """End the engine, and wait until the enclave serves with another."""
    before = world.instance()
    world.kill_engine()
    wait_for(lambda: world.instance() != before and world.enclave_ready(), "it has booted anew")


def test_who_has_runs_fail_without_end_is_refused_before_they_run(
    world: Deployment, prober: tuple[Consumer, Connection], observed: Observed
) -> None:
    """Some tell something, and then one a second does; meanwhile right inputs are refused, too, and others are not."""
    consumer, connection = prober
    began = time.monotonic()
    told: list[str] = []
    while (answer := look_up(connection, SECRET + len(told))).json().get("reason") != "too_many_failed":
        told.append(answer.json()["reason"])
        assert len(told) < 10 * MAX_FAILED_RUNS
    passed_s = time.monotonic() - began
    refused = answer.json()
    observed.refusal(refused)
    assert len(set(told)) == 1
    assert len(told) <= MAX_FAILED_RUNS + passed_s * 1_000 / FAILED_RUN_MS
    assert (answer.status, refused["code"], answer.headers["retry-after"]) == (429, "overloaded", "1")
    assert look_up(connection, 0).status == 429
    _, other = world.new_consumer(UNITS)
    assert look_up(other, 0).json()["outputs"][0]["data"] == [0.0]
    time.sleep(int(answer.headers["retry-after"]))
    assert look_up(connection, SECRET - 1).json()["outputs"][0]["data"] == [SECRET - 1.0]
    assert world.charged_to(consumer) <= UNITS


def test_an_engine_that_ends_meanwhile_does_not_make_it_forgotten(
    world: Deployment, prober: tuple[Consumer, Connection]
) -> None:
    """Whoever can end it would have all those failures again after each boot: it has what the time makes up for."""
    consumer, connection = prober
    began, told = time.monotonic(), 0
    for boot in range(3):
        if boot:
            killed(world)
            connection = consumer.connect()
        while look_up(connection, SECRET).json()["reason"] != "too_many_failed":
            told += 1
            assert told <= MAX_FAILED_RUNS + 1 + (time.monotonic() - began) * 1_000 / FAILED_RUN_MS
    assert told >= MAX_FAILED_RUNS
    assert world.charged_to(consumer) <= UNITS


def test_who_has_odd_inputs_now_and_then_notices_nothing(prober: tuple[Consumer, Connection]) -> None:
    """One bad one among two good ones, as fast as they are answered: each gets what it asked for."""
    _, connection = prober
    for number in range(MAX_FAILED_RUNS // 2):
        assert look_up(connection, number).status == 200
        assert look_up(connection, number).status == 200
        assert look_up(connection, SECRET).json()["reason"] != "too_many_failed"
