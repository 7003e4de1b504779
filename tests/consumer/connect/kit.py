"""Gateways for tests: a real one on a free port of loopback, in front of the enclaves of `tests.consumer.conftest`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import numpy as np
from tests.consumer.conftest import MODEL, FakeEnclave, World

from aigovtool.consumer.connect.app import ConnectOptions, Running, gateway
from aigovtool.consumer.connect.evidence_log import Event, Line, read_log
from aigovtool.protocol.infer_body import HEADER_LENGTH_NAME

PATH: Final = f"/v2/models/{MODEL}/infer"


@dataclass(frozen=True)
class Asking:
    """A gateway that serves, and a program that uses it."""

    running: Running
    program: httpx.AsyncClient
    world: World

    async def infer(self, body: bytes | None = None, **headers: str) -> httpx.Response:
        """Ask for one inference, in JSON if not in another form."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.program.post(PATH, content=in_json() if body is None else body, headers=named)

    async def status(self) -> dict[str, Any]:
        """Return what the gateway says of itself."""
        found: dict[str, Any] = (await self.program.get("/aigovtool/status")).json()
        return found

    def told(self) -> list[Line]:
        """Return the lines of the evidence log that are about enclaves."""
        return [line for line, _ in read_log(self.world.directory / "home" / "evidence.jsonl") if line.enclave]

    def events(self) -> list[Event]:
        """Return what these lines tell."""
        return [line.event for line in self.told()]


@asynccontextmanager
async def connected(world: World, *enclaves: FakeEnclave, **changes: Any) -> AsyncIterator[Asking]:
    """Serve these enclaves as a development consumer does, unless `changes` say otherwise."""
    options: dict[str, Any] = {
        "enclaves": [enclave.url for enclave in enclaves],
        "credential_file": world.file,
        "home": world.directory / "home",
        "port": 0,
        "allow_simulated": True,
        **changes,
    }
    async with (
        gateway(ConnectOptions(**options)) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as program,
    ):
        yield Asking(running, program, world)


def in_json(rows: int = 1, **members: object) -> bytes:
    """Return a request in JSON."""
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": [1.0, 2.0] * rows}
    return json.dumps({"inputs": [tensor], **members}).encode()


def in_binary() -> tuple[bytes, dict[str, str]]:
    """Return a request in the binary form, and the header field that goes with it."""
    data = np.array([[1, 2]], "<f4").tobytes()
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + data, {HEADER_LENGTH_NAME: str(len(head))}


def reason_of(response: httpx.Response) -> str:
    """Return why something was refused."""
    document = response.json()
    assert document["error"] == document["detail"]
    return str(document["reason"])
