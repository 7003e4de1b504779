"""HTTP/1.1 over the connections of one channel, on asyncio: what `AsyncDriver` makes its exchanges with.

httpx takes a millisecond of processor time for an exchange, ten times what the enclave takes for a small answer, and a
gateway makes one for every request of every program. Here is what remains of HTTP where both ends are known: requests
with a length, answers with one or in chunks, connections that are used again. httptools, which the servers of this
project use as well, reads the answers.

Nothing of the environment is used, nothing is followed, decoded, cached or repeated. What became of an exchange that
did not end well is said so that the core knows whether the request can have been received.
"""

import asyncio
import select
import ssl
from collections import deque
from typing import Final, NamedTuple, cast

import httptools

from aigovtool.consumer.exchange import FailureKind
from aigovtool.consumer.http import CONNECT_TIMEOUT_S, POOL_LIMITS, detail_of, socket_options, tls_failure
from aigovtool.errors import InvalidValueError
from aigovtool.transport.pieces import Pieces

#: Of all header fields of one answer; that of a receipt is the largest.
MAX_HEAD_BYTES: Final = 256 << 10
#: So much of a body goes out together with the head: one record of TLS.
_TOGETHER_BYTES: Final = 15 << 10
_MOST_IDLE: Final = POOL_LIMITS.max_keepalive_connections or 16
_MOST: Final = POOL_LIMITS.max_connections or 64
_IDLE_S: Final = POOL_LIMITS.keepalive_expiry or 30.0


class Answer(NamedTuple):
    """A complete answer: names of header fields in lower case; the server's certificate (DER) of that connection."""

    status: int
    headers: dict[str, str]
    body: bytes
    certificate: bytes | None


class LineError(Exception):
    """An exchange that did not end well, and how; never leaves the driver."""

    def __init__(self, kind: FailureKind, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind: Final = kind
        self.detail: Final = detail


class _Line(asyncio.Protocol):
    """One connection; one exchange at a time."""

    def __init__(self) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._headers: dict[str, str] = {}
        self._pieces = Pieces()
        self._size = self._head_size = self._status = self._max_bytes = 0
        self._certificate: bytes | None = None
        self._complete = False
        #: Whether another exchange may be made.
        self.is_free = False
        self.idle_since_s = 0.0

    # -- What the driver does ---------------------------------------------------------------------

    async def exchange(self, head: bytes, body: bytes, max_bytes: int) -> Answer:
        """Send a request, and return what comes back; raises `LineError`."""
        if self._transport is None or not self.is_free:  # ended between its handshake and this request
            raise LineError(FailureKind.HUNG_UP)
        self.is_free, self._complete = False, False
        self._parser = httptools.HttpResponseParser(self)
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._answer = answer
        self._headers, self._pieces = {}, Pieces()
        self._size = self._head_size = self._status = 0
        self._max_bytes = max_bytes
        if len(body) <= _TOGETHER_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        return await answer

    def is_silent(self) -> bool:
        """Return whether an idle connection has nothing to say, which could only be that it is over.

        The event loop may not have heard of it yet; a request that is sent all the same has an unknown outcome.
        """
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return not poll.poll(0)

    def abort(self) -> None:
        """End it at once."""
        self.is_free = False
        if self._transport is not None:
            self._transport.abort()

    # -- What asyncio tells -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over."""
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(True)
        self._certificate = certificate if isinstance(certificate, bytes) else None
        sock = transport.get_extra_info("socket")
        for option in socket_options():
            sock.setsockopt(*option)
        self.is_free = True

    def data_received(self, data: bytes) -> None:
        """Read on; what comes while nothing is asked is nothing of ours."""
        if self._parser is None or self._complete:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(LineError(FailureKind.BAD_ANSWER, "it is no HTTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits is told, as well as it can be told."""
        self.is_free = False
        self._transport = None
        if self._answer is not None and not self._answer.done():
            answered = self._status > 0 or bool(self._headers)
            self._fail(_lost(exc, answered=answered))

    # -- What the parser tells --------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head."""
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD_BYTES:
            self._fail(LineError(FailureKind.BAD_ANSWER, "its head is too large"))
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = text if key not in self._headers else f"{self._headers[key]}, {text}"

    def on_headers_complete(self) -> None:
        """All of the head has come."""
        if self._parser is not None:
            self._status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        """Some of the body."""
        self._size += len(piece)
        if self._size > self._max_bytes:
            self._fail(LineError(FailureKind.TOO_LARGE))
        else:
            self._pieces.add(piece)

    def on_message_begin(self) -> None:
        """An answer begins; a second one was not asked for."""
        if self._complete:
            self.abort()

    def on_message_complete(self) -> None:
        """All of it has come, unless it only says that more will."""
        if 100 <= self._status < 200:
            self._headers, self._status = {}, 0
            return
        self._complete = True
        keep = self._parser is not None and self._parser.should_keep_alive()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._status, self._headers, self._pieces.joined(), self._certificate))
            self.is_free = keep and self._transport is not None and not self._transport.is_closing()
        # A second answer, which nobody asked for, changes nothing of the first.
        self._headers, self._pieces = {}, Pieces()

    def _fail(self, error: LineError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()


class Lines:
    """The connections of one channel; each is used again for a while."""

    def __init__(self, context: ssl.SSLContext, host: str, port: int) -> None:
        self._context: Final = context
        self._host: Final = host
        self._port: Final = port
        self._places: Final = asyncio.Semaphore(_MOST)
        self._idle: Final[deque[_Line]] = deque()
        self._closed = False

    async def exchange(self, head: bytes, body: bytes, *, max_bytes: int, connect_s: float) -> Answer:
        """Make one exchange, over a connection that is idle or a new one; the time for all of it is the caller's.

        Raises:
            LineError: there is no complete answer.
        """
        try:
            async with asyncio.timeout(connect_s):
                await self._places.acquire()
        except TimeoutError:
            raise LineError(FailureKind.CROWDED) from None
        try:
            line = self._take() or await self._connect(connect_s)
            try:
                answer = await line.exchange(head, body, max_bytes)
            except BaseException:
                line.abort()
                raise
            self._put_back(line)
            return answer
        finally:
            self._places.release()

    def close(self) -> None:
        """Close what is idle; a connection in use ends after its exchange."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    def _take(self) -> _Line | None:
        """Return an idle connection, the one that was used last; those that were idle for long are closed."""
        now_s = asyncio.get_running_loop().time()
        while self._idle and (not self._idle[0].is_free or now_s - self._idle[0].idle_since_s > _IDLE_S):
            self._idle.popleft().abort()
        while self._idle:
            line = self._idle.pop()
            if line.is_free and line.is_silent():
                return line
            line.abort()
        return None

    def _put_back(self, line: _Line) -> None:
        if self._closed or not line.is_free or len(self._idle) >= _MOST_IDLE:
            line.abort()
            return
        line.idle_since_s = asyncio.get_running_loop().time()
        self._idle.append(line)

    async def _connect(self, connect_s: float) -> _Line:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(2 * connect_s):
                _, line = await loop.create_connection(
                    _Line,
                    self._host,
                    self._port,
                    ssl=self._context,
                    server_hostname=self._host,
                    ssl_handshake_timeout=connect_s,
                )
        except (TimeoutError, ConnectionAbortedError):
            raise LineError(FailureKind.CONNECT_TIMEOUT) from None
        except (OSError, ValueError) as error:
            raise LineError(tls_failure(error) or FailureKind.UNREACHED, detail_of(error)) from None
        return line


def head_of(method: str, target: str, host: str, headers: tuple[tuple[str, str], ...], length: int | None) -> bytes:
    """Return the head of a request.

    Raises:
        InvalidValueError: `bad_header`: a line of it would be two.
    """
    fields = [("host", host), ("accept-encoding", "identity"), *headers]
    if length is not None:
        fields.append(("content-length", str(length)))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if any("\r" in line or "\n" in line for line in lines):
        raise InvalidValueError("a header field holds the end of a line", reason="bad_header")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def connect_timeout_s(timeout_s: float, share: float) -> float:
    """Return how long TCP and TLS may take each, of so long for all of an exchange."""
    return min(CONNECT_TIMEOUT_S, share * timeout_s)


def _lost(error: Exception | None, *, answered: bool) -> LineError:
    """Return what a lost connection means: before the head of an answer, the server may have dropped us unheard."""
    tls = None if error is None else tls_failure(error)
    if tls is not None:
        return LineError(tls, detail_of(error) if error is not None else "")
    broken = isinstance(error, ssl.SSLError)
    kind = FailureKind.LOST if answered or broken else FailureKind.HUNG_UP
    return LineError(kind, "" if error is None else detail_of(error))
