"""A deployment that lends the classifier of digits, and what is asked of it on the wire in both forms."""

import json
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
from sklearn.datasets import load_digits
from tests.attacks.deployments import Consumer, Deployment, deployed
from tests.e2e.model import digits_model
from tests.e2e.world import BORROWER, MODEL, Answer, Connection

from aigovtool.ledger.answers import AnswerTerms
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol import commands
from aigovtool.testing.fault_proxy import FaultProxy, fault_proxy

TTL_MS = 3_000
PATH = f"/v2/models/{MODEL}"
_OUTPUTS = {"label": "<i8", "probabilities": "<f4"}

Images = npt.NDArray[np.float32]
Found = dict[str, npt.NDArray[Any]]


def images(rows: int, seed: int) -> Images:
    """Return digits that nobody else asks for."""
    known = load_digits(return_X_y=True)[0].astype(np.float32) / 16
    chosen = np.random.default_rng(seed).integers(0, len(known), rows)
    return cast("Images", known[chosen])


def whole(given: Images) -> Found:
    """Return all that the model gives: what an attacker with the model itself would see."""
    session = onnxruntime.InferenceSession(digits_model(), providers=["CPUExecutionProvider"])
    return dict(zip(_OUTPUTS, session.run(list(_OUTPUTS), {"X": given}), strict=True))


def request(given: Images, *outputs: str, binary: bool, identifier: str | None = None) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers that ask for these outputs, or for all."""
    tensor: dict[str, Any] = {"name": "X", "shape": list(given.shape), "datatype": "FP32"}
    message: dict[str, Any] = {"inputs": [tensor]}
    if identifier is not None:
        message["id"] = identifier
    if outputs:
        message["outputs"] = [{"name": name} for name in outputs]
    if not binary:
        tensor["data"] = given.reshape(-1).tolist()
        return json.dumps(message).encode(), {}
    data = given.tobytes()
    tensor["parameters"] = {"binary_data_size": len(data)}
    message["parameters"] = {"binary_data_output": True}
    head = json.dumps(message).encode()
    length = {"Inference-Header-Content-Length": str(len(head)), "content-type": "application/octet-stream"}
    return head + data, length


def outputs_of(answer: Answer) -> Found:
    """Return what an answer holds, in whichever form."""
    assert answer.status == 200, answer.body
    length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    head, rest = json.loads(answer.body[:length]), answer.body[length:]
    found: Found = {}
    for each in head["outputs"]:
        dtype = np.dtype(_OUTPUTS[each["name"]])
        size = each.get("parameters", {}).get("binary_data_size", 0)
        flat = np.frombuffer(rest[:size], dtype) if size else np.array(each["data"], dtype)
        rest = rest[size:]
        found[each["name"]] = flat.reshape(each["shape"])
    assert rest == b""
    return found


def bits(value: float) -> bytes:
    """Return the bytes of a number as the model gives it."""
    return struct.pack("<f", value)


@dataclass
class Lender:
    """A model that is lent, with two consumers; its terms can be changed."""

    world: Deployment
    #: Between the enclave and its custodian: what a host can do to that connection.
    proxy: FaultProxy
    second: Consumer

    def consumers(self) -> list[Connection]:
        """Return a connection of each of two consumers."""
        return [self.world.connect(), self.second.connect()]

    def pending(self) -> int:
        """Return the units that leases hold."""
        (row,) = self.world.view("/v1/budgets")["budgets"]
        return int(row["pending"])

    def order(self, answers: AnswerTerms | None) -> None:
        """Lend the model on other terms from now on."""
        version = max(model["policy"]["version"] for model in self.world.view("/v1/models")["models"])
        policy = default_policy(Dial.BALANCED, ttl_ms=TTL_MS, version=version + 1)
        changed = msgspec.structs.replace(policy, answers=answers)
        self.world.command(commands.SetModelTerms(model=MODEL, policy=changed, borrowers=[BORROWER]))

    def ask(self, connection: Connection, body: bytes, headers: dict[str, str], key: str | None = None) -> Answer:
        """Ask for one inference."""
        named = headers | ({} if key is None else {"aigovtool-request-id": key})
        return connection.request("POST", f"{PATH}/infer", body, **named)


@contextmanager
def lender(directory: Path, answers: AnswerTerms | None) -> Iterator[Lender]:
    """Lend the model on these terms, with a budget that no test uses up."""
    policy = msgspec.structs.replace(default_policy(Dial.BALANCED, ttl_ms=TTL_MS), answers=answers)
    with ExitStack() as stack:
        proxies: list[FaultProxy] = []

        def prepare(world: Deployment) -> None:
            proxies.append(stack.enter_context(fault_proxy("127.0.0.1", world.custodian_port)))
            world.custodian_seen_at = proxies[0].port

        world = stack.enter_context(deployed(directory, policy=policy, prepare=prepare))
        yield Lender(world, proxies[0], world.add_consumer("ward8"))


def fresh_key() -> str:
    """Return a request id that was never used."""
    return os.urandom(8).hex()
