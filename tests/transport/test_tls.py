"""Mutual TLS: who gets in, who is told why not, and where keys never appear."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from tests.transport.conftest import Reply, World, ask, connected, served

from aigovtool.crypto.identity import IdentityKind
from aigovtool.crypto.keyfile import write_key
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import (
    issue_server_certificate,
    new_authority,
    self_signed_server_certificate,
    spki_sha256,
    to_pem,
)
from aigovtool.errors import ConfigurationError
from aigovtool.transport import tls
from aigovtool.transport.routes import Call, Caller, Route
from aigovtool.transport.server import HttpServer

DAY_MS = 86_400_000


async def test_no_credential_is_a_typed_401(server: HttpServer, world: World) -> None:
    """A client without a certificate gets through TLS and is told what is missing."""
    assert (await ask(server, world.client(), "/hello")).body == b'{"text":"nobody"}'
    answer = await ask(server, world.client(), "/whoami")
    assert answer.status == 401
    assert b'"reason":"no_credential"' in answer.body


@pytest.mark.parametrize("kind", list(IdentityKind))
async def test_a_credential_proves_who_asks(kind: IdentityKind, server: HttpServer, world: World) -> None:
    """The identity in the certificate is what the handler sees."""
    answer = await ask(server, world.client(world.credential(kind, "ada")), "/whoami")
    assert answer.body == b'{"text":"%s ada"}' % kind.value.encode()


@pytest.mark.parametrize(
    ("offset_ms", "reason"), [(-DAY_MS, b"credential_expired"), (DAY_MS, b"credential_not_yet_valid")]
)
async def test_a_credential_out_of_its_time_is_a_typed_401(
    offset_ms: int, reason: bytes, server: HttpServer, world: World
) -> None:
    """OpenSSL lets it through, our trusted time does not, and the client learns why."""
    credential = world.credential(IdentityKind.CONSUMER, "ada", offset_ms=offset_ms)
    answer = await ask(server, world.client(credential), "/whoami")
    assert answer.status == 401
    assert reason in answer.body


async def test_a_credential_expires_on_an_open_connection() -> None:
    """Validity is checked at each request, not only when the connection began."""
    moving = World()
    credential = moving.credential(IdentityKind.CONSUMER, "ada")
    request = b"GET /whoami HTTP/1.1\r\nHost: a\r\n\r\n"
    async with served(moving) as server, connected(server, moving.client(credential)) as (reader, writer):
        writer.write(request)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        moving.now_ms += DAY_MS
        writer.write(request)
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 401")


async def test_a_credential_of_a_foreign_authority_ends_the_handshake(server: HttpServer, world: World) -> None:
    """Nobody else's authority can name our consumers; not a byte is answered."""
    foreign = world.credential(IdentityKind.OPERATOR, "root", authority_key=SigningKey.generate())
    async with connected(server, world.client(foreign)) as (reader, writer):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            writer.write(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await reader.read(-1) == b""
            raise ConnectionResetError
    assert server.connections == 0


async def test_a_certificate_without_its_key_does_not_load(world: World) -> None:
    """A stolen certificate alone is worth nothing."""
    certificate, _ = world.credential(IdentityKind.CONSUMER, "ada")
    with pytest.raises(ConfigurationError) as caught:
        world.client((certificate, SigningKey.generate()))
    assert caught.value.reason == "bad_certificate"
    for credential, key in (([certificate], None), ([], SigningKey.generate())):
        with pytest.raises(ConfigurationError):
            tls.client_context([world.authority], credential=credential, key=key)
    with pytest.raises(ConfigurationError):
        tls.server_context([], TlsKey.generate(), None)
    with pytest.raises(ConfigurationError):
        tls.server_context([certificate], TlsKey.generate(), None)


async def test_a_pinned_client_refuses_every_other_certificate(server: HttpServer) -> None:
    """Another enclave's certificate, even for the same names, is not the pinned one."""
    other = tls.pinned_context(self_signed_server_certificate(TlsKey.generate()))
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(server, other, "/hello")


async def test_a_pin_is_no_authority(world: World) -> None:
    """A certificate signed with the pinned key's name or key is not accepted in its place."""
    twin = self_signed_server_certificate(world.server_key)
    with pytest.raises(ssl.SSLCertVerificationError):
        async with served(world, tls=tls.server_context([twin], world.server_key, None)) as server:
            await ask(server, world.client(), "/hello")


@pytest.mark.parametrize(("begins_ms", "ends_ms"), [(-2 * DAY_MS, -DAY_MS), (DAY_MS, 2 * DAY_MS)])
async def test_who_has_no_clock_of_its_own_checks_all_but_times(world: World, begins_ms: int, ends_ms: int) -> None:
    """A certificate that has ended, or not begun: for everybody else it is none. Name and authority count as ever."""
    key, server_key = TlsKey.generate(), TlsKey.generate()
    times = {"not_before_ms": world.now_ms + begins_ms, "not_after_ms": world.now_ms + ends_ms}
    authority = new_authority(key, "custodian", **times)
    right = issue_server_certificate(key, authority, server_key, ["127.0.0.1"], **times)
    wrong = issue_server_certificate(key, authority, server_key, ["elsewhere.example"], **times)
    other = new_authority(TlsKey.generate(), "x", **times)
    async with served(world, tls=tls.server_context([right], server_key, None)) as server:
        assert (await ask(server, tls.client_context([authority], at_any_time=True), "/hello")).status == 200
        for context in (tls.client_context([authority]), tls.client_context([other], at_any_time=True)):
            with pytest.raises(ssl.SSLCertVerificationError):
                await ask(server, context, "/hello")
    async with served(world, tls=tls.server_context([wrong], server_key, None)) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(server, tls.client_context([authority], at_any_time=True), "/hello")


async def test_the_custodian_is_checked_by_name_and_authority(world: World) -> None:
    """A client that trusts the custodian's authority accepts the right name, and only that authority."""
    key, server_key = TlsKey.generate(), TlsKey.generate()
    times = {"not_before_ms": world.now_ms - DAY_MS, "not_after_ms": world.now_ms + DAY_MS}
    authority = new_authority(key, "custodian", **times)
    right = issue_server_certificate(key, authority, server_key, ["127.0.0.1"], **times)
    wrong = issue_server_certificate(key, authority, server_key, ["elsewhere.example"], **times)
    async with served(world, tls=tls.server_context([right], server_key, None)) as server:
        assert (await ask(server, tls.client_context([authority]), "/hello")).status == 200
        # A pin needs no authority, even for a certificate that is not self-signed.
        assert (await ask(server, tls.pinned_context(right), "/hello")).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(server, tls.client_context([new_authority(TlsKey.generate(), "x", **times)]), "/hello")
    async with served(world, tls=tls.server_context([wrong], server_key, None)) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(server, tls.client_context([authority]), "/hello")


@pytest.mark.fault(18)
async def test_only_tls_1_3_is_spoken_and_nothing_is_resumed(server: HttpServer, world: World) -> None:
    """An older protocol is refused; the application protocol is HTTP/1.1; no session ticket is given."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await ask(server, old, "/hello")
    async with connected(server, world.client()) as (reader, writer):
        writer.write(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"}")
        tls_object = writer.get_extra_info("ssl_object")
        assert tls_object.version() == "TLSv1.3"
        assert tls_object.selected_alpn_protocol() == "http/1.1"
        assert not tls_object.session.has_ticket


async def test_the_first_attestation_connection_shows_which_key_answers(server: HttpServer, world: World) -> None:
    """Without trusting anybody, a client learns the certificate whose key the evidence must bind."""
    async with connected(server, tls.unverified_context_for_attestation_only()) as (reader, writer):
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"GET /pin HTTP/1.1\r\nHost: a\r\n\r\n")
        said = await reader.readuntil(b"}")
    assert spki_sha256(shown) == world.tls.spki_sha256 == world.server_key.spki_sha256()
    assert world.tls.spki_sha256.hex().encode() in said


async def test_authorities_and_certificates_rotate_without_a_restart(world: World) -> None:
    """After rotation a new connection meets the new certificate, and the old authority is gone."""
    new_key, new_authority_key = TlsKey.generate(), SigningKey.generate()
    certificate = self_signed_server_certificate(new_key)
    before = world.credential(IdentityKind.CONSUMER, "before")
    after = world.credential(IdentityKind.CONSUMER, "after", authority_key=new_authority_key)
    async with served(world) as server:
        assert (await ask(server, world.client(before), "/whoami")).status == 200
        server.replace_tls(tls.server_context([certificate], new_key, [world.new_authority(new_authority_key)]))
        renewed = tls.pinned_context(certificate, credential=[after[0]], key=after[1])
        assert (await ask(server, renewed, "/whoami")).status == 200
        stale = tls.pinned_context(certificate, credential=[before[0]], key=before[1])
        with pytest.raises((ssl.SSLError, ConnectionError, ValueError)):
            await ask(server, stale, "/whoami")


async def test_open_connections_of_an_authority_that_is_given_up_end_and_all_others_go_on(world: World) -> None:
    """A certificate of the other authority, and none, stay; of the old one only the answer under way is given."""
    kept_key, started, go_on = SigningKey.generate(), asyncio.Event(), asyncio.Event()

    async def slow(_call: Call) -> Reply:
        started.set()
        await go_on.wait()
        return Reply(text="late")

    kept = world.credential(IdentityKind.CONSUMER, "kept", authority_key=kept_key)
    old = world.credential(IdentityKind.CONSUMER, "old")
    authorities = [world.authority, world.new_authority(kept_key)]
    both, one = (
        tls.server_context([world.server_certificate], world.server_key, some)
        for some in (authorities, authorities[1:])
    )
    late = Route(method="GET", path="/late", handler=slow, who=(Caller.CONSUMER,), summary="Slow", answer=Reply)
    async with served(world, tls=both, routes=[late]) as server, AsyncExitStack() as stack:
        host, port = server.address
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(verify=world.client(who), base_url=f"https://{host}:{port}", trust_env=False)
            )
            for who in (kept, old, old)
        ]
        for client in clients:
            assert (await client.get("/whoami")).status_code == 200
        answer = asyncio.create_task(clients[1].get("/late"))
        await started.wait()
        server.replace_tls(one)
        go_on.set()
        assert (await answer).json() == {"text": "late"}
        assert (await clients[0].get("/whoami")).status_code == 200
        for client in clients[1:]:
            with pytest.raises(httpx.TransportError):
                await client.get("/whoami")
        server.replace_tls(both)
        assert (await clients[0].get("/whoami")).status_code == 200


CREATES_FILES = ("open", "os.mkdir", "os.rename", "os.link", "tempfile.mkstemp")


@pytest.mark.parametrize("way", ["memfd", "pipe"])
def test_no_key_file_is_ever_created(way: str, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Loading keys opens nothing for writing and leaves no descriptor, with `memfd_create` and without."""
    if way == "pipe":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.chdir(tmp_path)
    seen: list[str] = []
    watching = [True]

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if watching[0] and event in CREATES_FILES and not str(arguments[0]).endswith((".py", ".pyc")):
            seen.append(f"{event} {arguments[0]}")

    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    sys.addaudithook(audit)
    try:
        credential = world.credential(IdentityKind.CONSUMER, "ada")
        world.client(credential)
        tls.server_context([world.server_certificate], world.server_key, [world.authority])
    finally:
        watching[0] = False
    assert seen == []
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


async def test_httpx_works_with_a_credential_and_keeps_its_connection(server: HttpServer, world: World) -> None:
    """The usual Python client is understood: JSON, a chunked body, a query, one connection for all."""
    context = world.client(world.credential(IdentityKind.CONSUMER, "ada"))
    host, port = server.address

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 100_000
        yield b"b"

    async with httpx.AsyncClient(verify=context, base_url=f"https://{host}:{port}", trust_env=False) as client:
        for _ in range(2):
            assert (await client.get("/whoami")).json() == {"text": "consumer ada"}
            # httpx writes JSON without a charset parameter, which is the only content type that is taken.
            assert (await client.post("/echo", json={"text": "hi"})).json() == {"text": "hi"}
            assert (await client.post("/count", content=pieces())).json() == {"text": "100001"}
            assert (await client.get("/models/a", params={"limit": 3})).json() == {"text": "a 3"}
        assert server.connections == 1


async def test_curl_works_with_a_credential(server: HttpServer, world: World, tmp_path: Path) -> None:
    """A client that knows nothing of this project proves its identity with --cert and --key."""
    certificate, key = world.credential(IdentityKind.CONSUMER, "ada")
    (tmp_path / "server.pem").write_bytes(to_pem(world.server_certificate))
    (tmp_path / "cert.pem").write_bytes(to_pem(certificate))
    write_key(tmp_path / "key.pem", key)
    port = server.address[1]
    command = ["curl", "--silent", "--show-error", "--cacert", str(tmp_path / "server.pem"), "--noproxy", "*"]
    proof = ["--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem")]
    big = ["--data-binary", "@-", "-H", "Content-Type: application/json", f"https://localhost:{port}/echo"]

    def curl(*arguments: str, data: bytes = b"") -> bytes:
        return subprocess.run([*command, *arguments], check=True, capture_output=True, input=data).stdout

    loop = asyncio.get_running_loop()
    whoami = f"https://localhost:{port}/whoami"
    assert await loop.run_in_executor(None, lambda: curl(*proof, whoami)) == b'{"text":"consumer ada"}'
    assert b"no_credential" in await loop.run_in_executor(None, lambda: curl(whoami))
    assert await loop.run_in_executor(None, lambda: curl(*big, data=b'{"text":"hi"}')) == b'{"text":"hi"}'
    # Large enough that curl asks first, with `Expect: 100-continue`.
    assert b"body_too_large" in await loop.run_in_executor(None, lambda: curl(*big, data=bytes(3 << 20)))
