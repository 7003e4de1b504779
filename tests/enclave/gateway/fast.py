"""Small requests handed to the fast path of a running instance, as its server does."""

import asyncio
import base64
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from tests.custodian.conftest import CONSUMER, MODEL
from tests.enclave.site import Service

from aigovtool.codec import decode
from aigovtool.crypto.identity import Identity, IdentityKind
from aigovtool.crypto.sign import SigningKey
from aigovtool.enclave.gateway.fast_path import InferenceFastPath
from aigovtool.ledger.receipt import SignedReceipt
from aigovtool.transport.connection import Connection
from aigovtool.transport.fast_path import FastRequest, Written
from aigovtool.transport.wire import Head, read_head

ALWAYS = (0, 1 << 50)
KEY = SigningKey.generate()

Answer = asyncio.Future[bytes | None]


def connection(
    name: str = CONSUMER,
    *,
    kind: IdentityKind = IdentityKind.CONSUMER,
    borrower: str | None = None,
    valid: tuple[int, int] = ALWAYS,
) -> Connection:
    """Return a connection of somebody with such a credential."""
    identity = Identity(
        kind=kind, name=name, public_key=KEY.public, not_before_ms=valid[0], not_after_ms=valid[1], serial=1,
        borrower=borrower,
    )  # fmt: skip
    return cast("Connection", SimpleNamespace(identity=lambda: identity))


def binary(values: Sequence[float] = (1.0, 2.0), rows: int = 1, **parameters: object) -> tuple[bytes, str]:
    """Return the body of a request for so many rows in the binary form, and the length of its JSON part."""
    data = np.asarray(values, "<f4").tobytes()
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True} | parameters}).encode()
    return head + data, str(len(head))


def in_json(values: Sequence[float] = (1.0, 2.0), rows: int = 1) -> tuple[bytes, None]:
    """Return the body of a request in JSON."""
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": [*values] * rows}
    return json.dumps({"inputs": [tensor]}).encode(), None


def head_of(body: bytes, length: str | None, fields: dict[str, str]) -> Head:
    """Return the head of a request with such a body."""
    kind = "application/json" if length is None else "application/octet-stream"
    lines = {"host": "enclave", "content-type": kind, "content-length": str(len(body))}
    if length is not None:
        lines["inference-header-content-length"] = length
    text = "".join(f"{name}: {value}\r\n" for name, value in (lines | fields).items())
    return read_head(f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\n{text}\r\n".encode())


class Fast:
    """The fast path of an instance, and those who ask."""

    def __init__(self, service: Service) -> None:
        self.path = InferenceFastPath(service.run)
        #: What the receipts of all answers come to.
        self.charged = 0

    def ask(
        self, request: tuple[bytes, str | None] | None = None, by: Connection | None = None, **fields: str
    ) -> Answer:
        """Ask; the outcome is the whole answer, or None for a request that was given back."""
        body, length = request or binary()
        head = head_of(body, length, {name.replace("_", "-"): value for name, value in fields.items()})
        outcome: Answer = asyncio.get_running_loop().create_future()

        def told(written: Written | None) -> None:
            answer = None if written is None else b"".join(written)
            self.charged += 0 if answer is None else receipt_of(answer).receipt.units.inferences
            outcome.set_result(answer)

        give_back = None if self.path.wants(head) else self.path.room_for(head, by or connection())
        assert give_back is not None or self.path.wants(head)
        if give_back is not None:
            outcome.add_done_callback(lambda _: give_back())
        if not self.path.take(FastRequest(head, by or connection(), body), told):
            outcome.set_result(None)
        return outcome

    async def warm(self, by: Connection | None = None, at_once: int = 24) -> None:
        """Ask until so many at once find units, so that the leases are as large as is asked for."""
        async with asyncio.timeout(30):
            while None in await asyncio.gather(*(self.ask(by=by) for _ in range(at_once))):  # noqa: ASYNC110 -- nobody tells
                await asyncio.sleep(0.01)


def parts(answer: bytes | None) -> tuple[dict[str, str], bytes]:
    """Return the fields of an answer, and its body."""
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    assert first == "HTTP/1.1 200 OK"
    fields = dict(line.split(": ", 1) for line in lines)
    assert int(fields["content-length"]) == len(body)
    return fields, body


def receipt_of(answer: bytes | None) -> SignedReceipt:
    """Return the receipt of an answer."""
    fields, _ = parts(answer)
    return decode(base64.b64decode(fields["aigovtool-receipt"]), SignedReceipt)


def outputs_of(answer: bytes | None) -> Any:
    """Return the data of an answer's only output."""
    fields, body = parts(answer)
    length = fields.get("inference-header-content-length")
    if length is None:
        return json.loads(body)["outputs"][0]["data"]
    return np.frombuffer(body[int(length) :], "<f4").tolist()
