"""Debian's Chromium, driven by Playwright, without a connection to anybody but what a test opens."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, sync_playwright

#: What Chromium does of itself at its start is of no use here, and there is nobody to answer.
_QUIET: Final = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--disable-gpu",
)


def chromium() -> str | None:
    """Return where it is, if it is installed."""
    return shutil.which("chromium")


@contextmanager
def browsing() -> Iterator[Browser]:
    """Start it; it is gone at the end of the block.

    Its own sandbox does not start for root, as which tests in containers run.
    """
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*_QUIET, *sandbox])
        try:
            yield browser
        finally:
            browser.close()
