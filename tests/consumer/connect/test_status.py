"""The status, for programs and on the page."""

import re

from tests.consumer.conftest import CONSUMER, MANIFEST, MODEL, FakeEnclave, World
from tests.consumer.connect.kit import connected

from aigovtool.codec import decode
from aigovtool.consumer.connect.member import Tally
from aigovtool.consumer.connect.status import Status


async def test_it_says_what_was_proven_and_what_is_left(world: World, enclave: FakeEnclave) -> None:
    """Of each enclave: evidence, models with their digests, units by the last receipt, how it answered."""
    async with connected(world, enclave) as asking:
        before = decode((await asking.program.get("/aigovtool/status")).content, Status)
        await asking.infer()
        after = decode((await asking.program.get("/aigovtool/status")).content, Status)
    (first,), (second,) = before.enclaves, after.enclaves
    assert (after.consumer, after.simulated, after.receipts_kept) == (CONSUMER, True, 1)
    assert (second.enclave, second.state.value, second.instance) == (enclave.url, "verified", enclave.instance)
    assert [(one.model, one.manifest) for one in second.models] == [(MODEL, MANIFEST)]
    assert first.models[0].remaining is None
    assert second.models[0].remaining is not None
    assert second.models[0].remaining.inferences == 9
    assert (first.answered, second.answered, second.under_way) == (0, 1, 0)
    assert second.latency_ms == second.latency_p50_ms == second.latency_p99_ms
    assert second.latency_ms is not None
    assert first.latency_p50_ms is None
    assert [line.event.value for line in after.seen] == ["verified", "started"]
    assert second.measurements
    assert second.verified_at_ms is not None
    assert second.verified_at_ms <= after.now_ms < (second.valid_until_ms or 0)


async def test_nothing_of_what_was_asked_is_in_it(world: World, enclave: FakeEnclave) -> None:
    """Numbers and names of who answered; no input, no output, no request id."""
    async with connected(world, enclave) as asking:
        await asking.infer(aigovtool_request_id="patient-7")
        content = (await asking.program.get("/aigovtool/status")).text
    assert "patient-7" not in content
    assert "FP32" not in content


async def test_the_page_needs_nothing_of_anybody_else(world: World, enclave: FakeEnclave) -> None:
    """Its parts are the gateway's own; nothing is inline, and nobody may show it in a frame."""
    async with connected(world, enclave) as asking:
        page = await asking.program.get("/")
        parts = [await asking.program.get(path) for path in re.findall(r'(?:src|href)="([^"]+)"', page.text)]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert [(part.status_code, part.headers["content-type"].split(";")[0]) for part in parts] == [
        (200, "image/svg+xml"),
        (200, "text/css"),
        (200, "text/javascript"),
    ]
    assert not re.search(r"(?i)<script>|<style|\son[a-z]+=|style=|https?://", page.text)
    script = next(part.text for part in parts if "javascript" in part.headers["content-type"])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_how_long_answers_took_is_told_of_the_last_thousand() -> None:
    """Within which half of them came, and 99 of 100; nothing of what was long ago."""
    tally = Tally()
    assert tally.within_s(50) is None
    for second in range(5_000, 0, -1):
        tally.took(float(second))
    assert (tally.within_s(50), tally.within_s(99), tally.within_s(100)) == (500.0, 990.0, 1_000.0)
    alone = Tally()
    alone.took(3.0)
    assert (alone.within_s(50), alone.within_s(99)) == (3.0, 3.0)
