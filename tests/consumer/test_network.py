"""Peers that answer nothing, too slowly, too much, or something else."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from tests.consumer.conftest import FakeEnclave, World

from aigovtool.consumer import AsyncClient, Client
from aigovtool.consumer.http import failure_of
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import new_authority, self_signed_server_certificate
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    DeadlineError,
    EngineError,
    FaultError,
    OverloadedError,
    TooLargeError,
    UnauthenticatedError,
    UnreachableError,
)
from aigovtool.protocol.oip_metadata import ModelMetadata
from aigovtool.protocol.tensor import Datatype, Tensor
from aigovtool.transport.tls import server_context

Act = Callable[[socket.socket, threading.Event], None]


@contextmanager
def shaken_hands(context: ssl.SSLContext, accepted: socket.socket) -> Iterator[ssl.SSLSocket]:
    """Yield the TLS side of `accepted`; read on after a failure, so that closing cannot overtake the alert."""
    with (
        accepted.dup() as copy,
        context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as wrapped,
    ):
        try:
            wrapped.do_handshake()
        except ssl.SSLError:
            copy.settimeout(5)
            while copy.recv(65536):
                pass
            raise
        copy.close()
        yield wrapped


@contextmanager
def raw_server(act: Act, *, tls: bool, authorities: list[bytes] | None = None) -> Iterator[str]:
    """Serve one connection with `act` in a thread, and yield the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    key = TlsKey.generate()
    context = server_context([self_signed_server_certificate(key)], key, authorities).context

    def serve() -> None:
        with suppress(OSError):
            while not over.is_set():
                accepted, _ = listener.accept()
                with suppress(OSError), shaken_hands(context, accepted) if tls else accepted as peer:
                    act(peer, over)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)


def say_nothing(_: socket.socket, over: threading.Event) -> None:
    over.wait(30)


def drip(peer: socket.socket, over: threading.Event) -> None:
    """Send a byte of a header every 20 ms: each read succeeds, and the answer never ends."""
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 200 OK\r\nx-drip: ")
    while not over.wait(0.02):
        peer.sendall(b"a")


def swallow(peer: socket.socket, over: threading.Event) -> None:
    peer.recv(65536)
    over.wait(30)


def no_http(peer: socket.socket, _: threading.Event) -> None:
    peer.recv(65536)
    peer.sendall(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")


BLACK_HOLES: dict[str, tuple[Act, bool]] = {
    "no-handshake": (say_nothing, False),
    "no-answer": (swallow, True),
    "drip": (drip, True),
}


@pytest.mark.parametrize("kind", BLACK_HOLES)
@pytest.mark.fault(27)
def test_a_black_hole_is_a_typed_error_in_bounded_time(world: World, kind: str) -> None:
    """Neither silence nor a drip of bytes can hold a caller longer than its timeout."""
    act, tls = BLACK_HOLES[kind]
    with raw_server(act, tls=tls) as url, pytest.raises((DeadlineError, UnreachableError)):
        Client.connect(url, world.file, allow_simulated=True, timeout_s=0.5)


@pytest.mark.parametrize("kind", BLACK_HOLES)
@pytest.mark.fault(27)
async def test_a_black_hole_is_a_typed_error_asynchronously_too(world: World, kind: str) -> None:
    """The two drivers agree."""
    act, tls = BLACK_HOLES[kind]
    with raw_server(act, tls=tls) as url, pytest.raises((DeadlineError, UnreachableError)):
        _ = await AsyncClient.connect(url, world.file, allow_simulated=True, timeout_s=0.5)


def test_a_server_that_speaks_another_protocol_is_a_typed_error(world: World) -> None:
    """Whatever answers on that port, no foreign exception reaches the caller."""
    with raw_server(no_http, tls=True) as url, pytest.raises(FaultError) as caught:
        Client.connect(url, world.file, allow_simulated=True, timeout_s=2)
    assert caught.value.reason == "bad_answer"


def test_a_closed_port_is_unreachable(world: World) -> None:
    """Nobody there."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(UnreachableError) as caught:
        Client.connect(f"https://127.0.0.1:{port}", world.file, allow_simulated=True, timeout_s=2)
    assert caught.value.reason == "connect"


def test_a_credential_of_another_custodian_is_refused_in_the_handshake(world: World) -> None:
    """The TLS alert becomes an error that says whose fault it is."""
    path = _foreign_file(world)
    with (
        raw_server(no_http, tls=True, authorities=[world.credentials_authority]) as url,
        pytest.raises(UnauthenticatedError) as caught,
    ):
        Client.connect(url, path, allow_simulated=True)
    assert caught.value.reason == "credential_refused"


async def test_a_refused_credential_is_named_asynchronously_too(world: World) -> None:
    """The alert reaches the two drivers by different ways."""
    path = _foreign_file(world)
    with (
        raw_server(no_http, tls=True, authorities=[world.credentials_authority]) as url,
        pytest.raises(UnauthenticatedError) as caught,
    ):
        _ = await AsyncClient.connect(url, path, allow_simulated=True)
    assert caught.value.reason == "credential_refused"


def test_a_credential_that_a_server_drops_without_an_alert_is_named(world: World, enclave: FakeEnclave) -> None:
    """Our own servers close without a word, because asyncio drops the alert: the advice names the likely cause."""
    with pytest.raises(UnreachableError) as caught:
        world.connect(enclave, credential_path=_foreign_file(world))
    _names_the_certificate(caught.value)


async def test_a_credential_that_a_server_drops_is_named_asynchronously_too(world: World, enclave: FakeEnclave) -> None:
    """The broken connection shows at another place, and means the same."""
    with pytest.raises(UnreachableError) as caught:
        _ = await AsyncClient.connect(enclave.url, _foreign_file(world), allow_simulated=True)
    _names_the_certificate(caught.value)


def _names_the_certificate(error: UnreachableError) -> None:
    assert error.reason == "hung_up"
    assert "client certificate" in (error.fix or "")


def half_an_answer(peer: socket.socket, _: threading.Event) -> None:
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")


def test_an_answer_that_breaks_off_is_no_refusal(world: World) -> None:
    """Who has begun to answer has taken the certificate: the advice does not lead astray."""
    with raw_server(half_an_answer, tls=True) as url, pytest.raises(UnreachableError) as caught:
        Client.connect(url, world.file, allow_simulated=True, timeout_s=5)
    assert caught.value.reason == "connection_lost"
    assert "certificate" not in (caught.value.fix or "")


def _foreign_file(world: World) -> Path:
    key = SigningKey.generate()
    return world.consumer_file("foreign.json", authority=(key, new_authority(key, "other", **world.validity)))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "https://", "https://user@host", "https://host/path", "ftp://x", "https://a b"]
)
def test_an_address_is_checked_first(world: World, url: str) -> None:
    """Plain HTTP does not exist here."""
    with pytest.raises(ConfigurationError) as caught:
        Client.connect(url, world.file)
    assert caught.value.reason == "bad_url"


@pytest.mark.parametrize("timeout", [0, -1, 301, float("nan")])
def test_a_timeout_is_checked_first(world: World, timeout: float) -> None:
    """There is no way to wait for ever."""
    with pytest.raises(ConfigurationError) as caught:
        Client.connect("https://127.0.0.1:1", world.file, timeout_s=timeout)
    assert caught.value.reason == "bad_timeout"


def test_an_oversized_answer_is_cut_off(world: World, enclave: FakeEnclave) -> None:
    """An answer is bounded while it is read, not after."""
    client = world.connect(enclave)
    spec = msgspec.structs.replace(enclave.models["doubler"].inputs[0], name="x" * 256)  # type: ignore[index]

    def huge(metadata: ModelMetadata) -> ModelMetadata:
        return msgspec.structs.replace(metadata, inputs=(spec,) * 4096)

    enclave.forge_metadata = huge
    with pytest.raises(TooLargeError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == "answer_too_large"


def test_metadata_of_another_model_is_refused(world: World, enclave: FakeEnclave) -> None:
    """The description must be of what was asked for."""
    client = world.connect(enclave)
    enclave.forge_metadata = lambda metadata: msgspec.structs.replace(metadata, name="other")
    with pytest.raises(FaultError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == "bad_answer"


def _tensor(name: str, datatype: Datatype, shape: tuple[int, ...], dtype: str) -> Tensor:
    return Tensor(name, datatype, shape, np.zeros(shape, dtype=dtype).tobytes())


WRONG: dict[str, list[Tensor]] = {
    "datatype": [_tensor("y", Datatype.FP64, (1, 2), "<f8"), _tensor("n", Datatype.INT64, (1,), "<i8")],
    "rank": [_tensor("y", Datatype.FP32, (2,), "<f4"), _tensor("n", Datatype.INT64, (1,), "<i8")],
    "size": [_tensor("y", Datatype.FP32, (1, 3), "<f4"), _tensor("n", Datatype.INT64, (1,), "<i8")],
}


@pytest.mark.parametrize("what", WRONG)
def test_an_answer_that_does_not_fit_the_model_gives_no_result(world: World, enclave: FakeEnclave, what: str) -> None:
    """A receipt vouches for bytes; that they fit the model is checked besides."""
    client = world.connect(enclave)
    enclave.forge_tensors = lambda _: WRONG[what]
    with pytest.raises(EngineError) as caught:
        client.infer("doubler", [[1, 2]])
    assert caught.value.reason == "output_mismatch"


def test_no_foreign_exception_leaves_the_client(world: World, enclave: FakeEnclave) -> None:
    """A server that has gone is a typed error, for every kind of exchange."""
    client = world.connect(enclave)
    enclave.served.stop()
    with pytest.raises(AIGovToolError):
        client.infer("doubler", [[1, 2]])
    with pytest.raises(AIGovToolError):
        client.attest()


def test_a_wait_for_a_free_connection_says_nothing_of_the_peer() -> None:
    """Nothing was sent, and to come again is of use: unlike a peer that takes no connection."""
    crowded, silent = (failure_of(kind("late"), answered=False) for kind in (httpx.PoolTimeout, httpx.ConnectTimeout))
    assert (crowded.maybe_received, silent.maybe_received) == (False, False)
    error = crowded.error("the enclave")
    assert (type(error), error.reason, error.retry_after_s) == (OverloadedError, "crowded", 1)
    assert type(silent.error("the enclave")) is UnreachableError
