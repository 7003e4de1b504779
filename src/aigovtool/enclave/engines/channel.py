"""The child's end of the channel: blocking, one reader at a time, any number of writers."""

import socket
import struct
import threading
from collections.abc import Sequence
from typing import Final

from aigovtool.enclave.engines.ipc import Assembler, Frame, ToParent, encode_frame
from aigovtool.errors import MalformedError
from aigovtool.protocol.tensor import Buffer


class Channel:
    """Frames over a blocking socket; `receive` is for one thread at a time, `send` for any."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket: Final = sock
        self._assembler: Final = Assembler()
        self._frames: list[Frame] = []
        self._descriptors: list[int] = []
        self._send_lock: Final = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def receive(self) -> Frame:
        """Return the next frame; not to be called by two threads at once.

        Raises:
            EOFError: the parent has closed its end.
            MalformedError, TooLargeError: the parent sent something else.
            OSError: the socket failed.
        """
        while not self._frames:
            count, ancillary, _, _ = self._socket.recvmsg_into(
                [self._assembler.buffer()], socket.CMSG_SPACE(struct.calcsize("i"))
            )
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._descriptors += struct.unpack(f"{len(data) // 4}i", data)
            if count == 0:
                raise EOFError
            # Reversed, so that taking the next one is cheap.
            self._frames = self._assembler.received(count)[::-1]
        return self._frames.pop()

    def take_descriptor(self) -> int:
        """Return the descriptor that came with the `Load` just received.

        Raises:
            MalformedError: `bad_frame` when there is none.
        """
        if not self._descriptors:
            raise MalformedError("a load came without its package", reason="bad_frame")
        return self._descriptors.pop(0)

    def send(self, message: ToParent, data: Sequence[Buffer] = ()) -> None:
        """Send one frame, whole.

        Raises:
            TooLargeError: `frame_too_large`; nothing was sent.
            OSError: the socket failed.
        """
        buffers = encode_frame(message, data)
        with self._send_lock:
            if len(buffers) == 1:
                self._socket.sendall(buffers[0])
                return
            for part in buffers:
                self._socket.sendall(part)
