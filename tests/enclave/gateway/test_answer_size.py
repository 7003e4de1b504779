"""Answers that are too large to be sent: told before the run where the model's shapes tell, and else the run's failure.

The model repeats one number: `fixed`, as its shape says, to what no answer can hold, and `chosen` as often as it is
told in a tensor, of which its shapes say nothing.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL
from tests.enclave.site import Service, Site, asked, open_site, served

from aigovtool.enclave.engines.interface import ModelInterface
from aigovtool.enclave.gateway.answer_size import require_sendable
from aigovtool.enclave.gateway.asked import Asked
from aigovtool.enclave.gateway.inference import infer
from aigovtool.errors import EngineError, InvalidValueError, OverloadedError, TooLargeError
from aigovtool.ids import ModelId
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.limits import MAX_FAILED_RUNS, MAX_INFER_BODY_BYTES
from aigovtool.package.manifest import Datatype, TensorSpec
from aigovtool.protocol.oip import InferRequest, RequestedOutput, encode_infer_response
from aigovtool.protocol.tensor import Datatype as WireDatatype
from aigovtool.protocol.tensor import Outline, Tensor

#: So many numbers are allowed by themselves, and leave no room for any head.
TOO_MANY = MAX_INFER_BODY_BYTES // 4 - 2


def repeating() -> bytes:
    """Return the model."""
    numbers = numpy_helper.from_array
    constants = [numbers(np.array([7], np.float32), "seven"), numbers(np.array([TOO_MANY], np.int64), "many")]
    nodes = [
        helper.make_node("Expand", ["seven", "many"], ["fixed"]),
        helper.make_node("Expand", ["seven", "n"], ["chosen"]),
    ]
    outputs = [
        helper.make_tensor_value_info("fixed", TensorProto.FLOAT, [TOO_MANY]),
        helper.make_tensor_value_info("chosen", TensorProto.FLOAT, ["any"]),
    ]
    graph = helper.make_graph(
        nodes, "repeating", [helper.make_tensor_value_info("n", TensorProto.INT64, [1])], outputs, constants
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """That model, lent with a budget of a thousand."""
    async with open_site(tmp_path, graph=repeating(), policy=default_policy(Dial.BALANCED)) as made:
        await made.bench.add_consumer(CONSUMER, BORROWER)
        await made.bench.grant(1_000)
        yield made


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    """An instance that serves it."""
    async with served(site) as made:
        yield made


def request(service: Service, count: int, *outputs: str) -> Asked:
    """Return a request for so many numbers of `chosen`, which gets these outputs."""
    tensor = {"name": "n", "shape": [1], "datatype": "INT64", "data": [count]}
    body = {"inputs": [tensor], "outputs": [{"name": name} for name in outputs]}
    return replace(asked(service.run, repeatable=False), body=json.dumps(body).encode())


async def test_an_answer_that_is_too_large_by_the_models_shapes_is_refused_before_it_is_run(
    site: Site, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no run that failed, however often it is asked for; what is not too large is served as before."""

    async def run(*_: object, **__: object) -> None:
        pytest.fail("it was run")

    with monkeypatch.context() as changed:
        changed.setattr(service.run.instance.engine, "run", run)
        for _ in range(MAX_FAILED_RUNS + 1):
            with pytest.raises(InvalidValueError) as caught:
                await infer(service.run, request(service, 1, "fixed"))
            assert (caught.value.reason, caught.value.status) == ("answer_too_large", 422)
        with pytest.raises(InvalidValueError) as caught:
            await infer(service.run, request(service, 1))  # all outputs
        assert caught.value.reason == "answer_too_large"
    answered = await infer(service.run, request(service, 3, "chosen"))
    assert json.loads(answered.body)["outputs"][0]["data"] == [7, 7, 7]
    await service.shut_down()
    assert await site.posted() == 1


async def test_an_answer_that_turns_out_too_large_is_a_run_that_failed(site: Site, service: Service) -> None:
    """By its head or by its data: uncharged, told without its size, and counted."""
    for _ in range(MAX_FAILED_RUNS - 2):
        service.run.failed_runs.note(CONSUMER, MODEL, EngineError("", reason="run_failed"), now_ms(service))
    for count in (TOO_MANY, MAX_INFER_BODY_BYTES // 4 + 1):
        with pytest.raises(InvalidValueError) as caught:
            await infer(service.run, request(service, count, "chosen"))
        assert (caught.value.reason, caught.value.status) == ("answer_too_large", 422)
        assert str(count) not in caught.value.message
    with pytest.raises(OverloadedError) as refused:
        await infer(service.run, request(service, 1, "chosen"))
    assert refused.value.reason == "too_many_failed"
    await service.shut_down()
    assert await site.posted() == 0


def now_ms(service: Service) -> int:
    return service.run.failed_runs.clock.now_ms()


# --- What is refused is what cannot be sent ------------------------------------------------------


def sendable(outline: Outline, *, axis: str | None = None) -> bool:
    """Return whether a request is taken by a model that says of its output what `outline` does.

    With `axis`, its last dimension is said to be that of its input only.
    """
    last = () if axis is None else (axis,)
    output = TensorSpec(
        name=outline.name,
        datatype=Datatype(outline.datatype.value),
        shape=(*outline.shape[: len(outline.shape) - len(last)], *last),
    )
    given = TensorSpec(name="x", datatype=Datatype.UINT8, shape=("n",))
    x = Outline("x", WireDatatype.UINT8, (outline.shape[-1],))
    try:
        require_sendable(ModelId("xray"), ModelInterface((given,), (output,)), [x], [], "an id")
    except InvalidValueError as error:
        assert error.reason == "answer_too_large"
        return False
    return True


def is_sent(outline: Outline) -> bool:
    """Return whether such an answer can be written, in the form in which it is shorter."""
    tensor = Tensor(
        outline.name, outline.datatype, outline.shape, bytes(outline.elements * outline.datatype.size_bytes)
    )
    asked_for = InferRequest((), (RequestedOutput(outline.name, binary=True),), "an id", binary_data_output=True)
    try:
        encode_infer_response("xray", None, [tensor], asked_for)
    except TooLargeError:
        return False
    return True


@pytest.mark.parametrize("datatype", [WireDatatype.UINT8, WireDatatype.FP64])
def test_the_bound_is_that_of_what_is_written(datatype: WireDatatype) -> None:
    """The largest answer that can be written is taken, and the next larger one refused; by a named axis, too."""
    size = datatype.size_bytes
    least, most = (MAX_INFER_BODY_BYTES - 1_000) // size, MAX_INFER_BODY_BYTES // size + 1
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if is_sent(Outline("y", datatype, (1, middle))) else (least, middle)
    for axis in (None, "n"):
        assert sendable(Outline("y", datatype, (1, least)), axis=axis)
        assert not sendable(Outline("y", datatype, (1, most)), axis=axis)
    assert sendable(Outline("y", datatype, (1, most)), axis="another")  # of which nothing is known


def test_texts_are_as_long_as_their_lengths_at_least() -> None:
    """What is in them nobody knows before the run."""
    assert sendable(Outline("y", WireDatatype.BYTES, ((MAX_INFER_BODY_BYTES >> 2) - 100,)))
    assert not sendable(Outline("y", WireDatatype.BYTES, ((MAX_INFER_BODY_BYTES >> 2) + 1,)))
