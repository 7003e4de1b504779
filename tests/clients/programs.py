"""Clients that people already have, each as its own documentation says, and not one line for this project.

Each asks for what it is given in the forms that it knows. What it cannot do is in `CANNOT`, in words.
"""

import asyncio
import json
import subprocess
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from playwright.sync_api import Page
from tests.clients.deployment import Gateway
from tests.e2e.world import MODEL

from aigovtool.consumer import AsyncClient, Client
from aigovtool.errors import AIGovToolError

ID_HEADER: Final = "aigovtool-request-id"
UNITS_HEADER: Final = "aigovtool-units-remaining"
_PATH: Final = f"/v2/models/{MODEL}/infer"


class Asked(NamedTuple):
    """What came of one request: numbers and texts, or the words of a refusal."""

    numbers: NDArray[np.float32] | None = None
    texts: list[str] | None = None
    refusal: str | None = None


class Program(ABC):
    """One client."""

    name: ClassVar[str]
    #: What it needs beside Python.
    needs: ClassVar[tuple[str, ...]] = ()
    #: Features that it has not, with the reason.
    cannot: ClassVar[dict[str, str]] = {}

    def __init__(self, gateway: Gateway, page: Callable[[], Page]) -> None:
        self.gateway: Final = gateway
        self.page: Final = page

    @abstractmethod
    def describe(self) -> tuple[list[str], list[str]]:
        """Return the names of the model's inputs and outputs."""

    @abstractmethod
    def ask(self, numbers: NDArray[Any], texts: list[str], *, binary: bool, request_id: str | None = None) -> Asked:
        """Ask once."""

    def ask_many(self, numbers: list[NDArray[Any]]) -> list[Asked]:
        """Ask for all of them at once, as the client does that."""
        with ThreadPoolExecutor(len(numbers)) as threads:
            return list(threads.map(lambda one: self.ask(one, ["a"], binary=True), numbers))


class _Triton(Program):
    name = "tritonclient.http"

    def _client(self) -> Any:
        return triton.InferenceServerClient(self.gateway.address, concurrency=8)

    def describe(self) -> tuple[list[str], list[str]]:
        with self._client() as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready(MODEL)
            assert [one["name"] for one in client.get_model_repository_index()] == [MODEL]
            found = client.get_model_metadata(MODEL)
        return [one["name"] for one in found["inputs"]], [one["name"] for one in found["outputs"]]

    def ask(self, numbers: NDArray[Any], texts: list[str], *, binary: bool, request_id: str | None = None) -> Asked:
        with self._client() as client:
            try:
                return _seen(
                    client.infer(MODEL, *_asked(triton, numbers, texts, binary=binary), headers=_named(request_id))
                )
            except triton.InferenceServerException as error:
                return Asked(refusal=error.message())

    def ask_many(self, numbers: list[NDArray[Any]]) -> list[Asked]:
        with self._client() as client:
            under_way = [client.async_infer(MODEL, *_asked(triton, one, ["a"], binary=True)) for one in numbers]
            return [_seen(one.get_result()) for one in under_way]


class _TritonAio(Program):
    name = "tritonclient.http.aio"

    def describe(self) -> tuple[list[str], list[str]]:
        async def described() -> Any:
            async with triton_aio.InferenceServerClient(self.gateway.address) as client:
                assert await client.is_server_ready()
                return await client.get_model_metadata(MODEL)

        found = asyncio.run(described())
        return [one["name"] for one in found["inputs"]], [one["name"] for one in found["outputs"]]

    def ask(self, numbers: NDArray[Any], texts: list[str], *, binary: bool, request_id: str | None = None) -> Asked:
        (asked,) = asyncio.run(self._all([(numbers, texts)], binary=binary, request_id=request_id))
        return asked

    def ask_many(self, numbers: list[NDArray[Any]]) -> list[Asked]:
        return asyncio.run(self._all([(one, ["a"]) for one in numbers], binary=True, request_id=None))

    async def _all(
        self, wanted: list[tuple[NDArray[Any], list[str]]], *, binary: bool, request_id: str | None
    ) -> list[Asked]:
        async with triton_aio.InferenceServerClient(self.gateway.address, conn_limit=8) as client:

            async def one(numbers: NDArray[Any], texts: list[str]) -> Asked:
                asked = _asked(triton_aio, numbers, texts, binary=binary)
                try:
                    return _seen(await client.infer(MODEL, *asked, headers=_named(request_id)))
                except triton_aio.InferenceServerException as error:
                    return Asked(refusal=error.message())

            return list(await asyncio.gather(*(one(*each) for each in wanted)))


class _Curl(Program):
    name = "curl"
    needs: ClassVar[tuple[str, ...]] = ("curl",)

    def describe(self) -> tuple[list[str], list[str]]:
        found = json.loads(self._run(f"{self.gateway.url}/v2/models/{MODEL}")[1])
        return [one["name"] for one in found["inputs"]], [one["name"] for one in found["outputs"]]

    def ask(self, numbers: NDArray[Any], texts: list[str], *, binary: bool, request_id: str | None = None) -> Asked:
        body, length = _body(numbers, texts, binary=binary)
        fields = [f"{ID_HEADER}: {request_id}"] if request_id else []
        fields += [f"Inference-Header-Content-Length: {length}"] if length else []
        path = self.gateway.world.directory / f"body-{id(body)}"
        path.write_bytes(body)
        options = [word for field in fields for word in ("-H", field)]
        return _read(*self._run(self.gateway.url + _PATH, "--data-binary", f"@{path}", *options))

    def _run(self, *words: str) -> tuple[int, bytes, dict[str, str]]:
        done = subprocess.run(["curl", "-sS", "-i", *words], capture_output=True, check=True, timeout=60)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100 "):  # it asks first whether a large body is wanted
            head, _, body = body.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(first.split()[1]), body, fields


class _Requests(Program):
    name = "requests"

    def describe(self) -> tuple[list[str], list[str]]:
        found = requests.get(f"{self.gateway.url}/v2/models/{MODEL}", timeout=30).json()
        return [one["name"] for one in found["inputs"]], [one["name"] for one in found["outputs"]]

    def ask(self, numbers: NDArray[Any], texts: list[str], *, binary: bool, request_id: str | None = None) -> Asked:
        body, length = _body(numbers, texts, binary=binary)
        fields = _named(request_id) | ({"Inference-Header-Content-Length": str(length)} if length else {})
        with requests.Session() as session:
            answer = session.post(self.gateway.url + _PATH, data=body, headers=fields, timeout=60)
        return _read(
            answer.status_code, answer.content, {name.lower(): value for name, value in answer.headers.items()}
        )


#: Bytes go to the browser and back in base64: as numbers, four megabytes of them take Playwright minutes.
_SCRIPT: Final = """
async ([path, body, fields]) => {
  const bytes = Uint8Array.from(atob(body), (one) => one.charCodeAt(0));
  const answer = await fetch(path, { method: "POST", body: bytes, headers: fields });
  const content = new Uint8Array(await answer.arrayBuffer());
  let text = "";
  for (let at = 0; at < content.length; at += 32768) text += String.fromCharCode(...content.subarray(at, at + 32768));
  return [answer.status, btoa(text), Object.fromEntries(answer.headers.entries())];
}
"""


class _Browser(Program):
    name = "a page's fetch, in Chromium"
    needs: ClassVar[tuple[str, ...]] = ("chromium",)

    def describe(self) -> tuple[list[str], list[str]]:
        script = "async (path) => (await fetch(path)).json()"
        found = self.page().evaluate(script, f"/v2/models/{MODEL}")
        return [one["name"] for one in found["inputs"]], [one["name"] for one in found["outputs"]]

    def ask(self, numbers: NDArray[Any], texts: list[str], *, binary: bool, request_id: str | None = None) -> Asked:
        return self._read(
            self.page().evaluate(_SCRIPT, self._wanted(numbers, texts, binary=binary, request_id=request_id))
        )

    def ask_many(self, numbers: list[NDArray[Any]]) -> list[Asked]:
        script = f"async (all) => Promise.all(all.map({_SCRIPT}))"
        wanted = [self._wanted(one, ["a"], binary=True, request_id=None) for one in numbers]
        return [self._read(found) for found in self.page().evaluate(script, wanted)]

    def _wanted(self, numbers: NDArray[Any], texts: list[str], *, binary: bool, request_id: str | None) -> list[Any]:
        body, length = _body(numbers, texts, binary=binary)
        fields = _named(request_id) | ({"inference-header-content-length": str(length)} if length else {})
        return [_PATH, b64encode(body).decode(), fields]

    def _read(self, found: Any) -> Asked:
        status, content, fields = found
        return _read(status, b64decode(content), fields)


class _Sdk(Program):
    name = "aigovtool.consumer.Client"
    cannot: ClassVar = {"JSON": "it sends binary tensors, whatever it is given"}

    def describe(self) -> tuple[list[str], list[str]]:
        with self._client() as client:
            (found,) = client.models()
        return [one.name for one in found.inputs], [one.name for one in found.outputs]

    def ask(self, numbers: NDArray[Any], texts: list[str], *, binary: bool, request_id: str | None = None) -> Asked:
        del binary
        with self._client() as client:
            return self._asked(client, numbers, texts, request_id)

    def ask_many(self, numbers: list[NDArray[Any]]) -> list[Asked]:
        with self._client() as client, ThreadPoolExecutor(len(numbers)) as threads:
            return list(threads.map(lambda one: self._asked(client, one, ["a"], None), numbers))

    @staticmethod
    def _asked(client: Client, numbers: NDArray[Any], texts: list[str], request_id: str | None) -> Asked:
        try:
            result = client.infer(MODEL, {"x": numbers, "s": texts}, request_id=request_id)
        except AIGovToolError as error:
            return Asked(refusal=error.message)
        return Asked(result.outputs["y"], [one.decode() for one in result.outputs["t"].tolist()])

    def _client(self) -> Client:
        return Client.connect(self.gateway.enclave, self.gateway.credential, allow_simulated=True)


class _AsyncSdk(Program):
    name = "aigovtool.consumer.AsyncClient"
    cannot: ClassVar = {"JSON": "it sends binary tensors, whatever it is given"}

    def describe(self) -> tuple[list[str], list[str]]:
        async def described() -> Any:
            async with self._client() as client:
                return await client.models()

        (found,) = asyncio.run(described())
        return [one.name for one in found.inputs], [one.name for one in found.outputs]

    def ask(self, numbers: NDArray[Any], texts: list[str], *, binary: bool, request_id: str | None = None) -> Asked:
        del binary
        (asked,) = asyncio.run(self._all([(numbers, texts)], request_id))
        return asked

    def ask_many(self, numbers: list[NDArray[Any]]) -> list[Asked]:
        return asyncio.run(self._all([(one, ["a"]) for one in numbers], None))

    async def _all(self, wanted: list[tuple[NDArray[Any], list[str]]], request_id: str | None) -> list[Asked]:
        async with self._client() as client:

            async def one(numbers: NDArray[Any], texts: list[str]) -> Asked:
                try:
                    result = await client.infer(MODEL, {"x": numbers, "s": texts}, request_id=request_id)
                except AIGovToolError as error:
                    return Asked(refusal=error.message)
                return Asked(result.outputs["y"], [text.decode() for text in result.outputs["t"].tolist()])

            return list(await asyncio.gather(*(one(*each) for each in wanted)))

    def _client(self) -> AsyncClient:
        return AsyncClient.connect(self.gateway.enclave, self.gateway.credential, allow_simulated=True)


PROGRAMS: Final[tuple[type[Program], ...]] = (_Triton, _TritonAio, _Curl, _Requests, _Browser, _Sdk, _AsyncSdk)


def _named(request_id: str | None) -> dict[str, str]:
    return {} if request_id is None else {ID_HEADER: request_id}


def _asked(kind: Any, numbers: NDArray[Any], texts: list[str], *, binary: bool) -> tuple[Any, ...]:
    """Return inputs and outputs as tritonclient has them."""
    x = kind.InferInput("x", list(numbers.shape), "FP32")
    x.set_data_from_numpy(numbers.astype(np.float32), binary_data=binary)
    s = kind.InferInput("s", [len(texts)], "BYTES")
    s.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_), binary_data=binary)
    outputs = [kind.InferRequestedOutput(name, binary_data=binary) for name in ("y", "t")]
    return [x, s], "", outputs


def _seen(result: Any) -> Asked:
    texts = [one.decode() if isinstance(one, bytes) else str(one) for one in result.as_numpy("t").tolist()]
    return Asked(result.as_numpy("y"), texts)


def _body(numbers: NDArray[Any], texts: list[str], *, binary: bool) -> tuple[bytes, int | None]:
    """Return a request by hand, and how much of it is JSON if not all."""
    x: dict[str, Any] = {"name": "x", "shape": list(numbers.shape), "datatype": "FP32"}
    s: dict[str, Any] = {"name": "s", "shape": [len(texts)], "datatype": "BYTES"}
    if not binary:
        x["data"], s["data"] = numbers.astype(float).ravel().tolist(), texts
        return json.dumps({"inputs": [x, s]}).encode(), None
    data = numbers.astype("<f4").tobytes()
    words = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)
    x["parameters"], s["parameters"] = {"binary_data_size": len(data)}, {"binary_data_size": len(words)}
    head = json.dumps({"inputs": [x, s], "parameters": {"binary_data_output": True}}).encode()
    return head + data + words, len(head)


def in_json(numbers: NDArray[Any], texts: list[str]) -> bytes:
    """Return a request in JSON, by hand."""
    return _body(numbers, texts, binary=False)[0]


def _read(status: int, content: bytes, fields: dict[str, str]) -> Asked:
    """Return what an answer says, in either form."""
    if status != 200:
        return Asked(refusal=str(json.loads(content)["error"]))
    length = fields.get("inference-header-content-length")
    head = json.loads(content if length is None else content[: int(length)])
    rest, found = b"" if length is None else content[int(length) :], {}
    for output in head["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        found[output["name"]], rest = rest[:size], rest[size:]
    y, t = found["y"], found["t"]
    shape = next(output["shape"] for output in head["outputs"] if output["name"] == "y")
    numbers = np.array(y, np.float32) if isinstance(y, list) else np.frombuffer(y, "<f4")
    return Asked(numbers.reshape(shape), t if isinstance(t, list) else _texts(t))


def _texts(data: bytes) -> list[str]:
    texts = []
    while data:
        size = int.from_bytes(data[:4], "little")
        texts.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return texts
