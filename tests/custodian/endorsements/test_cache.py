"""The cache of endorsements: fetched when needed, judged before it is kept, refreshed early, usable offline."""

import asyncio
import functools
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.attestation.tee.snp import maker as snp

from aigovtool.attestation.model import Evidence
from aigovtool.attestation.tee.completion import Vendors
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.attestation.tee.snp.endorsement_key import KeyKind, read_endorsement_key
from aigovtool.attestation.tee.snp.product import Product
from aigovtool.attestation.tee.snp.wanted import leaf_address, list_address
from aigovtool.custodian.endorsements.allowance import MOST
from aigovtool.custodian.endorsements.cache import FRESH_MS, EndorsementCache, fresh_ms
from aigovtool.custodian.endorsements.completion import complete, completed_again
from aigovtool.custodian.endorsements.kept import Kept, KeptAnswers
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    EvidenceError,
    InvalidValueError,
    UnreachableError,
)

MILAN = Product.MILAN
LIST, GENOA_LIST = list_address(MILAN, KeyKind.VCEK), list_address(Product.GENOA, KeyKind.VCEK)
TCB = read_endorsement_key(snp.usual_leaf()).tcb
LEAF = leaf_address(MILAN, snp.CHIP[MILAN], TCB)
DAY_MS = 86_400_000
US = "us"
BARE = Evidence(tee=snp.bundle(None).tee, data=snp.bundle(None).data)


@functools.cache
def listing(*serials: int, days: int = 1, lasts: int = 60) -> bytes:
    """Return a list of Milan's that was made so many days before the tests begin; the same for the same words."""
    since = snp.NOW - days * snp.DAY
    return snp.revocation_list(*serials, since=since, until=since + timedelta(lasts)).public_bytes(Encoding.DER)


def chip(number: int) -> str:
    return leaf_address(MILAN, number.to_bytes(64, "big"), TCB)


class Vendor:
    """AMD's service: what it answers by address, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False
        self.broken: set[str] = set()
        self.now_ms = snp.NOW_MS
        self.says: dict[str, bytes | None] = {LIST: listing(), LEAF: snp.der(snp.usual_leaf())[0]}

    async def fetch(self, url: str, now_ms: int) -> Fetched:
        self.asked.append(url)
        await asyncio.sleep(0)
        if url in self.broken:
            raise RuntimeError
        if self.away:
            raise UnreachableError("the vendor is away", reason="vendor_unreachable")
        body = self.says.get(url)
        if body is None:
            raise UnreachableError("nothing is there", reason="not_at_vendor")
        return Fetched(url=url, fetched_at_ms=now_ms, body=body, headers={})


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


def cache_of(vendor: Vendor, tmp_path: Path, *, offline: bool = False) -> EndorsementCache:
    fetch = None if offline else vendor.fetch
    return EndorsementCache(tmp_path / "endorsements", fetch, lambda: vendor.now_ms, Vendors(amd=snp.roots()))


async def body(cache: EndorsementCache, url: str = LIST, asker: str = US) -> bytes | None:
    found = (await cache.get([url], asker)).get(url)
    return None if found is None else found.body


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "endorsements").iterdir())


# -- Fetching -----------------------------------------------------------------------------------------------


async def test_an_answer_is_fetched_once_until_it_is_not_fresh(vendor: Vendor, tmp_path: Path) -> None:
    """A list for a day, a certificate of a chip for thirty: and also by a custodian that was started again."""
    cache = cache_of(vendor, tmp_path)
    assert await body(cache) == await body(cache) == await body(cache_of(vendor, tmp_path)) == listing()
    assert vendor.asked == [LIST]
    vendor.says[LIST] = listing(11)
    vendor.now_ms += FRESH_MS
    assert await body(cache) == listing(11)
    assert (fresh_ms(LIST), fresh_ms(LEAF)) == (DAY_MS, 30 * DAY_MS)
    vendor.says[LIST] = listing(12)
    vendor.now_ms -= DAY_MS // 2  # a clock that was put back keeps nothing for ever
    assert await body(cache) == listing(12)


async def test_without_the_vendor_what_is_there_is_used(vendor: Vendor, tmp_path: Path) -> None:
    """Its signed dates say whether it is still good; of what was never there, nothing is."""
    cache = cache_of(vendor, tmp_path)
    await body(cache)
    vendor.now_ms += 3 * FRESH_MS
    vendor.away = True
    assert await body(cache) == listing()
    assert await body(cache, GENOA_LIST) is None
    offline = cache_of(vendor, tmp_path, offline=True)
    assert await body(offline) == listing()
    assert await body(offline, GENOA_LIST) is None


async def test_a_vendor_that_is_away_is_left_alone_for_a_while(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: many boots, each of which would wait for the vendor, or get us locked out of its service."""
    cache = cache_of(vendor, tmp_path)
    vendor.away = True
    for url in (LIST, GENOA_LIST, LEAF, chip(1), LIST):
        assert await body(cache, url) is None
    assert len(vendor.asked) == 1  # all of them are one host's
    vendor.now_ms += 30_000
    vendor.away = False
    assert await body(cache) == listing()


async def test_what_is_not_there_is_not_asked_for_again_and_again(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: a chip that AMD does not know, in every boot; the vendor's other answers are still had."""
    cache = cache_of(vendor, tmp_path)
    for _ in range(20):
        assert await body(cache, chip(1)) is None
    assert vendor.asked == [chip(1)]
    assert await body(cache) == listing()


async def test_many_at_once_ask_the_vendor_once(vendor: Vendor, tmp_path: Path) -> None:
    """A hundred enclaves of one platform boot in the same moment; the addresses of one boot are asked at once."""
    cache = cache_of(vendor, tmp_path)
    assert set(await asyncio.gather(*(body(cache) for _ in range(100)))) == {listing()}
    assert vendor.asked == [LIST]
    gone = asyncio.create_task(body(cache, LEAF))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await cache.get([LEAF, LIST], US)).keys() == {LEAF, LIST}
    assert vendor.asked == [LIST, LEAF]


async def test_a_queue_before_the_vendor_has_an_end(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: more at once than the vendor answers; who comes then is told at once, and nothing is left behind."""
    cache = cache_of(vendor, tmp_path)
    greedy = cache.get([chip(number) for number in range(1, 101)], "greedy")
    found, others = await asyncio.gather(greedy, cache.get([LIST, LEAF], "honest"))
    assert not found
    assert others.keys() == {LIST, LEAF}
    assert len(vendor.asked) == 8 + 2
    crowd = (cache.get([chip(1_000 * who + number) for number in range(8)], str(who)) for who in range(1, 20))
    await asyncio.gather(*crowd)
    assert len(vendor.asked) == 8 + 2 + 64
    assert await body(cache) == listing()


# -- What is kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"<html>busy</html>", listing(lasts=0), snp.der(snp.usual_leaf())[0]])
async def test_an_answer_that_is_something_else_is_silence(vendor: Vendor, tmp_path: Path, bad: bytes) -> None:
    """Attack: a 200 with a proxy's page, or a list that is over. Genuine evidence must not look bad for it."""
    cache = cache_of(vendor, tmp_path)
    vendor.says[LIST] = bad
    assert await body(cache) is None
    assert await body(cache) is None
    assert (len(vendor.asked), files(tmp_path)) == (1, [])
    vendor.now_ms += 30_000
    vendor.says[LIST] = listing(11)
    assert await body(cache) == listing(11)
    vendor.now_ms += FRESH_MS
    vendor.says[LIST] = bad
    assert await body(cache) == listing(11)
    await cache.refresh()
    assert cache.known([LIST])[LIST].body == listing(11)


async def test_an_older_answer_does_not_take_the_place_of_a_newer(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: a list from before the revocation, which is still valid, by whoever sits before the vendor."""
    cache = cache_of(vendor, tmp_path)
    vendor.says[LIST] = listing(11, days=1)
    await body(cache)
    vendor.now_ms += FRESH_MS
    vendor.says[LIST] = listing(days=20)
    assert await body(cache) == listing(11, days=1)
    assert cache.known([LIST])[LIST].body == listing(11, days=1)


async def test_a_certificate_is_kept_once_it_has_proved_something(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: unsigned reports that name chips of others. A certificate fills no disk, and pushes none out."""
    cache = cache_of(vendor, tmp_path)
    found = await cache.get([LEAF], US)
    assert files(tmp_path) == []
    assert await cache.get([LEAF], US) == found
    assert vendor.asked == [LEAF]
    await cache.confirm(found.values())
    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
    assert await body(cache_of(vendor, tmp_path, offline=True), LEAF) == snp.der(snp.usual_leaf())[0]


async def test_invented_chips_leave_nothing_behind(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: evidence that names chip after chip. Each borrower has so many; the others are not kept waiting."""
    cache = cache_of(vendor, tmp_path)
    for number in range(3 * MOST):
        assert await body(cache, chip(number + 1), "greedy") is None
    assert len(vendor.asked) == MOST
    assert await body(cache, LEAF, "honest") is not None


async def test_what_a_borrower_may_ask_is_used_up_by_asking(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: a vendor that is away while one machine tries to boot again and again; then it is back."""
    cache = cache_of(vendor, tmp_path)
    vendor.away = True
    for _ in range(3 * MOST):
        assert await body(cache, chip(1)) is None
    vendor.away = False
    vendor.now_ms += 30_000
    assert await body(cache, LEAF) is not None


async def test_of_two_products_the_one_that_is_known_is_meant(vendor: Vendor, tmp_path: Path) -> None:
    """A report of version 2 does not say which. One of the addresses does not exist, and is asked for once."""
    cache, other = cache_of(vendor, tmp_path), LEAF.replace("Milan", "Genoa")
    assert (await cache.get_one([LEAF, other], US)).keys() == {LEAF}
    assert vendor.asked == [LEAF, other]
    for _ in range(3):
        vendor.now_ms += 60_000
        assert (await cache.get_one([other, LEAF], US)).keys() == {LEAF}
    assert len(vendor.asked) == 2


async def test_a_refresh_that_fails_somewhere_goes_on(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: one address that ends each pass at the same place, before the list that revokes."""
    cache = cache_of(vendor, tmp_path)
    await cache.confirm((await cache.get([GENOA_LIST, LEAF, LIST], US)).values())
    cache.known([GENOA_LIST])
    vendor.says[LIST] = listing(11)
    vendor.broken = {GENOA_LIST}
    vendor.now_ms += FRESH_MS
    await cache.refresh()
    assert GENOA_LIST in vendor.asked
    assert cache.known([LIST])[LIST].body == listing(11)


async def test_a_disk_that_is_full_does_not_make_an_answer_worse(
    vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used for this boot, and asked for again for the next."""

    def full(_self: KeptAnswers, _kept: Kept) -> None:
        raise ConfigurationError("no space", reason="unwritable")

    monkeypatch.setattr(KeptAnswers, "write", full)
    cache = cache_of(vendor, tmp_path)
    found = await cache.get([LIST, LEAF], US)
    assert found.keys() == {LIST, LEAF}
    await cache.confirm(found.values())
    await cache.refresh()


async def test_what_is_over_is_not_put_beside_evidence(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: a vendor that is silent until its list is over. Without the list, evidence was good, and still is."""
    cache = cache_of(vendor, tmp_path)
    vendor.says[LIST] = listing(lasts=2)
    await body(cache)
    vendor.away = True
    vendor.now_ms += 3 * DAY_MS
    assert cache.known([LIST]) == {}
    assert await body(cache) is None


async def test_evicted_machines_are_not_asked_for_again(
    vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: one chip that shows itself under many TCB versions. It pushes out its own borrower's machines only."""
    monkeypatch.setattr("aigovtool.custodian.endorsements.kept._MOST_MACHINES", 3)
    cache = cache_of(vendor, tmp_path)
    await cache.confirm((await cache.get([LEAF], "honest")).values())
    for number in range(5):
        key = snp.CHIP[MILAN][:-1] + bytes([number])
        url = leaf_address(MILAN, key, TCB)
        vendor.says[url] = snp.der(snp.leaf(changes={"4": key}))[0]
        await cache.confirm((await cache.get([url], "greedy")).values())
    assert LEAF in cache.known([LEAF])
    assert len(files(tmp_path)) == 3
    vendor.asked.clear()
    vendor.now_ms += 20 * DAY_MS
    await cache.refresh()
    assert len(vendor.asked) == 3


async def test_invented_chips_are_not_refreshed(vendor: Vendor, tmp_path: Path) -> None:
    """Attack: each hour a request for each chip that somebody has made up."""
    cache = cache_of(vendor, tmp_path)
    for number in range(20):
        await body(cache, chip(number + 1))
    vendor.asked.clear()
    for _ in range(3):
        vendor.now_ms += 3_600_000
        await cache.refresh()
    assert vendor.asked == []


async def test_certificates_of_machines_have_a_bound_and_lists_stay(
    vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine that was not seen for the longest makes room; lists are for all."""
    monkeypatch.setattr("aigovtool.custodian.endorsements.kept._MOST_MACHINES", 3)
    cache = cache_of(vendor, tmp_path)
    await body(cache)
    urls = []
    for number in range(5):
        key = snp.CHIP[MILAN][:-1] + bytes([number])
        leaf = snp.leaf(changes={"4": key})
        urls.append(leaf_address(MILAN, key, TCB))
        vendor.says[urls[-1]] = snp.der(leaf)[0]
        await cache.confirm((await cache.get([urls[-1]], US)).values())
        await cache.confirm((await cache.get([urls[0]], US)).values())  # the first one is used all the time
    assert set(cache.known([LIST, *urls])) == {LIST, urls[0], urls[3], urls[4]}


@pytest.mark.fault(29)
async def test_what_was_used_is_refreshed_before_it_is_old(vendor: Vendor, tmp_path: Path) -> None:
    """At half its time, without anybody waiting for it; what nobody used for 30 days is not."""
    cache = cache_of(vendor, tmp_path)
    await cache.confirm((await cache.get([LIST], US)).values())
    vendor.now_ms += FRESH_MS // 2 - 1
    await cache.refresh()
    assert len(vendor.asked) == 1
    vendor.now_ms += 1
    vendor.says[LIST] = listing(11)
    await cache.refresh()
    assert len(vendor.asked) == 2
    assert cache.known([LIST])[LIST].body == listing(11)
    vendor.away = True
    vendor.now_ms += FRESH_MS
    await cache.refresh()  # a failure is nobody's
    vendor.away = False
    vendor.now_ms += 31 * DAY_MS
    await cache.refresh()
    assert len(vendor.asked) == 3


async def test_a_damaged_or_renamed_file_is_not_believed(vendor: Vendor, tmp_path: Path) -> None:
    """It is fetched again, as if it were not there."""
    cache = cache_of(vendor, tmp_path)
    await body(cache)
    (file,) = files(tmp_path)
    good = file.read_bytes()
    for damaged in (good[:-1], b"", good.replace(b"Milan", b"Genoa")):
        file.write_bytes(damaged)
        assert cache.known([LIST]) == {}
        assert await body(cache) == listing()
    assert len(vendor.asked) == 4


def test_a_directory_that_others_can_read_is_refused(vendor: Vendor, tmp_path: Path) -> None:
    """Which chips are asked for tells whose machines run what."""
    (tmp_path / "endorsements").mkdir(mode=0o755)
    with pytest.raises(ConfigurationError):
        cache_of(vendor, tmp_path)


# -- By hand ------------------------------------------------------------------------------------------------


async def test_an_answer_may_be_brought_by_hand(vendor: Vendor, tmp_path: Path) -> None:
    """For a custodian without a way to the vendor: only what the vendor made, and only if it is newer."""
    cache = cache_of(vendor, tmp_path, offline=True)

    def brought(content: bytes, url: str = LIST, age_ms: int = 0) -> Fetched:
        return Fetched(url=url, fetched_at_ms=vendor.now_ms - age_ms, body=content, headers={})

    assert cache.add(brought(listing(11)))
    assert await body(cache) == listing(11)
    assert cache.answers() == [brought(listing(11))]
    assert not cache.add(brought(listing(11)))
    assert not cache.add(brought(listing(days=20)))
    vendor.now_ms += 1
    assert not cache.add(brought(listing(days=20)))
    assert cache.add(brought(listing(11, 12, days=0)))
    # The file may have had AMD's list for the other kind of key: once AMD can be asked, its word counts.
    vendor.now_ms += FRESH_MS
    vendor.says[LIST] = listing(99, days=3)
    assert await body(cache_of(vendor, tmp_path)) == listing(99, days=3)
    assert await body(cache_of(vendor, tmp_path, offline=True)) == listing(99, days=3)
    refused: list[tuple[Fetched, type[AIGovToolError], str]] = [
        (brought(listing(), "https://attacker.example/crl"), InvalidValueError, "not_a_vendor"),
        (brought(listing(), age_ms=-601_000), InvalidValueError, "fetched_later"),
        (brought(b"page"), EvidenceError, "certificate_encoding"),
        (brought(listing(lasts=0)), EvidenceError, "revocation_stale"),
    ]
    for answer, error, reason in refused:
        with pytest.raises(error) as caught:
            cache.add(answer)
        assert caught.value.reason == reason


# -- Evidence -----------------------------------------------------------------------------------------------


async def test_evidence_is_completed_and_its_answers_are_kept_when_it_is_genuine(
    vendor: Vendor, tmp_path: Path
) -> None:
    """First the certificate, then the list of its product; the next boot of the machine asks nobody."""
    cache = cache_of(vendor, tmp_path)
    completed = await complete(cache, BARE, US)
    assert snp.examine(completed.evidence).verified is not None
    assert completed.added == completed.evidence.endorsements
    assert vendor.asked == [LEAF, LIST]
    await cache.confirm(completed.answers)
    vendor.away = True
    assert (await complete(cache_of(vendor, tmp_path), BARE, US)).evidence == completed.evidence


async def test_evidence_without_its_key_waits_for_the_vendor(vendor: Vendor, tmp_path: Path) -> None:
    """A clear error, that says what can be done; nothing is charged or used up."""
    vendor.away = True
    with pytest.raises(UnreachableError) as caught:
        await complete(cache_of(vendor, tmp_path), BARE, US)
    assert caught.value.reason == "vendor_unreachable"
    assert "aigovtool endorsements add" in (caught.value.fix or "")
    with_key = snp.bundle(None, *snp.der(snp.usual_leaf()))
    assert (await complete(cache_of(vendor, tmp_path), with_key, US)).evidence == with_key
    assert (await complete(None, BARE, US)).evidence == BARE


async def test_evidence_of_old_is_completed_with_what_is_known_since(vendor: Vendor, tmp_path: Path) -> None:
    """Nobody is asked for it; a list that is not here takes nothing away; and it is refreshed from then on."""
    cache = cache_of(vendor, tmp_path)
    kept = snp.bundle(None, *snp.der(snp.usual_leaf(), snp.revocation_list()))
    assert completed_again(cache, kept) == kept
    assert vendor.asked == []
    vendor.says[LIST] = listing(11)
    await cache.refresh()
    assert vendor.asked == [LIST]
    assert snp.refused(completed_again(cache, kept)) == {"revocation": "revoked"}
    assert len(completed_again(cache, kept).endorsements) == len(kept.endorsements)
    assert completed_again(None, kept) == kept
