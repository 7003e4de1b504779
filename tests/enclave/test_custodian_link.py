"""The enclave's way to its custodian, against a custodian (or a network) that misbehaves."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse

from aigovtool.codec import Message, encode
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import issue_server_certificate, new_authority, to_pem
from aigovtool.enclave.custodian_link import CustodianLink
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    ForbiddenError,
    InputError,
    NotFoundError,
    PackageError,
    StoppedError,
    UnreachableError,
)
from aigovtool.ids import Digest, digest_of
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from aigovtool.protocol.messages import Push
from aigovtool.protocol.party import CustodianAddress
from aigovtool.transport.routes import Call, Caller, Route, application
from aigovtool.transport.server import HttpServer, bind_loopback
from aigovtool.transport.tls import server_context

CONTENT = bytes(range(256)) * 20
PACKAGE = digest_of(CONTENT)


class Text(Message):
    text: str


class PackagePath(Message):
    package: Digest


Handler = Callable[[Call], Awaitable[object]]


async def not_scripted(_: Call) -> object:
    raise NotFoundError("not scripted")


@dataclass
class Host:
    """What stands at the custodian's address, and what it does."""

    address: CustodianAddress
    say: Handler = not_scripted
    serve: Handler = not_scripted
    ranges: list[str | None] = field(default_factory=list)

    async def said(self, call: Call) -> object:
        return await self.say(call)

    async def served(self, call: Call) -> object:
        self.ranges.append(call.request.headers.get("range"))
        return await self.serve(call)

    def routes(self) -> list[Route]:
        post: dict[str, Any] = {"method": "POST", "handler": self.said, "who": (Caller.ANYONE,), "body": Text}
        return [
            Route(path="/v1/say", summary="say", answer=Text, **post),
            Route(path="/v1/listen", summary="listen", answer=Text, **post),
            Route(
                method="GET",
                path="/v1/packages/{package}",
                handler=self.served,
                who=(Caller.ANYONE,),
                summary="package",
                path_type=PackagePath,
            ),
        ]


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    authority, key = TlsKey.generate(), TlsKey.generate()
    now_ms = time.time_ns() // 1_000_000
    span = {"not_before_ms": now_ms - 3_600_000, "not_after_ms": now_ms + 3_600_000}
    ca = new_authority(authority, "custodian tls", **span)
    certificate = issue_server_certificate(authority, ca, key, ["127.0.0.1"], **span)
    with bind_loopback() as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        made = Host(CustodianAddress(url=url, root=bytes(32), tls_ca=to_pem(ca).decode()))
        app = application(made.routes(), clock_ms=lambda: now_ms)
        async with HttpServer(app, listener, server_context([certificate], key, None)):
            yield made


@pytest.fixture
async def link(host: Host) -> AsyncIterator[CustodianLink]:
    made = CustodianLink(host.address)
    yield made
    await made.close()


def answering(answer: object) -> Handler:
    async def handler(_: Call) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler


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


async def test_a_refused_stream_says_why(host: Host, link: CustodianLink) -> None:
    """The same classes as for any other request."""
    host.say = answering(ForbiddenError("no", reason="unknown_instance"))
    with pytest.raises(ForbiddenError) as caught:
        await listened(link)
    assert caught.value.reason == "unknown_instance"


# --- fetch ---------------------------------------------------------------------------------------------------


async def ranged(call: Call) -> object:
    """Serve as the custodian does."""
    asked = call.request.headers.get("range")
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
    return Response(CONTENT[start:], status_code=206 if asked else 200)


def part(cache: Path) -> Path:
    return cache / f"{PACKAGE.removeprefix('sha256:')}.part"


def files(cache: Path) -> list[Path]:
    return list(cache.iterdir())


async def fetch(link: CustodianLink, cache: Path) -> Path:
    return await link.fetch(PACKAGE, len(CONTENT), cache)


async def test_a_package_is_downloaded_once(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """It lies under its digest; the second time nothing is asked for."""
    host.serve = ranged
    first = await fetch(link, tmp_path)
    assert (first.read_bytes(), first.name) == (CONTENT, f"{PACKAGE.removeprefix('sha256:')}.aigov")
    assert await fetch(link, tmp_path) == first
    assert host.ranges == [None]
    assert files(tmp_path) == [first]


async def test_a_broken_download_is_resumed(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """Only what is missing is asked for."""
    part(tmp_path).write_bytes(CONTENT[:1000])
    host.serve = ranged
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT
    assert host.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("wrong", [CONTENT[:-1], bytes(len(CONTENT)), b""])
async def test_other_bytes_are_not_kept(wrong: bytes, host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """Too short or altered: refused and deleted, so that the next attempt starts afresh."""
    host.serve = answering(Response(wrong))
    with pytest.raises(PackageError) as caught:
        await fetch(link, tmp_path)
    assert caught.value.reason == "download_digest"
    assert files(tmp_path) == []
    host.serve = ranged
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT


async def test_more_than_was_announced_is_not_written(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """A custodian, or whoever plays it, cannot fill the enclave's disk."""
    host.serve = answering(Response(CONTENT * 1000))
    with pytest.raises(PackageError) as caught:
        await fetch(link, tmp_path)
    assert caught.value.reason == "download_digest"
    assert sum(path.stat().st_size for path in files(tmp_path)) <= len(CONTENT)
    host.serve = ranged
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT


async def test_a_damaged_part_does_not_stay_in_the_way(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """What a crash, or the host, left in the cache is thrown away with the first failure."""
    part(tmp_path).write_bytes(bytes(1000))
    host.serve = ranged
    with pytest.raises(PackageError):
        await fetch(link, tmp_path)
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT


@pytest.mark.parametrize("link_to", [os.symlink, os.link], ids=["symbolic", "hard"])
async def test_a_link_in_the_cache_writes_to_no_other_file(
    link_to: Callable[[Path, Path], None], host: Host, link: CustodianLink, tmp_path: Path
) -> None:
    """Whoever can write to the cache cannot have the enclave write elsewhere; the link is replaced by a file."""
    cache, other = tmp_path / "cache", tmp_path / "other"
    cache.mkdir()
    other.write_bytes(b"something of ours")
    link_to(other, part(cache))
    host.serve = ranged
    assert (await fetch(link, cache)).read_bytes() == CONTENT
    assert other.read_bytes() == b"something of ours"
    assert host.ranges == [None]


@pytest.mark.parametrize("suffix", [".part", ".aigov"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
async def test_what_is_no_file_in_the_cache_is_replaced(
    make: Callable[[Path], None], suffix: str, host: Host, link: CustodianLink, tmp_path: Path
) -> None:
    """A pipe would keep the enclave waiting for ever, a device would never end."""
    make(part(tmp_path).with_suffix(suffix))
    host.serve = ranged
    found = await fetch(link, tmp_path)
    assert found.is_file()
    assert found.read_bytes() == CONTENT


async def test_a_directory_in_the_cache_is_a_typed_error(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """It cannot be replaced, and the operator of the host is told."""
    part(tmp_path).mkdir()
    host.serve = ranged
    with pytest.raises(ConfigurationError) as caught:
        await fetch(link, tmp_path)
    assert caught.value.reason == "cache"


async def test_a_server_that_ignores_ranges_does_not_stay_in_the_way(
    host: Host, link: CustodianLink, tmp_path: Path
) -> None:
    """A whole answer to a partial question is not appended."""
    part(tmp_path).write_bytes(CONTENT[:1000])
    host.serve = answering(Response(CONTENT))
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT


async def test_a_package_that_is_not_there_is_said_so(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """As the class that the custodian refused with."""
    host.serve = answering(NotFoundError("no", reason="no_package"))
    with pytest.raises(NotFoundError):
        await fetch(link, tmp_path)


async def test_a_cache_that_cannot_be_written_is_a_typed_error(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """A full or absent disk is the configuration's fault, not a crash of the enclave."""
    host.serve = ranged
    with pytest.raises(AIGovToolError) as caught:
        await fetch(link, tmp_path / "absent")
    assert caught.value.code == "configuration"
