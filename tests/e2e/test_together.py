"""Many requests at once, over TLS: each has its own answer, whether or not they are computed as one."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from tests.e2e.world import BORROWER, MODEL, Answer, Connection, MakeWorld, World

from aigovtool.codec import decode
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.receipt import Batch, SignedReceipt
from aigovtool.protocol import commands

CLIENTS, TURNS = 12, 25
#: What a kernel rounds may depend on the number of rows that it is given: eight units in the last place.
TOLERANCE = 8 * float(np.finfo(np.float32).eps)

Images = NDArray[np.float32]


def question(image: Images) -> tuple[bytes, dict[str, str]]:
    """Return one image in the binary form, and the fields that go with it."""
    tensor = {"name": "X", "shape": [1, 64], "datatype": "FP32", "parameters": {"binary_data_size": image.nbytes}}
    head = json.dumps({"inputs": [tensor]}).encode()
    fields = {"content_type": "application/octet-stream", "inference_header_content_length": str(len(head))}
    return head + image.tobytes(), fields


def probabilities(answer: Answer) -> list[float]:
    """Return those of an answer in JSON."""
    assert answer.status == 200, answer.body
    outputs = {each["name"]: each["data"] for each in answer.json()["outputs"]}
    return list(outputs["probabilities"])


def together(answer: Answer) -> int:
    """Return how many receipts the signature of an answer covers."""
    signed = decode(base64.b64decode(answer.headers["aigovtool-receipt"]), SignedReceipt)
    return decode(signed.batch.payload, Batch).size


def ask(connection: Connection, images: Images) -> list[Answer]:
    """Ask for each image, one after the other."""
    answers = []
    for image in images:
        body, fields = question(image)
        answers.append(connection.infer(body, **fields))
    return answers


@pytest.fixture(params=[False, True], ids=["one by one", "as one"])
def world(request: pytest.FixtureRequest, make_world: MakeWorld) -> World:
    """A deployment whose model is computed request by request, or together."""
    made = make_world(budget=100_000)
    if request.param:
        policy = msgspec.structs.replace(default_policy(Dial.BALANCED, version=2), inputs=InputTerms(batch=True))
        made.command(commands.SetModelTerms(model=MODEL, policy=policy, borrowers=[BORROWER]))
    return made


def test_each_of_many_requests_at_once_has_its_own_answer(world: World, digits_model: bytes) -> None:
    """Twelve clients, twenty-five requests each, all of them different: what the model says alone in a process."""
    images = np.random.default_rng(7).random((CLIENTS, TURNS, 64), np.float32)
    connections = [world.connect() for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, connections, images))
    session = onnxruntime.InferenceSession(digits_model, providers=["CPUExecutionProvider"])
    for mine, given in zip(images, answers, strict=True):
        for image, answer in zip(mine, given, strict=True):
            _, expected = session.run(None, {"X": image.reshape(1, 64)})
            assert np.abs(np.asarray(probabilities(answer)) - np.asarray(expected).reshape(-1)).max() <= TOLERANCE
    assert max(together(answer) for given in answers for answer in given) > 1
    world.kill("enclave", 15)
    world.processes["enclave"].wait(60)
    assert world.charged() == CLIENTS * TURNS
