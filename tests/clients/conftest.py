"""One deployment for all clients of a test process, and a browser."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page
from tests.clients.browser import browsing
from tests.clients.deployment import Gateway, deployed


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A lent model behind a gateway."""
    with deployed(tmp_path_factory.mktemp("clients")) as made:
        yield made


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Chromium, for one test: as long as it runs, Playwright has an event loop in this thread, and nobody else may."""
    with browsing() as made:
        yield made


@pytest.fixture
def page(gateway: Gateway, request: pytest.FixtureRequest) -> Callable[[], Page]:
    """Return a function that opens the gateway's own page, in a browser that starts when it is wanted first."""

    def opened() -> Page:
        browser: Browser = request.getfixturevalue("browser")
        made = browser.new_page()
        made.goto(gateway.url)
        return made

    return opened
