"""Announcements between custodians that share one ledger on PostgreSQL.

An announcement is sent in the transaction of its effect (`NOTIFY`), so it is delivered exactly when the effect is
durable, and never for one that was rolled back. Each custodian listens on a connection of its own and tells the
enclaves that are connected to it. After a broken connection it cannot know what it missed, so it pushes everybody's
stop state again. Nothing depends on it but speed: the stop state is in every renewal.
"""

import asyncio
import logging
from typing import Final

import psycopg

from aigovtool.codec import decode
from aigovtool.custodian.custodian import Custodian, Notice
from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.service.announcements import announce
from aigovtool.custodian.store.postgres import parse_url
from aigovtool.custodian.store.transaction import CHANNEL
from aigovtool.errors import AIGovToolError
from aigovtool.ledger.entry import StopTarget

_LOG: Final = logging.getLogger(__name__)
_RETRY_S: Final = 1.0


async def relay(custodian: Custodian, address: str) -> None:
    """Pass on the announcements of other custodians until cancelled."""
    url = parse_url(address).set(drivername="postgresql").render_as_string()
    while True:
        try:
            await _listen(custodian, url)
        except (psycopg.Error, OSError) as error:
            _LOG.warning("relay_lost", extra={"cause": type(error).__name__})
        await asyncio.sleep(_RETRY_S)


async def _listen(custodian: Custodian, url: str) -> None:
    connection = await psycopg.AsyncConnection.connect(
        url, autocommit=True, connect_timeout=5, keepalives_idle=5, keepalives_interval=2, keepalives_count=3
    )
    async with connection:
        await connection.execute(f"LISTEN {CHANNEL}")
        await _pass_on(custodian, Announcement(stop=StopTarget.ALL))
        async for notification in connection.notifies():
            notice = decode(notification.payload.encode(), Notice)
            if notice.origin != custodian.replica:
                await _pass_on(custodian, notice.announcement)


async def _pass_on(custodian: Custodian, announcement: Announcement) -> None:
    try:
        await announce(custodian, announcement)
    except AIGovToolError as error:
        _LOG.warning("relay_not_passed_on", extra={"code": error.code})
