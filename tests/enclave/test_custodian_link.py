"""The enclave's way to its custodian, against a custodian (or a network) that misbehaves."""

import time
from collections.abc import AsyncIterator
from typing import cast

import httpx
import pytest
from starlette.responses import Response, StreamingResponse
from tests.enclave.custodian_host import Handler, Host, Text, answering

from aigovtool.codec import encode
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import new_authority, to_pem
from aigovtool.enclave.custodian_link import CustodianLink, _lines
from aigovtool.errors import (
    AIGovToolError,
    ForbiddenError,
    InputError,
    StoppedError,
    UnreachableError,
)
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from aigovtool.protocol.messages import Push
from aigovtool.protocol.party import CustodianAddress
from aigovtool.transport.routes import Call
from aigovtool.transport.server import bind_loopback

# --- post ----------------------------------------------------------------------------------------------------


async def test_an_answer_has_the_type_that_was_asked_for(host: Host, link: CustodianLink) -> None:
    """The message goes out in its only encoding; the answer is parsed strictly."""

    async def echo(call: Call) -> object:
        return Text(text=call.body(Text).text.upper())

    host.say = echo
    assert await link.post("/v1/say", Text(text="hello"), Text) == Text(text="HELLO")


@pytest.mark.parametrize("error", [ForbiddenError("no", reason="not_lent"), StoppedError("stop", retry_after_s=5)])
async def test_a_refusal_arrives_as_the_class_it_left_as(
    error: AIGovToolError, host: Host, link: CustodianLink
) -> None:
    """With its reason and how long to wait, so that the enclave can tell a stop from a fault."""
    host.say = answering(error)
    with pytest.raises(type(error)) as caught:
        await link.post("/v1/say", Text(text=""), Text)
    assert (caught.value.reason, caught.value.retry_after_s) == (error.reason, error.retry_after_s)


async def test_nobody_at_the_address_is_unreachable(host: Host) -> None:
    """A closed port is no crash: a typed error that says to try again."""
    with bind_loopback() as free:
        port = free.getsockname()[1]
    gone = CustodianLink(CustodianAddress(url=f"https://127.0.0.1:{port}", root=bytes(32), tls_ca=host.address.tls_ca))
    with pytest.raises(UnreachableError) as caught:
        await gone.post("/v1/say", Text(text=""), Text)
    assert caught.value.retry_after_s
    await gone.close()


async def test_only_the_pinned_authority_is_believed(host: Host) -> None:
    """Another authority, with the same name, in the party file: no request leaves."""
    host.say = answering(Text(text="hello"))
    other = new_authority(TlsKey.generate(), "custodian tls", not_before_ms=0, not_after_ms=4_000_000_000_000)
    address = CustodianAddress(url=host.address.url, root=bytes(32), tls_ca=to_pem(other).decode())
    stranger = CustodianLink(address)
    with pytest.raises(UnreachableError):
        await stranger.post("/v1/say", Text(text="secret"), Text)
    await stranger.close()


async def test_a_proxy_in_the_environment_is_ignored(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The borrower's host sets the environment; the configuration alone says where the custodian is."""
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    host.say = answering(Text(text="hello"))
    link = CustodianLink(host.address)
    assert (await link.post("/v1/say", Text(text=""), Text)).text == "hello"
    await link.close()


async def test_a_redirect_is_not_followed(host: Host, link: CustodianLink) -> None:
    """The custodian never redirects; whoever does is not obeyed."""
    host.say = answering(Response(status_code=307, headers={"location": f"{host.address.url}/v1/elsewhere"}))
    with pytest.raises(AIGovToolError):
        await link.post("/v1/say", Text(text=""), Text)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"text":1}', b'{"text":"a","more":1}', b"\xff", b"[" * 5000])
async def test_an_answer_that_is_not_the_type_is_refused(body: bytes, host: Host, link: CustodianLink) -> None:
    """Strictly: nothing missing, nothing more, and no depth that could exhaust the stack."""
    host.say = answering(Response(body, media_type="application/json"))
    with pytest.raises(InputError):
        await link.post("/v1/say", Text(text=""), Text)


async def test_an_answer_without_end_is_cut(host: Host, link: CustodianLink) -> None:
    """Bounded before it is held: a custodian cannot exhaust the enclave's memory."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 16)

    async def handler(_: Call) -> object:
        return StreamingResponse(endless())

    host.say = handler
    with pytest.raises(UnreachableError) as caught:
        await link.post("/v1/say", Text(text=""), Text)
    assert caught.value.reason == "bad_answer"


# --- listen --------------------------------------------------------------------------------------------------


def streaming(*pieces: bytes) -> Handler:
    async def lines() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def handler(_: Call) -> object:
        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return handler


async def listened(link: CustodianLink) -> list[Push]:
    return [line async for line in link.listen(Text(text=""))]


async def test_lines_arrive_one_by_one_however_they_are_cut(host: Host, link: CustodianLink) -> None:
    """A line in two pieces, two lines in one, and a keepalive; an unfinished last line is dropped."""
    granted, recall = encode(Push(granted=True)), encode(Push(recall=True))
    host.say = streaming(granted[:5], granted[5:] + b"\n{}\n" + recall + b"\n", b'{"gran')
    assert await listened(link) == [Push(granted=True), Push(), Push(recall=True)]


@pytest.mark.parametrize("line", [b"\n", b"nonsense\n", b'{"other":1}\n', b'{"granted":"yes"}\n'])
async def test_a_line_that_is_no_push_ends_the_stream(line: bytes, host: Host, link: CustodianLink) -> None:
    """With a typed error, so that the enclave opens a new stream."""
    host.say = streaming(b"{}\n" + line)
    with pytest.raises(AIGovToolError):
        await listened(link)


async def test_a_line_without_end_is_cut(host: Host, link: CustodianLink) -> None:
    """Bounded like every other input."""
    host.say = streaming(*[b"x" * (1 << 18)] * (MAX_CONTROL_BODY_BYTES // (1 << 18) + 1))
    with pytest.raises(UnreachableError) as caught:
        await listened(link)
    assert caught.value.reason == "bad_answer"


class Dripped:
    """An answer that comes in pieces of a byte, as a custodian, or whoever has its TLS key, may send it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        for at in range(len(self.data)):
            yield self.data[at : at + 1]


async def test_a_line_that_drips_costs_no_more_than_it_has_bytes() -> None:
    """All that was there before was looked at again for each byte: a MiB took minutes of the event loop."""
    line, began_s = bytes([120]) * (1 << 18), time.process_time()
    assert [one async for one in _lines(cast("httpx.Response", Dripped(line + b"\n{}\n")))] == [line, b"{}"]
    assert time.process_time() - began_s < 2  # it takes 0.1 s, and took ten and more


async def test_a_refused_stream_says_why(host: Host, link: CustodianLink) -> None:
    """The same classes as for any other request."""
    host.say = answering(ForbiddenError("no", reason="unknown_instance"))
    with pytest.raises(ForbiddenError) as caught:
        await listened(link)
    assert caught.value.reason == "unknown_instance"
