"""A real custodian on a free loopback port, in a thread of this process, and a command line that talks to it."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from aigovtool.cli.app import app
from aigovtool.custodian.api import custodian_application
from aigovtool.custodian.app import initialise, open_custodian
from aigovtool.custodian.clock import system_time_ms
from aigovtool.custodian.custodian import Custodian
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.tls import server_context


@dataclass(frozen=True)
class Place:
    """A directory with a running custodian and its first operator."""

    directory: Path
    operator: Path
    listener: socket.socket

    def file(self, name: str) -> str:
        return str(self.directory / name)

    def run(self, *arguments: str, stdin: str | None = None, **environment: str) -> Result:
        env = {"AIGOVTOOL_OPERATOR": str(self.operator), "NO_COLOR": "1", **environment}
        return CliRunner().invoke(app, list(arguments), env=env, input=stdin, prog_name="aigovtool")

    def document(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def enrol_operator(self, name: str) -> str:
        """Enrol an operator, with another one who is there to cosign, and return its file."""
        second, file, order = self.file("second.json"), self.file(f"{name}.json"), self.file(f"{name}-order.json")
        invitation, certificate = self.file(f"{name}-invitation.json"), self.file(f"{name}-certificate.json")
        if not Path(second).exists():
            self._do("operator", "add", "second", "-o", second)
        self._do("operator", "invitation", "-o", invitation)
        made = self.document("operator", "request", name, "--invitation", invitation, "-o", file)
        self._do("operator", "add", name, "--key", made["key"], "--save", order)
        self._do("cosign", order, "--operator", second, "--yes")
        self._do("operator", "certificate", name, "-o", certificate)
        self._do("operator", "finish", file, certificate)
        return file

    def _do(self, *arguments: str) -> None:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output


@contextmanager
def serving_of(custodian: Custodian, listener: socket.socket) -> Iterator[None]:
    """Serve a custodian from a thread of this process; the listener stays open."""
    ready, stop = threading.Event(), threading.Event()
    keys = custodian.keys
    tls = server_context([keys.tls_certificate], keys.tls, [keys.credentials_ca])

    async def serve() -> None:
        served = custodian_application(custodian, clock_ms=system_time_ms)
        with listener.dup() as own:
            async with HttpServer(served, own, tls):
                ready.set()
                await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def a_place(directory: Path) -> Iterator[Place]:
    """A custodian that serves, with one operator and nobody else."""
    home = directory / "custodian"
    with bind_loopback() as listener:
        initialise(
            home,
            url=f"https://localhost:{listener.getsockname()[1]}",
            hosts=["localhost", "127.0.0.1"],
            operator="operator",
            allow_simulated=True,
        )
        custodian = open_custodian(home)
        try:
            with serving_of(custodian, listener):
                yield Place(directory, home / "operator.json", listener)
        finally:
            custodian.database.close()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for all tests that do not mind what others did to it: further operators may be enrolled."""
    with a_place(tmp_path_factory.mktemp("cli")) as made:
        yield made


@pytest.fixture(scope="session")
def lent(place: Place) -> Place:
    """The same custodian with a borrower, a consumer and a lent model `xray`."""
    for arguments in (
        ["borrower", "add", "st-mary", "-o", place.file("st-mary.json")],
        [
            "consumer",
            "add",
            "radiology",
            "--borrower",
            "st-mary",
            "-o",
            place.file("radiology.json"),
            "--allow-simulated",
        ],
        ["model", "seal", make_model(place.directory / "xray.onnx"), "--name", "xray", "-o", place.file("xray.aigov")],
        ["model", "add", place.file("xray.aigov"), "--borrower", "st-mary"],
    ):
        result = place.run(*arguments)
        assert result.exit_code == 0, result.output
    return place


def make_model(path: Path) -> str:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("image", "probability")]
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["image"], ["probability"])], "xray", tensors[:1], tensors[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return str(path)


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """The command line without any custodian, and without an operator file."""

    def runner(*arguments: str, stdin: str | None = None, **environment: str) -> Result:
        env: dict[str, str | None] = {"AIGOVTOOL_OPERATOR": None, "NO_COLOR": "1", **environment}
        return CliRunner().invoke(app, list(arguments), env=env, input=stdin, prog_name="aigovtool")

    return runner
