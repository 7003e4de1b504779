"""The cache of endorsements: fetched when needed, kept on disk, refreshed early, usable without a network."""

import asyncio
from pathlib import Path

import pytest

from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.custodian.endorsements.cache import FRESH_MS, EndorsementCache, fresh_ms
from aigovtool.errors import ConfigurationError, UnreachableError

LIST = "https://kdsintf.amd.com/vcek/v1/Milan/crl"
CHAIN = "https://kdsintf.amd.com/vcek/v1/Milan/cert_chain"
DAY_MS = 86_400_000


class Vendor:
    """Answers each request with how many there were."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False
        self.now_ms = 100 * DAY_MS

    async def fetch(self, url: str, now_ms: int) -> Fetched:
        self.asked.append(url)
        await asyncio.sleep(0)
        if self.away:
            raise UnreachableError("the vendor is away", reason="vendor_unreachable")
        return Fetched(url=url, fetched_at_ms=now_ms, body=b"%d" % len(self.asked), headers={})


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


def cache_of(vendor: Vendor, tmp_path: Path, *, offline: bool = False) -> EndorsementCache:
    return EndorsementCache(tmp_path / "endorsements", None if offline else vendor.fetch, lambda: vendor.now_ms)


async def body(cache: EndorsementCache, url: str = LIST) -> bytes:
    return (await cache.get([url]))[url].body


async def test_an_answer_is_fetched_once_until_it_is_not_fresh(vendor: Vendor, tmp_path: Path) -> None:
    """A list for a day, a certificate of a chip for thirty: and also by a custodian that was started again."""
    cache = cache_of(vendor, tmp_path)
    assert await body(cache) == await body(cache) == await body(cache_of(vendor, tmp_path)) == b"1"
    assert await body(cache, CHAIN) == b"2"
    vendor.now_ms += FRESH_MS
    assert await body(cache) == b"3"
    assert await body(cache, CHAIN) == b"2"
    assert (fresh_ms(LIST), fresh_ms(CHAIN)) == (DAY_MS, 30 * DAY_MS)
    vendor.now_ms -= 5 * DAY_MS  # a clock that was put back keeps nothing for ever
    assert await body(cache) == b"4"


async def test_without_the_vendor_what_is_there_is_used(vendor: Vendor, tmp_path: Path) -> None:
    """Its signed dates say whether it is still good; what was never there is a clear error."""
    cache = cache_of(vendor, tmp_path)
    await body(cache)
    vendor.now_ms += 3 * FRESH_MS
    vendor.away = True
    assert await body(cache) == b"1"
    with pytest.raises(UnreachableError) as caught:
        await body(cache, CHAIN)
    assert caught.value.reason == "vendor_unreachable"
    offline = cache_of(vendor, tmp_path, offline=True)
    assert await body(offline) == b"1"
    with pytest.raises(UnreachableError) as caught:
        await body(offline, CHAIN)
    assert "aigovtool endorsements add" in (caught.value.fix or "")


async def test_a_vendor_that_is_away_is_left_alone_for_a_while(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: many boots, each of which would ask the vendor, from whose service we could then be locked out."""
    cache = cache_of(vendor, tmp_path)
    vendor.away = True
    for _ in range(20):
        with pytest.raises(UnreachableError):
            await body(cache)
    assert len(vendor.asked) == 1
    vendor.now_ms += 30_000
    vendor.away = False
    assert await body(cache) == b"2"


async def test_many_at_once_ask_the_vendor_once(vendor: Vendor, tmp_path: Path) -> None:
    """A hundred enclaves of one platform boot in the same moment."""
    cache = cache_of(vendor, tmp_path)
    assert set(await asyncio.gather(*(body(cache) for _ in range(100)))) == {b"1"}
    assert vendor.asked == [LIST]


async def test_what_was_used_is_refreshed_before_it_is_old(vendor: Vendor, tmp_path: Path) -> None:
    """At half its time, without anybody waiting for it; what nobody used for 30 days is not."""
    cache = cache_of(vendor, tmp_path)
    await body(cache)
    vendor.now_ms += FRESH_MS // 2 - 1
    await cache.refresh()
    assert len(vendor.asked) == 1
    vendor.now_ms += 1
    await cache.refresh()
    assert len(vendor.asked) == 2
    assert await body(cache) == b"2"
    vendor.away = True
    vendor.now_ms += FRESH_MS
    await cache.refresh()  # a failure is nobody's
    vendor.away = False
    vendor.now_ms += 31 * DAY_MS
    await cache.refresh()
    assert len(vendor.asked) == 3


async def test_an_answer_may_be_brought_by_hand(vendor: Vendor, tmp_path: Path) -> None:
    """For a custodian without a way to the vendor; the files say nothing to other users."""
    cache = cache_of(vendor, tmp_path, offline=True)
    cache.add(Fetched(url=LIST, fetched_at_ms=vendor.now_ms, body=b"by hand", headers={}))
    assert await body(cache) == b"by hand"
    (file,) = (tmp_path / "endorsements").iterdir()
    assert file.stat().st_mode & 0o077 == 0


async def test_a_damaged_or_renamed_file_is_not_believed(vendor: Vendor, tmp_path: Path) -> None:
    """It is fetched again, as if it were not there."""
    cache = cache_of(vendor, tmp_path)
    await body(cache)
    (file,) = (tmp_path / "endorsements").iterdir()
    good = file.read_bytes()
    for damaged in (good[:-1], b"", good.replace(b"Milan", b"Genoa")):
        file.write_bytes(damaged)
        vendor.now_ms += 30_000
        assert await body(cache) != b"1"


async def test_the_cache_does_not_grow_without_bound(
    vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: evidence of many chips; the oldest answers make room."""
    monkeypatch.setattr("aigovtool.custodian.endorsements.cache._MAX_FILES", 5)
    cache = cache_of(vendor, tmp_path)
    for number in range(12):
        await body(cache, f"{CHAIN}?chip={number}")
    assert len(list((tmp_path / "endorsements").iterdir())) == 5


def test_a_directory_that_others_can_read_is_refused(vendor: Vendor, tmp_path: Path) -> None:
    """Which chips are asked for tells whose machines run what."""
    (tmp_path / "endorsements").mkdir(mode=0o755)
    with pytest.raises(ConfigurationError):
        cache_of(vendor, tmp_path)
