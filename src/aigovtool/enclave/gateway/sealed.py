"""Sealed requests: what comes through somebody who ends TLS, and what goes back (spec: docs/spec/sealed.md).

Nobody has proven anything on such a connection. A request is taken in this order, and nothing later is done when
something earlier fails:

1. The head, bounded, within the time of any head. It opens with this instance's body key, or is refused in the clear.
   From here on a refusal is sealed as well.
2. The certificate and the signature within it are a consumer's, and it was not taken before (`sealed_callers`).
3. It is handed to the enclave's own routes, on a connection that shows this certificate: what they demand of a
   consumer, in which order, and what they count, is the same for both ways. The body is opened as it is read.

The answer is sealed under a fresh salt, so that nothing is sealed twice under one key.
"""

import asyncio
import os
from collections.abc import AsyncIterator, MutableMapping
from hashlib import sha256
from typing import Any, Final, cast

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from aigovtool.codec import decode
from aigovtool.crypto.frames import FRAME_BYTES, SALT_BYTES, FrameOpener, FrameSealer, sealed_size_bytes
from aigovtool.enclave.gateway.sealed_callers import SealedCallers
from aigovtool.enclave.instance_run import InstanceRun
from aigovtool.errors import AIGovToolError, ConflictError, DeadlineError, MalformedError, SignatureInvalidError
from aigovtool.limits import HEADER_TIMEOUT_S, MAX_INFER_BODY_BYTES
from aigovtool.protocol import sealed
from aigovtool.protocol.sealed import AnswerField, SealedHead, SealedRequest, SealedStatus
from aigovtool.transport.body import check_declared
from aigovtool.transport.connection import EXTENSION, Connection
from aigovtool.transport.guard import Application
from aigovtool.transport.problem import problem
from aigovtool.transport.routes import Call, check_content_type

_HEAD_BYTES: Final = sealed.HEAD_LENGTH_BYTES + sealed.MAX_HEAD_BYTES
#: A head, and the frames of the largest body.
MAX_SEALED_BYTES: Final = _HEAD_BYTES + sealed_size_bytes(MAX_INFER_BODY_BYTES)


class SealedRoutes:
    """Hands sealed requests to `inner`: the application of the routes that others have on connections of their own."""

    def __init__(self, run: InstanceRun, callers: SealedCallers, inner: Application) -> None:
        self._run: Final = run
        self._callers: Final = callers
        self._inner: Final = inner

    async def exchange(self, call: Call) -> Response:
        """Take a sealed request, and return what will answer it.

        Raises:
            InputError: it is no sealed request.
            ConflictError: `unknown_body_key`: it is sealed to another instance, or to none.
            DeadlineError: `head_deadline`.
        """
        request = call.request
        check_content_type(request, (sealed.MEDIA_TYPE,))
        check_declared(request, MAX_SEALED_BYTES)
        stream = request.stream()
        blob, rest = await _sealed_head(stream)
        head = self._opened(blob)
        digest = sha256(blob).digest()
        # Not believed yet; but whoever sent it knows this secret, so that a refusal can be sealed with it.
        asked = decode(head.request.payload, SealedRequest, max_bytes=sealed.MAX_HEAD_BYTES)
        answer = _Answer(asked.secret, digest)
        try:
            identity = self._callers.of_request(head.credential, head.request, digest)
        except AIGovToolError as error:
            call.connection.refused(error)
            return _Sealed(cast("Application", problem(error)), {"type": "http"}, request.receive, answer)
        call.connection.prove(identity.key_id)
        body = _Body(stream, FrameOpener(asked.secret, b"", sealed.body_info(digest)), rest, asked.body_bytes)
        scope = _scope(request.scope, asked, _as_shown(call.connection, head.credential))
        return _Sealed(self._inner, scope, body.receive(request.receive), answer)

    def _opened(self, blob: bytes) -> SealedHead:
        instance = self._run.instance
        info = sealed.request_info(instance.instance, instance.body_key.public)
        try:
            plain = instance.body_key.unwrap(blob, info)
        except SignatureInvalidError:
            raise ConflictError(
                "this request is sealed to another key than this instance has",
                reason="unknown_body_key",
                fix="ask for evidence again: the enclave was started anew, or another one got the request",
            ) from None
        with plain:
            return decode(plain.reveal(), SealedHead, max_bytes=sealed.MAX_HEAD_BYTES)


async def _sealed_head(stream: AsyncIterator[bytes]) -> tuple[bytes, bytes]:
    """Return the sealed head, and what came together with it."""
    held = bytearray()
    try:
        async with asyncio.timeout(HEADER_TIMEOUT_S):
            async for piece in stream:
                held += piece
                size = sealed.HEAD_LENGTH_BYTES + int.from_bytes(held[: sealed.HEAD_LENGTH_BYTES], "big")
                if len(held) >= sealed.HEAD_LENGTH_BYTES and size > _HEAD_BYTES:
                    break
                if len(held) >= max(size, sealed.HEAD_LENGTH_BYTES):
                    return bytes(held[sealed.HEAD_LENGTH_BYTES : size]), bytes(held[size:])
    except TimeoutError:
        raise DeadlineError("the head of a sealed request did not come in time", reason="head_deadline") from None
    except ClientDisconnect:
        raise MalformedError("the client went away within the head", reason="body_truncated") from None
    raise MalformedError("this is no sealed request", reason="no_sealed_head")


class _Body:
    """The body of one request, opened frame by frame as it is read."""

    def __init__(self, stream: AsyncIterator[bytes], opener: FrameOpener, first: bytes, size_bytes: int) -> None:
        self._stream: Final = stream
        self._opener: Final = opener
        self._first: Final = first
        self._left = size_bytes

    def receive(self, outer: Receive) -> Receive:
        """Return what an application calls for the next piece; after the last one it hears when the client goes."""
        pieces = self._pieces()

        async def receive() -> Message:
            async for piece in pieces:
                return {"type": "http.request", "body": piece, "more_body": not self._opener.is_complete}
            return await outer()

        return receive

    async def _pieces(self) -> AsyncIterator[bytes]:
        """Yield each frame's text.

        Raises:
            MalformedError: a frame is missing (`cut_off`), or there is more or less than was said (`sealed_length`),
                or one that is not the last is not full (`frame_size`): each costs its time, however little is in it.
            SignatureInvalidError: `wrong_frame`.
        """
        async for piece in self._sealed():
            for text in self._opener.feed(piece):
                if not self._opener.is_complete and len(text) != FRAME_BYTES:
                    raise MalformedError("a frame that is not the last is full", reason="frame_size")
                self._left -= len(text)
                if self._left < 0 or (self._opener.is_complete and self._left):
                    raise MalformedError("the body is not as long as its head says", reason="sealed_length")
                yield text
        self._opener.require_complete()

    async def _sealed(self) -> AsyncIterator[bytes]:
        if self._first:
            yield self._first
        async for piece in self._stream:
            if piece:
                yield piece


class _Answer:
    """One answer as it leaves: salt, then frames of its status, its header fields and its body."""

    def __init__(self, secret: bytes, head_digest: bytes) -> None:
        self.salt: Final = os.urandom(SALT_BYTES)
        self._sealer: Final = FrameSealer(secret, self.salt, sealed.answer_info(head_digest))

    def begin(self, start: Message, body: bytes, *, last: bool) -> bytes:
        """Return the first bytes of the answer: all of it, if this is the `last` of its body."""
        fields = [
            AnswerField(name=name.decode("latin-1"), value=value.decode("latin-1")) for name, value in start["headers"]
        ]
        text = sealed.status_prefix(SealedStatus(status=start["status"], headers=fields)) + body
        return b"".join([self.salt, *self._sealer.seal_all(text, last=last)])

    def more(self, body: bytes, *, last: bool) -> bytes:
        """Return what follows."""
        return b"".join(self._sealer.seal_all(body, last=last))


class _Sealed(Response):
    """What an application answers to one request, sealed."""

    def __init__(self, inner: Application, scope: MutableMapping[str, Any], receive: Receive, answer: _Answer) -> None:
        super().__init__()
        self._inner: Final = inner
        self._scope: Final = scope
        self._receive: Final = receive
        self._answer: Final = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's own form
        """Have it answered, and send that sealed."""
        await self._inner(self._scope, self._receive, _Sealing(self._answer, send))


class _Sealing:
    """What an application calls with the events of its answer."""

    def __init__(self, answer: _Answer, send: Send) -> None:
        self._answer: Final = answer
        self._send: Final = send
        self._start: Message | None = None

    async def __call__(self, event: Message) -> None:
        """Send what is to be sent now: the beginning together with the first of the body."""
        if event["type"] == "http.response.start":
            self._start = event
            return
        start, self._start = self._start, None
        body, last = bytes(event.get("body", b"")), not event.get("more_body", False)
        if start is None:
            out = self._answer.more(body, last=last)
        else:
            out = self._answer.begin(start, body, last=last)
            headers = [(b"content-type", sealed.MEDIA_TYPE.encode()), (b"cache-control", b"no-store")]
            if last:
                headers.append((b"content-length", b"%d" % len(out)))
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": out, "more_body": not last})


def _as_shown(outer: Connection, certificate: bytes) -> Connection:
    """Return the connection as which a request counts whose sender has this certificate."""
    return Connection(
        peer=outer.peer,
        peer_certificate=certificate,
        server_spki_sha256=outer.server_spki_sha256,
        on_refusal=outer.refused,
    )


def _scope(outer: Scope, asked: SealedRequest, connection: Connection) -> Scope:
    """Return the scope of the request within."""
    headers = [(field.name.encode(), field.value.encode()) for field in asked.headers]
    headers = [pair for pair in headers if pair[0] not in {b"content-length", b"transfer-encoding"}]
    headers.append((b"content-length", b"%d" % asked.body_bytes))
    return {
        **{name: outer[name] for name in ("type", "asgi", "http_version", "scheme", "server", "client")},
        "method": asked.method,
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "extensions": {EXTENSION: connection},
    }
