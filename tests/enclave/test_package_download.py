"""A package is downloaded once, resumed where it broke off, and kept only if it is the one that was named."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.responses import Response, StreamingResponse
from tests.enclave.custodian_host import Host, answering

from aigovtool.enclave.custodian_link import DOWNLOAD_STUCK, STUCK_TRIES, CustodianLink
from aigovtool.enclave.package_download import Incoming, logged
from aigovtool.errors import (
    AIGovToolError,
    ConfigurationError,
    NotFoundError,
    PackageError,
    UnreachableError,
)
from aigovtool.ids import ModelId, digest_of
from aigovtool.transport.routes import Call

CONTENT = bytes(range(256)) * 20
PACKAGE = digest_of(CONTENT)


async def ranged(call: Call) -> object:
    """Serve as the custodian does."""
    asked = call.request.headers.get("range")
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
    return Response(CONTENT[start:], status_code=206 if asked else 200)


def part(cache: Path) -> Path:
    return cache / f"{PACKAGE.removeprefix('sha256:')}.part"


def files(cache: Path) -> list[Path]:
    return list(cache.iterdir())


async def fetch(link: CustodianLink, cache: Path) -> Path:
    return await link.fetch(PACKAGE, len(CONTENT), cache)


async def test_a_package_is_downloaded_once(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """It lies under its digest; the second time nothing is asked for."""
    host.serve = ranged
    first = await fetch(link, tmp_path)
    assert (first.read_bytes(), first.name) == (CONTENT, f"{PACKAGE.removeprefix('sha256:')}.aigov")
    assert await fetch(link, tmp_path) == first
    assert host.ranges == [None]
    assert files(tmp_path) == [first]


async def test_a_broken_download_is_resumed(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """Only what is missing is asked for."""
    part(tmp_path).write_bytes(CONTENT[:1000])
    host.serve = ranged
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT
    assert host.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("wrong", [CONTENT[:-1], bytes(len(CONTENT)), b""])
async def test_other_bytes_are_not_kept(wrong: bytes, host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """Too short or altered: refused and deleted, so that the next attempt starts afresh."""
    host.serve = answering(Response(wrong))
    with pytest.raises(PackageError) as caught:
        await fetch(link, tmp_path)
    assert caught.value.reason == "download_digest"
    assert files(tmp_path) == []
    host.serve = ranged
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT


async def test_more_than_was_announced_is_not_written(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """A custodian, or whoever plays it, cannot fill the enclave's disk."""
    host.serve = answering(Response(CONTENT * 1000))
    with pytest.raises(PackageError) as caught:
        await fetch(link, tmp_path)
    assert caught.value.reason == "download_digest"
    assert sum(path.stat().st_size for path in files(tmp_path)) <= len(CONTENT)
    host.serve = ranged
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT


async def test_a_damaged_part_does_not_stay_in_the_way(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """What a crash, or the host, left in the cache is thrown away with the first failure."""
    part(tmp_path).write_bytes(bytes(1000))
    host.serve = ranged
    with pytest.raises(PackageError):
        await fetch(link, tmp_path)
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT


@pytest.mark.parametrize("link_to", [os.symlink, os.link], ids=["symbolic", "hard"])
async def test_a_link_in_the_cache_writes_to_no_other_file(
    link_to: Callable[[Path, Path], None], host: Host, link: CustodianLink, tmp_path: Path
) -> None:
    """Whoever can write to the cache cannot have the enclave write elsewhere; the link is replaced by a file."""
    cache, other = tmp_path / "cache", tmp_path / "other"
    cache.mkdir()
    other.write_bytes(b"something of ours")
    link_to(other, part(cache))
    host.serve = ranged
    assert (await fetch(link, cache)).read_bytes() == CONTENT
    assert other.read_bytes() == b"something of ours"
    assert host.ranges == [None]


@pytest.mark.parametrize("suffix", [".part", ".aigov"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
async def test_what_is_no_file_in_the_cache_is_replaced(
    make: Callable[[Path], None], suffix: str, host: Host, link: CustodianLink, tmp_path: Path
) -> None:
    """A pipe would keep the enclave waiting for ever, a device would never end."""
    make(part(tmp_path).with_suffix(suffix))
    host.serve = ranged
    found = await fetch(link, tmp_path)
    assert found.is_file()
    assert found.read_bytes() == CONTENT


async def test_a_directory_in_the_cache_is_a_typed_error(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """It cannot be replaced, and the operator of the host is told."""
    part(tmp_path).mkdir()
    host.serve = ranged
    with pytest.raises(ConfigurationError) as caught:
        await fetch(link, tmp_path)
    assert caught.value.reason == "cache"


async def test_a_server_that_ignores_ranges_does_not_stay_in_the_way(
    host: Host, link: CustodianLink, tmp_path: Path
) -> None:
    """A whole answer to a partial question is not appended."""
    part(tmp_path).write_bytes(CONTENT[:1000])
    host.serve = answering(Response(CONTENT))
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT


async def test_a_package_that_is_not_there_is_said_so(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """As the class that the custodian refused with."""
    host.serve = answering(NotFoundError("no", reason="no_package"))
    with pytest.raises(NotFoundError):
        await fetch(link, tmp_path)


async def test_a_cache_that_cannot_be_written_is_a_typed_error(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """A full or absent disk is the configuration's fault, not a crash of the enclave."""
    host.serve = ranged
    with pytest.raises(AIGovToolError) as caught:
        await fetch(link, tmp_path / "absent")
    assert caught.value.code == "configuration"


# --- Broken off ----------------------------------------------------------------------------------------------


@dataclass
class Cut:
    """Serves a package as a custodian does whose disk, or network, gives no byte from `at` on."""

    at: int
    ranges: bool = True

    async def __call__(self, call: Call) -> object:
        asked = call.request.headers.get("range") if self.ranges else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0

        async def body() -> AsyncIterator[bytes]:
            yield CONTENT[start : self.at]
            raise OSError("the disk")

        length = {"content-length": str(len(CONTENT) - start)}
        return StreamingResponse(body(), status_code=206 if asked else 200, headers=length)


async def broken_off(link: CustodianLink, cache: Path) -> str:
    with pytest.raises(UnreachableError) as caught:
        await fetch(link, cache)
    return caught.value.reason or ""


@pytest.mark.parametrize("ranges", [True, False], ids=["resumed", "from-the-start"])
async def test_a_download_that_comes_no_further_is_told_from_a_network_that_breaks(
    ranges: bool,  # noqa: FBT001
    host: Host,
    link: CustodianLink,
    tmp_path: Path,
) -> None:
    """After a few in a row at the same place, and not as long as each comes a byte further; mended, it is fetched."""
    for at in (1000, 1001, 2000):
        host.serve = Cut(at, ranges)
        assert await broken_off(link, tmp_path) == "custodian"
    told = [await broken_off(link, tmp_path) for _ in range(STUCK_TRIES + 1)]
    assert told == ["custodian"] * (STUCK_TRIES - 1) + [DOWNLOAD_STUCK] * 2
    host.serve = Cut(2001, ranges)
    assert await broken_off(link, tmp_path) == "custodian"
    host.serve = ranged
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT


async def test_a_download_that_never_begins_is_told_as_well(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """Not one byte of it comes, though all else is answered: as where small messages pass and large ones do not."""
    host.serve = Cut(0)
    told = [await broken_off(link, tmp_path) for _ in range(STUCK_TRIES)]
    assert told == ["custodian"] * (STUCK_TRIES - 1) + [DOWNLOAD_STUCK]
    part(tmp_path).unlink()
    host.serve = ranged
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT
    part(tmp_path).write_bytes(b"")
    (tmp_path / f"{PACKAGE.removeprefix('sha256:')}.aigov").unlink()
    host.serve = Cut(0)
    assert await broken_off(link, tmp_path) == "custodian"


# --- Told meanwhile ------------------------------------------------------------------------------------------


async def test_what_is_there_is_told_again_and_again(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """What an earlier try has left, and what comes, up to all of it."""
    part(tmp_path).write_bytes(CONTENT[:1000])
    host.serve = ranged
    told: list[int] = []
    await link.fetch(PACKAGE, len(CONTENT), tmp_path, told.append)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (1000, len(CONTENT))


async def test_a_partial_answer_to_a_whole_question_is_not_appended(
    host: Host, link: CustodianLink, tmp_path: Path
) -> None:
    """A part as long as the package, which a crash left: all is asked for, and so what comes is all."""
    part(tmp_path).write_bytes(bytes(len(CONTENT)))
    host.serve = answering(Response(CONTENT, status_code=206))
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT
    assert host.ranges == [None]


def test_a_long_download_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """Every ten seconds, by model, in MiB; one that is over sooner is not told of."""
    caplog.set_level(logging.INFO, "aigovtool.enclave.package_download")
    now_s = [0.0]
    tell = logged(ModelId("xray"), 300 << 20, lambda: now_s[0])
    for second in range(25):
        now_s[0] = float(second)
        tell(second << 20)
    told = [(record.message, record.model, record.mib, record.of_mib) for record in map(vars_of, caplog.records)]
    assert told == [("package_download", "xray", 10, 300), ("package_download", "xray", 20, 300)]


def vars_of(record: logging.LogRecord) -> SimpleNamespace:
    return SimpleNamespace(**vars(record))


async def test_what_this_process_has_hashed_is_not_hashed_again(
    host: Host, link: CustodianLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a link that breaks every minute, gigabytes would be read each time before anything is asked for."""
    host.serve = Cut(1000)
    assert await broken_off(link, tmp_path) == "custodian"
    monkeypatch.setattr(Incoming, "_hash", None)
    host.serve = answering(NotFoundError("no", reason="no_package"))
    with pytest.raises(NotFoundError):
        await fetch(link, tmp_path)
    host.serve = Cut(2000)
    assert await broken_off(link, tmp_path) == "custodian"
    host.serve = ranged
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT
    assert host.ranges == [None, "bytes=1000-", "bytes=1000-", "bytes=2000-"]


async def test_a_whole_part_is_taken_as_it_is(host: Host, link: CustodianLink, tmp_path: Path) -> None:
    """Whoever wrote it was killed before it had its name: nothing is asked for."""
    part(tmp_path).write_bytes(CONTENT)
    assert (await fetch(link, tmp_path)).read_bytes() == CONTENT
    assert host.ranges == []


async def test_a_part_that_its_host_makes_longer_is_hashed_to_its_length(tmp_path: Path) -> None:
    """It could go on for ever; what is more than was there is none of the package."""
    path = part(tmp_path)
    path.write_bytes(CONTENT[:1000])
    with path.open("r+b") as file:

        def longer(_done: int) -> None:
            with path.open("ab") as other:
                other.write(bytes(1 << 20))

        incoming = Incoming(file, 1 << 30, longer)
        assert await incoming.resume() == 1000
        assert incoming.is_package(digest_of(CONTENT[:1000]))


async def test_an_enclave_that_is_told_to_end_does_not_hash_to_the_end(tmp_path: Path) -> None:
    """The thread that hashes finds its file closed."""
    path, told = part(tmp_path), asyncio.Event()
    path.touch()
    os.truncate(path, 1 << 32)  # no disk is used for what was not written
    loop, seen = asyncio.get_running_loop(), []

    def tell(done: int) -> None:
        seen.append(done)
        loop.call_soon_threadsafe(told.set)

    with path.open("r+b") as file:
        hashing = asyncio.create_task(Incoming(file, 1 << 33, tell).resume())
        await told.wait()
        hashing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hashing
    before = len(seen)
    await asyncio.get_running_loop().shutdown_default_executor()
    assert len(seen) <= before + 1
