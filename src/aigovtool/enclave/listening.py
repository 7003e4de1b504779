"""The push stream of an instance, opened again whenever it breaks.

Who answers a line and cuts would have it opened at full speed for ever, if a line were taken for success: the wait
before the next try begins anew only after a stream that has lived. Pushes are a hint; what must be heard is in each
renewal.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from aigovtool.crypto.sign import seal
from aigovtool.enclave.boot import Instance
from aigovtool.errors import AIGovToolError
from aigovtool.ids import MessageId
from aigovtool.protocol import messages
from aigovtool.protocol.messages import Listen, Push

#: Waits before the next try, by how many failed in a row; then the last.
RETRY_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
#: A stream that lasted this long was one: the custodian sends a line at least every 5 s.
LIVED_S: Final = 10.0


def retry_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row before this one."""
    return RETRY_S[min(failures, len(RETRY_S) - 1)]


async def listen(
    instance: Instance,
    pushed: Callable[[Push], Awaitable[None]],
    failed: Callable[[AIGovToolError], None],
    *,
    now_s: Callable[[], float] | None = None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Listen, for ever.

    Args:
        instance: who listens.
        pushed: gets each line.
        failed: is told why a stream broke.
        now_s: the time by which streams live; the event loop's if it is not given.
        pause: waits so many seconds.
    """
    now_s = now_s or asyncio.get_running_loop().time
    failures = 0
    while True:
        opened_s = now_s()
        message = Listen(
            instance=instance.instance, nonce=MessageId(secrets.token_hex(16)), at_ms=instance.custodian_time_ms()
        )
        try:
            async for line in instance.link.listen(seal(messages.LISTEN, message, instance.identity)):
                await pushed(line)
        except AIGovToolError as error:
            failed(error)
        if now_s() - opened_s >= LIVED_S:
            failures = 0
        await pause(retry_s(failures))
        failures += 1
