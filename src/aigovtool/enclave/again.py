"""When an instance attests again: in good time before its attestation runs out, and as long as that lasts.

And at once when the custodian has taken back an authority for attestation keys: consumers do not believe it any more.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aigovtool.crypto.sign import Envelope
from aigovtool.enclave.boot import Instance
from aigovtool.errors import AIGovToolError

_LOG: Final = logging.getLogger(__name__)
#: After this share of an attestation's life it is made anew; after a failure it is tried again within these bounds.
_AFTER: Final = 0.6
_LEAST_S: Final = 0.5
_MOST_S: Final = 300.0


async def attest_in_time(
    instance: Instance, take: Callable[[Envelope], None], failed: Callable[[AIGovToolError], None]
) -> None:
    """Attest again, for ever. When it fails it is tried until the attestation has run out, which ends the instance.

    Args:
        instance: what is attested; its `attested` is replaced each time.
        take: gets the stop state that came with each admission.
        failed: is told of each failure.
    """
    while True:
        admission = instance.admission
        life_s = max(0, admission.valid_until_ms - admission.server_time_ms) / 1000
        with suppress(TimeoutError):
            async with asyncio.timeout(life_s * _AFTER):
                await instance.keys.uncertified.wait()
        instance.keys.uncertified.clear()
        while instance.admission is admission:
            try:
                await _again(instance, take)
            except AIGovToolError as error:
                failed(error)
                await asyncio.sleep(min(_MOST_S, max(_LEAST_S, life_s * (1 - _AFTER) / 10)))


async def _again(instance: Instance, take: Callable[[Envelope], None]) -> None:
    attested = await instance.attestation.again(instance.tls_spki, instance.keys)
    instance.attested.claims, instance.attested.admission = attested.claims, attested.admission
    take(attested.admission.stop_state)
    _LOG.info("attested_again", extra={"valid_until_ms": attested.admission.valid_until_ms})
