"""uvicorn's httptools protocol, behind `wire.RequestReader` and with a deadline for everything.

What it adds to its base class:

1. Every byte passes `RequestReader` first. A violation is answered once with problem+json, then the connection
   is closed: if an answer is under way already, nothing more is sent. Requests are never queued.
2. Deadlines: a complete head (also the first byte of a new connection), idle time between requests, idle time
   within a body, a reader that takes no answer. A deadline that passes closes the connection without a word.
3. Early answers: when the answer starts before the request is complete, the connection ends with it, because
   what follows could be read as body or as request.
4. Closing lingers for a moment when input may be under way, so that the peer can read why.
5. No exception of the application reaches the peer or the log with its text.
6. An answer of a declared length ends with its last byte: the next request may come at once.
7. `scope["extensions"]["aigovtool.connection"]` is the `Connection`; a body may be taken whole (`whole_body`).
8. A connection too many, in all, of one client or of one address, is answered once before anything is read; or a
   stranger's connection that is worth less is ended for it (`connection.Tally`).
9. A stranger's body must come at a least rate.
10. Of one caller only some requests are begun in one round of the event loop (`rounds`).

It speaks HTTP/1.1 alone: no HTTP/2, no WebSocket, no upgrade.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState

from aigovtool.errors import AIGovToolError, InputError, MalformedError
from aigovtool.transport.body_pace import BodyPace
from aigovtool.transport.bounds import HttpLimits
from aigovtool.transport.connection import EXTENSION, Connection, Tally, Verdict, Worth, network_of
from aigovtool.transport.deadline import Deadline
from aigovtool.transport.declared_length import DeclaredLength, Event
from aigovtool.transport.fast_lane import FastLane
from aigovtool.transport.fast_path import FastPath, Written
from aigovtool.transport.lingering import LingeringTransport
from aigovtool.transport.no_place import REFUSALS
from aigovtool.transport.notices import Notices
from aigovtool.transport.problem import problem, unexpected, wire_problem
from aigovtool.transport.rounds import Rounds
from aigovtool.transport.whole_body import WholeBody
from aigovtool.transport.wire import RequestReader

# ASGI's own types (asgiref).
Send = Callable[[Event], Awaitable[None]]
Receive = Callable[[], Awaitable[Event]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_NOT_HTTP: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)
_BAD_REQUEST: Final = MalformedError("not a request that is accepted here", reason="bad_request")


class GuardedHttpProtocol(HttpToolsProtocol):
    """One connection. The server makes one for each, after it has counted it."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        *,
        bounds: HttpLimits,
        server_spki_sha256: bytes | None,
        clients: Tally,
        rounds: Rounds,
        notices: Notices,
        on_lost: Callable[[], None],
        fast_path: FastPath | None = None,
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state={})
        self.app = cast("Any", self._guarded)
        self._application = cast("Application", config.loaded_app)
        self._bounds: Final = bounds
        self._server_spki_sha256: Final = server_spki_sha256
        self._clients: Final = clients
        self._rounds: Final = rounds
        self._notices: Final = notices
        self._on_lost: Final = on_lost
        self._reader: Final = RequestReader(max_header_bytes=bounds.max_header_bytes, max_headers=bounds.max_headers)
        self._deadline: Final = Deadline(self._expired)
        self._write_deadline: Final = Deadline(self._unread)
        self._wire: LingeringTransport | None = None
        self._connection: Connection | None = None
        self._network, self._stranger = "unknown", True
        self._pace: Final = BodyPace(bounds)
        self._fast_path: Final = fast_path
        self._fast: FastLane | None = None
        self._body: WholeBody | None = None

    # --- the connection ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; over the limit of connections, say so and end."""
        wire = LingeringTransport(cast("asyncio.Transport", transport), self._bounds.linger_s)
        self._wire = wire
        super().connection_made(cast("asyncio.Transport", wire))
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(binary_form=True)
        self._connection = Connection(
            peer=self.client,
            peer_certificate=certificate,
            server_spki_sha256=self._server_spki_sha256,
            on_proof=self._prove,
            on_refusal=self._refused,
        )
        client = self._connection.client
        self._stranger = client is None
        if self._fast_path is not None:
            self._fast = FastLane(self._fast_path, self._reader, self._connection, self._fast_answer, self._parse_all)
        if self.client:
            self._network = network_of(self.client[0])
        verdict = self._clients.enter(self, client, self._network)
        if verdict is Verdict.WELCOME:
            self._deadline.set(self._bounds.header_timeout_s)
        elif self._clients.may_be_told(self):
            wire.write(REFUSALS[verdict])
            wire.close_lingering()
        else:
            wire.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: no timer and no task keeps the connection alive."""
        self._deadline.clear()
        self._write_deadline.clear()
        self._clients.leave(self)
        if self._fast is not None:
            self._fast.end()
        if self._wire is not None:
            self._wire.lost()
        super().connection_lost(exc)
        self._on_lost()

    @property
    def peer_certificate(self) -> bytes | None:
        """The client's certificate in DER, or None when it has shown none."""
        return None if self._connection is None else self._connection.peer_certificate

    @property
    def worth(self) -> Worth:
        """What would be lost if this were ended now."""
        if not self._answering() or (self._wire is not None and self._wire.is_closing()):
            return Worth.SILENT
        if self.flow.write_paused:
            return Worth.UNREAD
        return Worth.WORKED_ON if self._reader.complete or self.cycle.response_started else Worth.SILENT

    def end(self) -> None:
        """Give up the place to somebody else."""
        if self._wire is not None:
            self._wire.abort()

    def shutdown(self) -> None:
        """End after the answer under way."""
        if self._fast:
            self._fast.ending = True
        else:
            super().shutdown()

    def _refused(self, error: AIGovToolError) -> None:
        if self._wire is not None and not self._wire.is_closing():  # else there is nobody to refuse anything to
            self._notices.refusal(self._network, error)

    def _prove(self, signer: str) -> None:
        self._stranger = not self._clients.prove(self, signer)

    def pause_writing(self) -> None:
        """The peer is not reading: it has so long to go on."""
        super().pause_writing()
        self._write_deadline.set(self._bounds.write_stall_timeout_s)

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._write_deadline.clear()
        super().resume_writing()

    # --- bytes -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Frame, check, and only then parse."""
        wire = self._wire
        if wire is None or wire.is_closing():
            return
        reader = self._reader
        idle, in_head = reader.idle, reader.in_head
        try:
            accepted = reader.feed(data)
            if accepted and not self._goes_fast(accepted, begins=in_head):
                self.parser.feed_data(accepted)
        except InputError as error:
            self._refuse(error)
            return
        except _NOT_HTTP:
            self._refuse(_BAD_REQUEST)
            return
        if reader.surplus:
            self._end_after_answer()
        self._watch(len(data), was_idle=idle, was_in_head=in_head)

    # --- the fast path -----------------------------------------------------------------------------

    def _goes_fast(self, accepted: bytes, *, begins: bool) -> bool:
        """Return whether the fast path has what came of a request, or waits for the rest of it."""
        fast = self._fast
        if fast is None:
            return False
        if begins:
            return not self._answering() and not self.flow.write_paused and fast.begin(accepted)
        return fast.add(accepted)

    def _fast_answer(self, answer: Written) -> None:
        wire = self._wire
        if wire is None or wire.is_closing():
            return
        for part in answer:
            wire.write(part)
        self._request_over()

    def _parse_all(self, head: bytes, body: bytes) -> None:
        """Have a request that the fast path gave up go the way of all others."""
        if self._wire is None or self._wire.is_closing():
            return
        try:
            self.parser.feed_data(head)
            if body:
                self.parser.feed_data(body)
        except _NOT_HTTP:
            self._refuse(_BAD_REQUEST)
            return
        if self._ending and self._answering():
            self.cycle.keep_alive = False
        if self._reader.surplus:
            self._end_after_answer()

    def _watch(self, count: int, *, was_idle: bool, was_in_head: bool) -> None:
        if self._reader.complete:
            # From here on the application has the word: its own deadline bounds the answer.
            self._deadline.pause()
        elif self._reader.in_head:
            if was_idle:
                self._deadline.set(self._bounds.header_timeout_s)
        elif was_in_head:
            self._begin_body()
        else:
            self._pace.add(count)
            self._wait_for_body()

    def _begin_body(self) -> None:
        """Measure the body from here on."""
        self._pace.begin(self.loop.time())
        self._wait_for_body()

    def _wait_for_body(self) -> None:
        self._deadline.set(self._pace.patience(self.loop.time(), stranger=self._stranger))

    def _end_after_answer(self) -> None:
        """The peer sent on without waiting: answer what it asked first, and read nothing more."""
        if self._wire is None:
            return
        if self._answering():
            self._wire.linger_on_close = True
            if not self._in_fast_path:
                self.cycle.keep_alive = False
            self.flow.pause_reading()
        else:
            self._wire.close_lingering()

    def on_message_begin(self) -> None:
        """Give the request its connection."""
        super().on_message_begin()
        cast("Event", self.scope)["extensions"] = {EXTENSION: self._connection}

    def on_headers_complete(self) -> None:
        """Begin the request, whose body may be taken whole."""
        super().on_headers_complete()
        self._body = WholeBody(self.cycle, self.flow)

    def on_body(self, body: bytes) -> None:
        """Hand out what has come of the body, or keep it until it is whole."""
        if self._body is None or not self._body.add(body):
            super().on_body(body)

    def on_response_complete(self) -> None:
        """Make ready for the next request, or end where there cannot be one."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # our deadlines replace the base class's timer
        self._request_over()

    def _request_over(self) -> None:
        if self._wire is None or self._wire.is_closing():
            return
        if self._reader.complete and not self._reader.surplus and not self._ending:
            self._reader.next_request()
            # Only a proven client may hold a connection open for long without using it.
            bounds = self._bounds
            self._deadline.set(bounds.header_timeout_s if self._stranger else bounds.keep_alive_s)
        else:
            self._wire.close_lingering()

    # --- refusing --------------------------------------------------------------------------------

    def _refuse(self, error: AIGovToolError) -> None:
        """Answer `error` if nothing was answered yet to this request, then close."""
        wire, cycle = self._wire, self.cycle
        if wire is None:
            return
        self._refused(error)
        self._deadline.clear()
        if self._answering() and not self._in_fast_path:
            if cycle.response_started:
                wire.abort()
                return
            cycle.disconnected = True  # whatever the application sends from now on goes nowhere
            cycle.message_event.set()
        wire.write(wire_problem(error))
        wire.close_lingering()

    @property
    def _in_fast_path(self) -> bool:
        return self._fast is not None and self._fast.in_use

    @property
    def _ending(self) -> bool:
        return self._fast is not None and self._fast.ending

    def _answering(self) -> bool:
        # The base class declares the cycle as always present; before the first request it is None.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return self._in_fast_path or (cycle is not None and not cycle.response_complete)

    def _expired(self) -> None:
        if self._wire is None:
            return
        if self.flow.read_paused:  # we are the slow one: the application does not take the body
            self._begin_body()
            return
        if not self._reader.idle:
            self._notices.note(self._network, "too_slow")
        elif cast("RequestResponseCycle | None", self.cycle) is None:
            self._notices.note(self._network, "silent")
        self._wire.abort()

    def _unread(self) -> None:
        self._notices.note(self._network, "answer_not_read")
        self._stalled()

    def _stalled(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    # --- the application ---------------------------------------------------------------------------

    async def _guarded(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        cycle = self.cycle
        length = DeclaredLength()

        async def send_checked(event: Event) -> None:
            if cycle.disconnected:
                # As ASGI 2.4 has it. uvicorn returns in silence, and an endless answer would never end.
                raise ClientDisconnected
            if event["type"] == "http.response.start" and not self._reader.complete:
                cycle.keep_alive = False  # uvicorn then says `connection: close` and closes
                if self._wire is not None:
                    self._wire.linger_on_close = True
            if not length.ended:
                await send(length.seen(event))
            if event.get("more_body"):
                # The loop tells that the peer has gone in a turn of its own. A stream that never waits would not let
                # it, and go on for nobody.
                await asyncio.sleep(0)

        try:
            await self._rounds.turn("" if self._connection is None else self._connection.sharer, 1)
            await self._application(scope, receive, send_checked)
        except asyncio.CancelledError:
            self._stalled()
        except Exception as exception:  # noqa: BLE001 - the last line of defence: rule 5
            if not cycle.disconnected:  # else it was refused or is gone: there is nobody to tell
                await self._fail(exception, scope, receive, send_checked)

    async def _fail(self, exception: Exception, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        error = exception if isinstance(exception, AIGovToolError) else unexpected(exception)
        if self.cycle.response_started:
            self._stalled()
        else:
            await problem(error)(scope, receive, send)
