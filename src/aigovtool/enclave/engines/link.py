"""The parent's end of the channel: frames over a non-blocking socket on the event loop.

What is sent within one turn of the loop leaves in one system call. Nothing here blocks: large tensors move in
pieces of what the socket takes, and one turn reads a bounded amount, so that a busy child does not starve the
rest of the enclave. Descriptors are duplicated when they are queued, so the caller may close its own.

It does not know what the messages mean (`process` does), and it does not bound its queue (`process` counts).
"""

import asyncio
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from aigovtool.enclave.engines.ipc import Assembler, Frame, Message, encode_frame
from aigovtool.errors import InputError
from aigovtool.protocol.tensor import Buffer

# System calls of one turn of the loop, and the bytes with which it ends as well: a turn moves some 3 MiB each way, in
# about a millisecond.
_CALLS_PER_TURN: Final = 16
_BYTES_PER_TURN: Final = 3 << 20
# A tensor as large as this leaves in one call, where the kernel lets a process have such a buffer (net.core.wmem_max);
# else it leaves in pieces, with a turn of the loop and a switch to the child and back for each.
_SEND_BUFFER_BYTES: Final = 2 << 20
# IOV_MAX is 1024; a few dozen buffers fill the socket.
_BUFFERS_PER_SEND: Final = 64


class Link:
    """Sends messages, and calls `on_frame` for each that comes; `on_lost` once when the channel is of no more use."""

    def __init__(self, sock: socket.socket, on_frame: Callable[[Frame], None], on_lost: Callable[[str], None]) -> None:
        """Take over `sock`, which must be non-blocking, on the running event loop."""
        self._socket: Final = sock
        self._on_frame: Final = on_frame
        self._on_lost: Final = on_lost
        self._loop: Final = asyncio.get_running_loop()
        self._assembler: Final = Assembler()
        # A buffer, and the descriptor that goes with its first byte (-1: none).
        self._queue: Final[deque[tuple[memoryview, int]]] = deque()
        self._flush_due = False
        self._waiting = False
        self._closed = False
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._loop.add_reader(sock, self._readable)

    def send(self, message: Message, data: Sequence[Buffer] = (), *, descriptor: int = -1, alone: bool = False) -> None:
        """Queue one frame, and a copy of `descriptor` with it; dropped without a word after `close`.

        `alone`: nothing else is under way, so waiting for company would only cost a turn of the loop.

        Raises:
            TooLargeError: `frame_too_large`; nothing was queued.
        """
        buffers = encode_frame(message, data)
        if self._closed:
            return
        attached = os.dup(descriptor) if descriptor >= 0 else -1
        for buffer in buffers:
            self._queue.append((memoryview(buffer).cast("B"), attached))
            attached = -1
        if self._flush_due or self._waiting:
            return
        if alone:
            self._flush()
        else:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Let go of the socket and of all that is queued; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        for _, attached in self._queue:
            if attached >= 0:
                os.close(attached)
        self._queue.clear()
        self._socket.close()

    def _lose(self, why: str) -> None:
        if not self._closed:
            self.close()
            self._on_lost(why)

    def _flush(self) -> None:
        self._flush_due = False
        sent = 0
        try:
            for _ in range(_CALLS_PER_TURN):
                if not self._queue or sent >= _BYTES_PER_TURN:
                    break
                sent += self._send_some()
        except BlockingIOError:
            pass
        except OSError:
            self._lose("its channel broke")
        self._wait_to_write(bool(self._queue))

    def _wait_to_write(self, wanted: bool) -> None:  # noqa: FBT001 - the only argument
        if wanted == self._waiting or self._closed:
            return
        self._waiting = wanted
        if wanted:
            self._loop.add_writer(self._socket, self._flush)
        else:
            self._loop.remove_writer(self._socket)

    def _send_some(self) -> int:
        first, attached = self._queue[0]
        if attached >= 0:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [attached]))]
            sent = self._socket.sendmsg([first], rights)
            os.close(attached)
            self._queue[0] = (first, -1)
        else:
            batch: list[memoryview] = []
            for buffer, descriptor in islice(self._queue, _BUFFERS_PER_SEND):
                if descriptor >= 0:
                    break
                batch.append(buffer)
            sent = self._socket.sendmsg(batch)
        self._sent(sent)
        return sent

    def _sent(self, count: int) -> None:
        while self._queue and count >= len(self._queue[0][0]):
            count -= len(self._queue.popleft()[0])
        if count:
            buffer, attached = self._queue[0]
            self._queue[0] = (buffer[count:], attached)

    def _readable(self) -> None:
        try:
            for _ in range(_CALLS_PER_TURN):
                count = self._socket.recv_into(self._assembler.buffer())
                if count == 0:
                    self._lose("it closed its channel")
                    return
                for frame in self._assembler.received(count):
                    self._on_frame(frame)
                if self._closed:
                    return
        except BlockingIOError:
            return
        except InputError as error:
            self._lose(f"it broke the protocol: {error.message}")
        except OSError:
            self._lose("its channel broke")
