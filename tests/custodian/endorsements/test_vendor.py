"""Vendors' services: fixed hosts, over TLS, bounded; nothing in evidence or in an answer leads anywhere else."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import issue_server_certificate, new_authority
from aigovtool.custodian.endorsements import vendor
from aigovtool.custodian.endorsements.vendor import HOSTS, VendorServices, require_vendor
from aigovtool.errors import InvalidValueError, UnreachableError
from aigovtool.limits import MAX_REVOCATION_LIST_BYTES
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.tls import client_context, server_context

AMD = "https://kdsintf.amd.com"
YEAR_MS = 365 * 86_400_000


ANSWERS: dict[str, Callable[[], Response]] = {
    "/elsewhere": lambda: RedirectResponse("https://attacker.example/"),
    "/busy": lambda: Response(status_code=429),
    "/down": lambda: Response(status_code=503),
    "/nothing": lambda: Response(status_code=404),
    "/packed": lambda: Response(b"\x1f\x8b", headers={"content-encoding": "gzip"}),
    "/large": lambda: Response(b"x" * (MAX_REVOCATION_LIST_BYTES + 1)),
}


class ToLoopback(httpx.AsyncHTTPTransport):
    """Every host is at one local port; its name is still the one that the certificate must have."""

    def __init__(self, port: int, **how: object) -> None:
        super().__init__(**how)  # type: ignore[arg-type]
        self.port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = request.url.host
        request.url = request.url.copy_with(host="127.0.0.1", port=self.port)
        return await super().handle_async_request(request)


@dataclass
class Site:
    """A pretended vendor, and what it was asked."""

    services: VendorServices
    asked: list[str] = field(default_factory=list)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """One server for all vendors' names, with certificates of an authority of its own."""
    made: list[Site] = []

    async def answer(request: Request) -> Response:
        made[0].asked.append(f"{request.headers['host']} {request.url.path}?{request.url.query}")
        if request.url.path == "/slow":
            await asyncio.sleep(30)
        headers = {"TCB-Info-Issuer-Chain": "a%0Achain", "Set-Cookie": "who=you", "Server": "x"}
        return ANSWERS.get(request.url.path, lambda: Response(b"answer", headers=headers))()

    authority_key, key = TlsKey.generate(), TlsKey.generate()
    authority = new_authority(authority_key, "test vendors", not_before_ms=0, not_after_ms=60 * YEAR_MS)
    certificate = issue_server_certificate(
        authority_key, authority, key, sorted(HOSTS), not_before_ms=0, not_after_ms=60 * YEAR_MS
    )
    app = Starlette(routes=[Route("/{path:path}", answer)])
    with bind_loopback() as listener:
        server = HttpServer(app, listener, server_context([certificate], key, None))
        await server.start()
        transport = ToLoopback(server.address[1], verify=client_context([authority]))
        made.append(Site(VendorServices(client=httpx.AsyncClient(transport=transport, timeout=5, trust_env=False))))
        yield made[0]
        await made[0].services.close()
        await server.stop()


async def test_an_answer_is_kept_with_the_headers_that_belong_to_it(site: Site) -> None:
    """Intel sends the chain that signed a body in a header; cookies and the like are nobody's business."""
    found = await site.services.fetch(f"{AMD}/vcek/v1/Milan/crl?x=1", 7)
    assert (found.body, found.fetched_at_ms, found.headers) == (b"answer", 7, {"tcb-info-issuer-chain": "a%0Achain"})
    assert site.asked == ["kdsintf.amd.com /vcek/v1/Milan/crl?x=1"]


@pytest.mark.parametrize("path", ["/elsewhere", "/busy", "/down", "/large", "/packed", "/slow"])
@pytest.mark.attack(10)
async def test_no_answer_is_no_answer(path: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect is not followed; busy, too much, packed (small, then large) and too slow are the same to us."""
    monkeypatch.setattr(vendor, "_TIMEOUT_S", 0.5)
    with pytest.raises(UnreachableError) as caught:
        await site.services.fetch(AMD + path, 0)
    assert caught.value.reason == "vendor_unreachable"
    assert ("no answer in 0.5 seconds" in caught.value.message) is (path == "/slow")
    assert len(site.asked) == 1


def nested(error: Exception) -> Exception:
    """Return an error as libraries give it: wrapped, in a group, without a text of its own."""
    outer = OSError("All connection attempts failed")
    outer.__cause__ = ExceptionGroup("several", [error])
    whole = httpx.ConnectError("failed")
    whole.__cause__ = outer
    return whole


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "its name is not resolved (Name or service not known)"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (OSError(101, "Network is unreachable"), "Network is unreachable"),
        (ValueError("the text of a library may quote anything"), "ConnectError"),
    ],
)
async def test_why_there_is_no_answer_is_told_as_the_system_says_it(error: Exception, words: str) -> None:
    """Whoever must mend a network is helped by its reason, and by no name of a class."""

    def failing(_: httpx.Request) -> httpx.Response:
        raise nested(error)

    services = VendorServices(client=httpx.AsyncClient(transport=httpx.MockTransport(failing)))
    with pytest.raises(UnreachableError) as caught:
        await services.fetch(f"{AMD}/vcek/v1/Milan/crl", 0)
    await services.close()
    assert caught.value.message.endswith(f"gives no endorsements: {words}")


async def test_nothing_there_is_another_thing_than_no_answer(site: Site) -> None:
    """A chip that AMD does not know says nothing about how AMD's service is."""
    with pytest.raises(UnreachableError) as caught:
        await site.services.fetch(f"{AMD}/nothing", 0)
    assert caught.value.reason == "not_at_vendor"


async def test_a_vendor_that_is_slow_keeps_a_queue_waiting_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: many at once. Nobody waits for a turn longer than for an answer, and it is not the vendor who is away."""
    monkeypatch.setattr(vendor, "_TIMEOUT_S", 0.5)
    slow = [site.services.fetch(f"{AMD}/slow?{number}", 0) for number in range(12)]
    answers = await asyncio.gather(*slow, return_exceptions=True)
    reasons = [answer.reason for answer in answers if isinstance(answer, UnreachableError)]
    assert len(reasons) == len(answers)
    assert set(reasons) == {"vendor_unreachable", "vendor_busy"}
    assert reasons.count("vendor_unreachable") == len(site.asked) < len(answers)


@pytest.mark.attack(10)
async def test_a_server_with_another_certificate_is_not_the_vendor() -> None:
    """Attack: somebody between us and the vendor. What it sends would not verify, but it would see whom we ask for."""
    authority_key, key = TlsKey.generate(), TlsKey.generate()
    authority = new_authority(authority_key, "another", not_before_ms=0, not_after_ms=60 * YEAR_MS)
    certificate = issue_server_certificate(
        authority_key, authority, key, ["attacker.example"], not_before_ms=0, not_after_ms=60 * YEAR_MS
    )
    with bind_loopback() as listener:
        server = HttpServer(Starlette(), listener, server_context([certificate], key, None))
        await server.start()
        transport = ToLoopback(server.address[1], verify=client_context([authority]))
        services = VendorServices(client=httpx.AsyncClient(transport=transport, trust_env=False))
        with pytest.raises(UnreachableError):
            await services.fetch(f"{AMD}/x", 0)
        await services.close()
        await server.stop()


@pytest.mark.parametrize(
    "url",
    [
        "http://kdsintf.amd.com/x",
        "https://kdsintf.amd.com.attacker.example/x",
        "https://attacker.example/kdsintf.amd.com",
        "https://kdsintf.amd.com@attacker.example/x",
        "https://user@kdsintf.amd.com/x",
        "https://kdsintf.amd.com:8443/x",
        "https://KDSINTF.AMD.COM/x",
        "https://kdsintf.amd.com/x#y",
        "https://kdsintf.amd.com/x y",
        "https://kdsintf.amd.com/\r\nHost: attacker.example",
        "https://kdsintf.amd.com/\u0430",
        "https://[kdsintf.amd.com/x",
        "//kdsintf.amd.com/x",
        "",
    ],
)
@pytest.mark.attack(10)
async def test_nothing_but_the_vendors_hosts_is_asked(url: str, site: Site) -> None:
    """Attack: evidence whose fields lead to another address."""
    with pytest.raises(InvalidValueError) as caught:
        await site.services.fetch(url, 0)
    assert caught.value.reason == "not_a_vendor"
    assert site.asked == []


def test_the_vendors_hosts_are_asked() -> None:
    """Each of the three."""
    for host in HOSTS:
        require_vendor(f"https://{host}/a/b?c=d&e=f")
