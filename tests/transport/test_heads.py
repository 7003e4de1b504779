"""What a head costs does not depend on what it is filled with."""

import time
from contextlib import suppress

import pytest

from aigovtool.errors import InputError
from aigovtool.transport.wire import RequestReader

GET = b"GET /hello HTTP/1.1\r\n"


@pytest.mark.parametrize(
    "filling",
    [b" ", b"\t", b" a", b"a ", b" \t", b",", b";", b":", b"=", b"/.", b"/", b"..", b"%41", b"?", b"&a="],
)
def test_what_a_head_is_filled_with_costs_no_time(filling: bytes) -> None:
    """Sixteen KiB of anything are read about as fast as of letters: blanks took a second, from anybody who connects."""

    def seconds(filling: bytes) -> float:
        filled = (filling * 16_000)[:16_000]
        heads = (
            GET + b"Host: a\r\nX: a" + filled + b"b\r\n\r\n",
            GET + b"Host: a\r\nX:" + filled + b"b \r\n\r\n",
            b"GET /" + filled + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        begun = time.process_time()
        for head in heads:
            with suppress(InputError):
                RequestReader().feed(head)
        return time.process_time() - begun

    assert min(seconds(filling) for _ in range(3)) < 50 * max(seconds(b"a") for _ in range(3))
