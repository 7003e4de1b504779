"""Log lines about who was turned away: bounded in number, and nothing uncounted."""

import asyncio
import logging

import pytest

from aigovtool.transport.notices import Notices

LOG = logging.getLogger("aigovtool.test")


@pytest.fixture(autouse=True)
def _listened(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aigovtool.test")


async def test_an_address_has_one_line_at_once_and_one_in_each_period(caplog: pytest.LogCaptureFixture) -> None:
    """What came in between is counted there; a period in which nothing came has none, and the next begins anew."""
    notices = Notices(LOG, period_s=0.2)
    for _ in range(3):
        notices.note("192.0.2.1", "refused")
    notices.note("192.0.2.1", "handshake_failed")
    assert caplog.messages == ["turned_away address=192.0.2.1 refused=1"]
    await asyncio.sleep(0.7)
    assert caplog.messages[1:] == ["turned_away address=192.0.2.1 handshake_failed=1 refused=2"]
    notices.note("192.0.2.1", "refused")
    assert len(caplog.messages) == 3
    notices.close()
    assert len(caplog.messages) == 3


@pytest.mark.fault(31)
async def test_only_so_many_addresses_have_lines_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """The others share one, whoever they are: a thousand addresses cost no memory and no lines."""
    notices = Notices(LOG, period_s=100, addresses=2)
    for number in range(1000):
        notices.note(f"192.0.2.{number}", "refused")
    notices.close()
    assert caplog.messages == [
        "turned_away address=192.0.2.0 refused=1",
        "turned_away address=192.0.2.1 refused=1",
        "turned_away address=others refused=1",
        "turned_away address=others refused=997",
    ]
