"""Threads that a library starts: how large their stacks are, and whether there is room for as many as it wants.

A thread takes as much of the addresses as `ulimit -s` says where nobody says otherwise, and the engine's are bounded.
ONNX Runtime waits for ever for the others of a session's threads when one of them cannot be started.

Source: Linux man page pthread_setattr_default_np(3).
"""

import ctypes
import threading
from typing import Final

from aigovtool.enclave.engines.lanes import STACK_BYTES
from aigovtool.errors import EngineError

#: More than a `pthread_attr_t` of any platform (64 bytes on those of ours).
_ATTRIBUTES_BYTES: Final = 512


def bound() -> None:
    """Have all threads that are started from now on take `STACK_BYTES`, whatever limit the machine has."""
    threading.stack_size(STACK_BYTES)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "pthread_setattr_default_np"):  # of the GNU C library, and of musl
        attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
        libc.pthread_attr_init(attributes)
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(STACK_BYTES))
        libc.pthread_setattr_default_np(attributes)
        libc.pthread_attr_destroy(attributes)


def require_room(count: int) -> None:
    """Start so many threads, all at once, and end them.

    Raises:
        EngineError: one could not be started: there is no memory for its stack, or there may be no more of them
            (`out_of_memory`).
    """
    over = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise EngineError(
            "the engine has no room for the threads of this model's runs",
            reason="out_of_memory",
            fix="start the enclave with a smaller --threads-per-run, or give it more memory",
        ) from None
    finally:
        over.set()
        for thread in started:
            thread.join()
