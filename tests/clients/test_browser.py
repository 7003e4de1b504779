"""What a page in a real browser may do with the gateway, and what it shows of itself."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import requests
from playwright.sync_api import Browser, Page
from tests.clients.deployment import Gateway, connecting
from tests.clients.programs import in_json
from tests.clients.test_matrix import left
from tests.e2e.world import MODEL

from aigovtool.attestation.model import TeeType

ASK = """
async (url) => {
  try {
    const answer = await fetch(url, { method: "POST", body: '{"inputs":[]}', mode: MODE });
    return answer.type + " " + answer.status;
  } catch (error) { return String(error); }
}
"""


@contextmanager
def site(directory: Path) -> Iterator[str]:
    """Serve a page of another origin."""
    (directory / "index.html").write_text("<!doctype html><title>other</title>")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def other(tmp_path: Path, browser: Browser) -> Iterator[Page]:
    """A page of another origin, which is open in the browser."""
    with site(tmp_path) as url:
        page = browser.new_page()
        page.goto(url)
        yield page
        page.close()


@pytest.mark.parametrize("mode", ["cors", "no-cors"])
def test_a_page_of_another_origin_gets_nothing_and_costs_nothing(mode: str, gateway: Gateway, other: Page) -> None:
    """Attack: a page that is open beside asks blindly; a browser sends that even where it shows no answer."""
    before = left(gateway)
    found = other.evaluate(ASK.replace("MODE", f'"{mode}"'), f"{gateway.url}/v2/models/digits/infer")
    assert "200" not in found
    assert left(gateway) == before - 1


def test_a_page_of_an_origin_that_was_allowed_reads_answers(gateway: Gateway, tmp_path: Path, browser: Browser) -> None:
    """As a notebook does, of which the user has said so."""
    (tmp_path / "site").mkdir()
    with site(tmp_path / "site") as origin:
        options = ("--allow-origin", origin)
        with connecting(gateway.world, gateway.credential, tmp_path / "home", *options) as url:
            page = browser.new_page()
            page.goto(origin)
            script = "async (url) => (await (await fetch(url)).json()).name"
            assert page.evaluate(script, f"{url}/v2/models/digits") == "digits"
            page.close()


@pytest.mark.needs("chromium")
def test_the_page_shows_what_was_verified(gateway: Gateway, page: Callable[[], Page]) -> None:
    """In words and colours that nobody overlooks; nothing goes wrong in its script."""
    shown = page()
    wrong: list[str] = []
    shown.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    left(gateway)
    shown.wait_for_selector("article .verified")
    assert shown.locator("#simulated").is_visible()
    text = shown.inner_text("body")
    for words in ("SIMULATED TEE", gateway.enclave, "digits", "sha256:", "SIMULATED, protects nothing", "ward7"):
        assert words in text
    shown.reload()
    shown.wait_for_selector("article .verified")
    assert wrong == []


def test_the_page_says_when_nobody_answers_any_more(gateway: Gateway, tmp_path: Path, browser: Browser) -> None:
    """What it shows is of before, and it says so."""
    with connecting(gateway.world, gateway.credential, tmp_path / "home") as url:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("article .verified")
    page.wait_for_selector("#lost:not([hidden])", timeout=10_000)
    assert "does not answer" in page.inner_text("#lost")
    page.close()


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_a_narrow_and_a_wide_window(width: int, gateway: Gateway, page: Callable[[], Page]) -> None:
    """Nothing reaches beyond its edge, also where there is much to show."""
    requests.post(f"{gateway.url}/v2/models/{MODEL}/infer", data=in_json(np.ones((1, 2)), ["a"]), timeout=30)
    shown = page()
    shown.set_viewport_size({"width": width, "height": 800})
    shown.wait_for_selector("article .verified")
    assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.needs("chromium")
def test_what_somebody_looks_at_stays_as_it_is(gateway: Gateway, page: Callable[[], Page]) -> None:
    """A digest that is being selected, measurements that were opened, and the keyboard's place outlast an update."""
    shown = page()
    shown.wait_for_selector("article .verified")
    shown.locator("article summary").first.click()
    shown.evaluate("window.getSelection().selectAllChildren(document.querySelector('article li code'))")
    answers = shown.inner_text("article")
    # Through the gateway, so that the page counts one more: the age of what was verified changes once a minute only.
    requests.post(f"{gateway.url}/v2/models/{MODEL}/infer", data=in_json(np.ones((1, 2)), ["a"]), timeout=30)
    # Not at each frame: a busy machine draws none for a while.
    differs = "before => document.querySelector('article').innerText !== before"
    shown.wait_for_function(differs, arg=answers, polling=200)
    assert shown.evaluate("window.getSelection().toString()").startswith("sha256:")
    assert shown.evaluate("document.querySelector('article details').open")
    assert shown.evaluate("document.activeElement.tagName") == "SUMMARY"


@pytest.mark.needs("chromium")
def test_the_page_names_each_platform_and_says_in_the_tab_that_nothing_is_verified(
    gateway: Gateway, page: Callable[[], Page]
) -> None:
    """Every kind of TEE has a name for people, and a tab in the background does not look as if all were well."""
    status = requests.get(f"{gateway.url}/aigovtool/status", timeout=30).json()
    (one,) = status["enclaves"]
    shown = page()
    assert shown.title() == "aigovtool connect"
    shown.route(
        "**/aigovtool/status",
        lambda route: route.fulfill(
            json=status | {"enclaves": [one | {"tee": tee, "state": "refused"} for tee in TeeType]}
        ),
    )
    shown.wait_for_function("() => document.title.startsWith('NOT VERIFIED')")
    text = shown.inner_text("#enclaves")
    for name in ("AMD SEV-SNP", "Intel TDX", "Intel SGX", "AWS Nitro", "TPM 2.0", "SIMULATED"):
        assert f"\n{name}, " in text
    assert f"0 of {len(TeeType)} enclaves verified" in shown.inner_text("#sum")
