"""The fixtures that tests of boot and of a run, and those of the way to the custodian, share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.enclave.custodian_host import Host, standing
from tests.enclave.site import Site, open_site

from aigovtool.enclave.custodian_link import CustodianLink


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A borrower's host beside a real custodian."""
    async with open_site(tmp_path) as made:
        yield made


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """What stands at the custodian's address."""
    async with standing() as made:
        yield made


@pytest.fixture
async def link(host: Host) -> AsyncIterator[CustodianLink]:
    """The enclave's way to it."""
    made = CustodianLink(host.address)
    yield made
    await made.close()
