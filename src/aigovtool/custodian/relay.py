"""Announcements between custodians that share one ledger on PostgreSQL.

An announcement is sent in the transaction of its effect (`NOTIFY`), so it is delivered exactly when the effect is
durable, and never for one that was rolled back. Each custodian listens on a connection of its own and tells the
enclaves that are connected to it. Whenever it cannot know what it missed, it pushes everybody's stop state: after a
broken connection, after an announcement that it could not pass on, and for one that it cannot read, which a newer
custodian may have sent, or any role of the database. Nothing but being cancelled ends it: nobody would notice that
stops no longer cross. Nothing depends on it but speed: the stop state is in every renewal.
"""

import asyncio
import logging
from typing import Final

import psycopg

from aigovtool.codec import decode
from aigovtool.custodian.custodian import Custodian, Notice
from aigovtool.custodian.service.announcements import announce
from aigovtool.custodian.service.continuity import EVERYBODY
from aigovtool.custodian.store.postgres import parse_url
from aigovtool.custodian.store.transaction import CHANNEL
from aigovtool.errors import AIGovToolError

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
        except Exception as error:  # noqa: BLE001 - whatever it was, the next stop must cross again
            _LOG.error("relay_failed", extra={"cause": type(error).__name__})
        await asyncio.sleep(_RETRY_S)


async def _listen(custodian: Custodian, url: str) -> None:
    connection = await psycopg.AsyncConnection.connect(
        url, autocommit=True, connect_timeout=5, keepalives_idle=5, keepalives_interval=2, keepalives_count=3
    )
    async with connection:
        await connection.execute(f"LISTEN {CHANNEL}")
        await announce(custodian, EVERYBODY)
        async for notification in connection.notifies():
            notice = _read(notification.payload)
            if notice is None:
                await announce(custodian, EVERYBODY)
            elif notice.origin != custodian.replica:
                await announce(custodian, notice.announcement)


def _read(payload: str) -> Notice | None:
    try:
        return decode(payload.encode(), Notice)
    except AIGovToolError as error:
        _LOG.error("relay_notice_unreadable", extra={"code": error.code})
        return None
