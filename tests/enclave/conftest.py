"""The fixture that tests of boot and of a run share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.enclave.site import Site, open_site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A borrower's host beside a real custodian."""
    async with open_site(tmp_path) as made:
        yield made
