"""The custodian's cache of endorsements: on disk, refreshed before it is old, and usable without a network.

Each answer of a vendor is one file, named by the hash of its address. What is asked for is fetched if it is not there
or is not fresh; if that fails, what is there is used: whether it is still good is said by the signed dates within, and
by the policy's greatest age of collateral, not by the cache.

What comes back is judged before it is kept or used: a proxy's page, another machine's certificate, or a list older than
the one that is here are as good as silence. Evidence that nobody has verified yet decides which machine's certificate
is asked for. So each borrower may ask for a certain number of machines that are not known here; and such a certificate
is kept only once it has made evidence genuine (`confirm`), which takes the machine itself.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from aigovtool.attestation.tee.completion import Vendors, is_of_one_machine
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.codec import decode, encode
from aigovtool.crypto.keyfile import make_private_directory, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.custodian.endorsements.allowance import Allowances
from aigovtool.custodian.endorsements.vendor import require_vendor
from aigovtool.errors import AIGovToolError, EvidenceError, InputError, InvalidValueError, UnreachableError
from aigovtool.limits import MAX_REVOCATION_LIST_BYTES

_LOG: Final = logging.getLogger(__name__)
_DAY_MS: Final = 86_400_000
#: When an answer is fetched anew: vendors publish lists and TCB information some days before the old ones end.
FRESH_MS: Final = _DAY_MS
#: The certificate of a chip for a TCB version is issued once.
_CERTIFICATE_FRESH_MS: Final = 30 * _DAY_MS
_USED_MS: Final = 30 * _DAY_MS
#: After a failure a vendor's host is left alone so long: boots must not become a flood, nor wait one after the other.
_PAUSE_MS: Final = 30_000
#: How far the clocks of two machines may be apart.
_CLOCKS_DIFFER_MS: Final = 10 * 60_000
#: More requests at once than a vendor answers in the time that a boot waits: the next ones are refused at once.
_MOST_UNDER_WAY: Final = 32
#: Certificates of so many machines and TCB versions. The one that was used the longest ago makes room.
_MOST_MACHINES: Final = 4_096
#: Addresses at which nothing was, and certificates that have not proved anything yet.
_MOST_REMEMBERED: Final = 1_024
_MAX_FILE_BYTES: Final = 2 * MAX_REVOCATION_LIST_BYTES
#: Where a custodian keeps it, in its own directory.
CACHE_DIRECTORY: Final = "endorsements"

Fetch = Callable[[str, int], Awaitable[Fetched]]
V = TypeVar("V")


def fresh_ms(url: str) -> int:
    """Return for how long the answer at an address is not fetched again."""
    return _CERTIFICATE_FRESH_MS if is_of_one_machine(url) else FRESH_MS


class EndorsementCache:
    """What vendors have answered, by address."""

    def __init__(
        self, directory: Path, fetch: Fetch | None, time_ms: Callable[[], int], vendors: Vendors | None = None
    ) -> None:
        """Use `directory`, which is made if it is not there; without `fetch` nothing is fetched."""
        make_private_directory(directory)
        self.vendors: Final = vendors or Vendors()
        self._directory: Final = directory
        self._fetch: Final = fetch
        self._time_ms: Final = time_ms
        self._allowances: Final = Allowances(time_ms)
        self._used: dict[str, int] = {}
        self._absent: dict[str, int] = {}
        self._paused: dict[str, int] = {}
        self._unproved: dict[str, Fetched] = {}
        self._under_way: dict[str, asyncio.Task[Fetched]] = {}

    async def get(self, urls: Iterable[str], asker: str) -> dict[str, Fetched]:
        """Return what is known at these addresses, fetched now, at once, where that is needed and possible.

        Args:
            urls: addresses of `Vendors.wanted`.
            asker: the borrower whose evidence names them.
        """
        wanted = list(urls)
        found = await asyncio.gather(*(self._get(url, asker) for url in wanted))
        return {url: answer for url, answer in zip(wanted, found, strict=True) if answer is not None}

    def known(self, urls: Sequence[str]) -> dict[str, Fetched]:
        """Return what is known at these addresses without asking anybody; they are refreshed from now on."""
        now_ms = self._time_ms()
        found = {url: answer for url in urls if (answer := self._read(url)) is not None}
        self._used.update(dict.fromkeys(urls, now_ms))
        return found

    async def confirm(self, answers: Iterable[Fetched]) -> None:
        """Keep answers with which evidence was genuine, and refresh them from now on.

        Raises:
            ConfigurationError: the directory cannot be written.
        """
        now_ms = self._time_ms()
        for answer in answers:
            self._used[answer.url] = now_ms
            if self._unproved.pop(answer.url, None) is not None:
                await asyncio.to_thread(self._write, answer)
            with suppress(OSError):  # it may have been removed by hand
                os.utime(self._path(answer.url))

    async def refresh(self) -> None:
        """Fetch what was used lately and is about to be a day old; a failure is logged, and tried again later."""
        now_ms = self._time_ms()
        self._used = {url: at_ms for url, at_ms in dict(self._used).items() if now_ms - at_ms < _USED_MS}
        for url in list(self._used):
            kept = self._read(url)
            if kept is None or not 0 <= now_ms - kept.fetched_at_ms < fresh_ms(url) // 2:
                with suppress(UnreachableError):
                    await self._fetched(url)

    def add(self, answer: Fetched) -> bool:
        """Keep an answer that was brought by hand, unless one as new is here; return whether it was kept.

        Raises:
            InvalidValueError: it is not of a vendor's address (`not_a_vendor`), or from the future (`fetched_later`).
            EvidenceError: it is not what the vendor gives there, or not valid any more.
            ConfigurationError: the directory cannot be written.
        """
        require_vendor(answer.url)
        now_ms = self._time_ms()
        if answer.fetched_at_ms > now_ms + _CLOCKS_DIFFER_MS:
            raise InvalidValueError("an endorsement was fetched after now", reason="fetched_later", fix="set the clock")
        self.vendors.issued_ms(answer, now_ms)
        kept = self._read(answer.url)
        if kept is not None and (kept.fetched_at_ms >= answer.fetched_at_ms or self._is_older(answer, kept)):
            return False
        self._write(answer)
        return True

    def answers(self) -> list[Fetched]:
        """Return all that is kept, by address; damaged files are left out."""
        found = (_decoded(path) for path in self._directory.glob("*.json"))
        return sorted((one for one in found if one is not None), key=lambda one: one.url)

    async def _get(self, url: str, asker: str) -> Fetched | None:
        now_ms = self._time_ms()
        kept = self._unproved.get(url) or self._read(url)
        # A clock that was put back must not keep an old answer for ever.
        if kept is not None and 0 <= now_ms - kept.fetched_at_ms < fresh_ms(url):
            return kept
        if 0 <= now_ms - self._absent.get(url, now_ms - _PAUSE_MS) < _PAUSE_MS:
            return kept
        try:
            if kept is None and is_of_one_machine(url):
                self._allowances.take(asker)
            return await self._fetched(url)
        except UnreachableError:
            return kept

    async def _fetched(self, url: str) -> Fetched:
        """Fetch once for all who ask at the same time.

        Raises:
            UnreachableError: the vendor cannot be reached, says nothing there, or nothing that is of use.
        """
        task = self._under_way.get(url)
        if task is None:
            if len(self._under_way) >= _MOST_UNDER_WAY:
                raise UnreachableError("too many endorsements are being fetched", reason="vendor_unreachable")
            task = self._under_way[url] = asyncio.create_task(self._ask(url))
            task.add_done_callback(lambda ended: self._ended(url, ended))
        return await asyncio.shield(task)

    def _ended(self, url: str, task: asyncio.Task[Fetched]) -> None:
        self._under_way.pop(url, None)
        if not task.cancelled():
            task.exception()  # who asked may have gone: nobody else looks at it

    async def _ask(self, url: str) -> Fetched:
        now_ms, host = self._time_ms(), urlsplit(url).netloc
        if self._fetch is None or 0 <= now_ms - self._paused.get(host, now_ms - _PAUSE_MS) < _PAUSE_MS:
            raise UnreachableError("the vendor is not asked now", reason="vendor_unreachable")
        try:
            answer = await self._fetch(url, now_ms)
            self.vendors.issued_ms(answer, now_ms)
        except EvidenceError as error:
            _LOG.warning("endorsement_unusable", extra={"host": host, "reason": error.reason})
            self._note(self._absent, url, now_ms)
            raise UnreachableError("the vendor answers with something else", reason="vendor_unusable") from None
        except AIGovToolError as error:
            _LOG.warning("endorsement_not_fetched", extra={"host": host, "code": error.code, "reason": error.reason})
            if error.reason == "not_at_vendor":
                self._note(self._absent, url, now_ms)
            else:
                self._paused[host] = now_ms
            raise
        return await self._kept(answer)

    async def _kept(self, answer: Fetched) -> Fetched:
        """Keep an answer that was judged, or remember it until it has proved something; return the best there is."""
        kept = self._read(answer.url)
        if kept is not None and self._is_older(answer, kept):
            return kept
        if kept is None and is_of_one_machine(answer.url):
            self._note(self._unproved, answer.url, answer)
        else:
            await asyncio.to_thread(self._write, answer)
        return answer

    def _is_older(self, answer: Fetched, kept: Fetched) -> bool:
        """Whether the vendor has issued `answer` before what is kept: somebody replays it."""
        now_ms = self._time_ms()
        try:
            return self.vendors.issued_ms(answer, now_ms) < self.vendors.issued_ms(kept, now_ms)
        except EvidenceError:  # what is kept is over
            return False

    @staticmethod
    def _note(notes: dict[str, V], url: str, value: V) -> None:
        """Remember something about an address; the oldest notes make room."""
        notes.pop(url, None)
        notes[url] = value
        while len(notes) > _MOST_REMEMBERED:
            del notes[next(iter(notes))]

    def _read(self, url: str) -> Fetched | None:
        found = _decoded(self._path(url))
        return found if found is not None and found.url == url else None

    def _write(self, answer: Fetched) -> None:
        path = self._path(answer.url)
        if is_of_one_machine(answer.url) and not path.exists():
            self._make_room()
        write_secret_file(path, Secret(encode(answer)), replace=True)

    def _path(self, url: str) -> Path:
        kind = "machine" if is_of_one_machine(url) else "all"
        return self._directory / f"{kind}-{sha256(url.encode()).hexdigest()}.json"

    def _make_room(self) -> None:
        """Remove certificates of machines until there is room for one; never lists, and never statements for all."""
        files = list(self._directory.glob("machine-*.json"))
        if len(files) < _MOST_MACHINES:
            return
        for path in sorted(files, key=_used_at)[: len(files) - _MOST_MACHINES + 1]:
            path.unlink(missing_ok=True)


def _decoded(path: Path) -> Fetched | None:
    try:
        with path.open("rb") as file:
            return decode(file.read(_MAX_FILE_BYTES), Fetched, max_bytes=_MAX_FILE_BYTES)
    except (OSError, InputError):  # damaged is as good as not there
        return None


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has removed it
        return 0.0
