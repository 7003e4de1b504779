"""The custodian's cache of endorsements: kept on disk, refreshed before they are old, and usable without a network.

What is asked for is fetched if it is not there or is not fresh; if that fails, what is there is used, as long as its
signed dates say that it is good. How old it may be is said by the policy, not by the cache.

What comes back is judged before it is kept or used: a proxy's page, another machine's certificate, or a list older than
the one that is here are as good as silence. Evidence that nobody has verified yet decides which machine's certificate
is asked for. So each borrower may ask for a certain number of machines that are not known here, and for a few at once;
and such a certificate is kept only once it has had a machine admitted (`confirm`).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from aigovtool.attestation.tee.completion import Vendors, is_of_one_machine
from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.custodian.endorsements.allowance import Allowances
from aigovtool.custodian.endorsements.kept import Kept, KeptAnswers
from aigovtool.custodian.endorsements.vendor import require_vendor
from aigovtool.errors import AIGovToolError, EvidenceError, InvalidValueError, UnreachableError

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
_MOST_UNDER_WAY: Final = 64
_MOST_OF_ONE: Final = 8
#: Addresses at which nothing was, and certificates that have not proved anything yet.
_MOST_REMEMBERED: Final = 1_024
#: Who asks when the cache refreshes itself.
_OURSELVES: Final = ""
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
        self.vendors: Final = vendors or Vendors()
        self._kept: Final = KeptAnswers(directory)
        self._fetch: Final = fetch
        self._time_ms: Final = time_ms
        self._allowances: Final = Allowances(time_ms)
        self._used: Final[dict[str, int]] = {}
        self._absent: Final[dict[str, int]] = {}
        self._paused: Final[dict[str, int]] = {}
        self._unproved: Final[dict[str, Kept]] = {}
        self._under_way: Final[dict[str, asyncio.Task[Fetched]]] = {}
        self._asking: Final[Counter[str]] = Counter()

    async def get(self, urls: Iterable[str], asker: str) -> dict[str, Fetched]:
        """Return what is known at these addresses, fetched now, at once, where that is needed and possible.

        Args:
            urls: addresses of `Vendors.wanted`.
            asker: the borrower whose evidence names them.
        """
        wanted = list(urls)
        found = await asyncio.gather(*(self._get(url, asker) for url in wanted))
        return {url: answer for url, answer in zip(wanted, found, strict=True) if answer is not None}

    async def get_one(self, urls: Sequence[str], asker: str) -> dict[str, Fetched]:
        """Return what is known at one of these addresses, of which one exists; nobody is asked if it is here."""
        here = [url for url in urls if self._here(url) is not None]
        return await self.get(here[:1] or urls, asker)

    def known(self, urls: Sequence[str]) -> dict[str, Fetched]:
        """Return what is known at these addresses, and good now, asking nobody; it is refreshed from now on."""
        found = {url: answer for url in urls if (answer := self._good(self._kept.read(url))) is not None}
        self._used.update(dict.fromkeys(urls, self._time_ms()))
        return found

    async def confirm(self, answers: Iterable[Fetched]) -> None:
        """Keep answers with which a machine was admitted, and refresh them from now on."""
        now_ms = self._time_ms()
        for answer in answers:
            self._used[answer.url] = now_ms
            unproved = self._unproved.pop(answer.url, None)
            if unproved is not None:
                await self._write(unproved)
            await asyncio.to_thread(self._kept.touch, answer.url)

    async def refresh(self) -> None:
        """Fetch what was used lately and is about to be a day old: lists first, and then certificates that are kept.

        A failure is logged, keeps nothing else from being fetched, and is tried again the next time.
        """
        now_ms = self._time_ms()
        for url, at_ms in list(self._used.items()):
            if now_ms - at_ms >= _USED_MS:
                del self._used[url]
        for url in sorted(self._used, key=is_of_one_machine):
            try:
                kept = self._kept.read(url)
                if kept is None and is_of_one_machine(url):  # it had to make room
                    continue
                if kept is None or not 0 <= now_ms - kept.answer.fetched_at_ms < fresh_ms(url) // 2:
                    await self._fetched(url, _OURSELVES)
            except UnreachableError:  # it was logged
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, the next address is still fetched
                _LOG.warning("endorsement_not_refreshed", extra={"error": type(error).__name__})

    def add(self, answer: Fetched) -> bool:
        """Keep an answer that an operator brought, unless one as new is here; return whether it was kept.

        Raises:
            InvalidValueError: it is not of a vendor's address (`not_a_vendor`), or from the future (`fetched_later`).
            EvidenceError: it is not what the vendor gives there, or not valid any more.
            ConfigurationError: the directory cannot be written.
        """
        require_vendor(answer.url)
        now_ms = self._time_ms()
        if answer.fetched_at_ms > now_ms + _CLOCKS_DIFFER_MS:
            raise InvalidValueError("an endorsement was fetched after now", reason="fetched_later", fix="set the clock")
        self.vendors.issued(answer, now_ms)
        kept = self._kept.read(answer.url)
        if kept is not None and (
            kept.answer.fetched_at_ms >= answer.fetched_at_ms or self._is_older(answer, kept.answer)
        ):
            return False
        self._kept.write(Kept(answer=answer, asker=_OURSELVES, by_hand=True))
        return True

    def answers(self) -> list[Fetched]:
        """Return all that is kept, by address."""
        return [kept.answer for kept in self._kept.all()]

    def _here(self, url: str) -> Kept | None:
        return self._unproved.get(url) or self._kept.read(url)

    async def _get(self, url: str, asker: str) -> Fetched | None:
        now_ms, kept = self._time_ms(), self._here(url)
        # A clock that was put back must not keep an old answer for ever.
        if kept is not None and 0 <= now_ms - kept.answer.fetched_at_ms < fresh_ms(url):
            return self._good(kept)
        if 0 <= now_ms - self._absent.get(url, now_ms - _PAUSE_MS) < _PAUSE_MS:
            return self._good(kept)
        try:
            return await self._fetched(url, asker, known=kept is not None)
        except UnreachableError:
            return self._good(kept)

    def _good(self, kept: Kept | None) -> Fetched | None:
        """Return an answer if it is good now: one that is over would make evidence look bad."""
        if kept is None:
            return None
        try:
            self.vendors.issued(kept.answer, self._time_ms())
        except EvidenceError:
            return None
        return kept.answer

    async def _fetched(self, url: str, asker: str, *, known: bool = True) -> Fetched:
        """Fetch once for all who ask at the same time.

        Raises:
            UnreachableError: the vendor cannot be asked now, says nothing there, or nothing that is of use.
        """
        task = self._under_way.get(url)
        if task is None:
            self._require_turn(url, asker, known=known)
            self._asking[asker] += 1
            task = self._under_way[url] = asyncio.create_task(self._ask(url, asker))
            task.add_done_callback(lambda ended: self._ended(url, asker, ended))
        return await asyncio.shield(task)

    def _require_turn(self, url: str, asker: str, *, known: bool) -> None:
        """Refuse who may not have the vendor asked now; what a borrower may ask for is used up only if it is asked."""
        now_ms, host = self._time_ms(), urlsplit(url).netloc
        if self._fetch is None or 0 <= now_ms - self._paused.get(host, now_ms - _PAUSE_MS) < _PAUSE_MS:
            raise UnreachableError("the vendor is not asked now", reason="vendor_unreachable")
        if len(self._under_way) >= _MOST_UNDER_WAY or self._asking[asker] >= _MOST_OF_ONE:
            raise UnreachableError("too many endorsements are being fetched", reason="vendor_unreachable")
        if not known and is_of_one_machine(url):
            self._allowances.take(asker)

    def _ended(self, url: str, asker: str, task: asyncio.Task[Fetched]) -> None:
        self._under_way.pop(url, None)
        self._asking[asker] -= 1
        if self._asking[asker] <= 0:
            del self._asking[asker]
        if not task.cancelled():
            task.exception()  # who asked may have gone: nobody else looks at it

    async def _ask(self, url: str, asker: str) -> Fetched:
        now_ms, host = self._time_ms(), urlsplit(url).netloc
        if self._fetch is None:
            raise UnreachableError("nothing is fetched here", reason="vendor_unreachable")
        try:
            answer = await self._fetch(url, now_ms)
            self.vendors.issued(answer, now_ms)
        except EvidenceError as error:
            _LOG.warning("endorsement_unusable", extra={"host": host, "reason": error.reason})
            self._note(self._absent, url, now_ms)
            raise UnreachableError("the vendor answers with something else", reason="vendor_unusable") from None
        except AIGovToolError as error:
            _LOG.warning("endorsement_not_fetched", extra={"host": host, "code": error.code, "reason": error.reason})
            if error.reason == "not_at_vendor":
                self._note(self._absent, url, now_ms)
            elif error.reason != "vendor_busy":  # it is we who have too much to ask
                self._paused[host] = now_ms
            raise
        return await self._better(answer, asker)

    async def _better(self, answer: Fetched, asker: str) -> Fetched:
        """Keep an answer that was judged, or remember it until it has proved something; return the best there is."""
        kept = self._kept.read(answer.url)
        # What an operator brought may be another list than its address says: the vendor knows which is which.
        if kept is not None and not kept.by_hand and self._is_older(answer, kept.answer):
            return kept.answer
        new = Kept(answer=answer, asker=asker if kept is None else kept.asker, by_hand=False)
        if kept is None and is_of_one_machine(answer.url):
            self._note(self._unproved, answer.url, new)
        else:
            await self._write(new)
        return answer

    async def _write(self, kept: Kept) -> None:
        """Keep an answer; a disk that is full does not make it worse."""
        try:
            await asyncio.to_thread(self._kept.write, kept)
        except (AIGovToolError, OSError) as error:
            _LOG.error("endorsement_not_kept", extra={"error": type(error).__name__})

    def _is_older(self, answer: Fetched, kept: Fetched) -> bool:
        """Whether the vendor has issued `answer` before what is kept: somebody replays it."""
        now_ms = self._time_ms()
        try:
            return self.vendors.issued(answer, now_ms) < self.vendors.issued(kept, now_ms)
        except EvidenceError:  # what is kept is over
            return False

    @staticmethod
    def _note(notes: dict[str, V], url: str, value: V) -> None:
        """Remember something about an address; the oldest notes make room."""
        notes.pop(url, None)
        notes[url] = value
        while len(notes) > _MOST_REMEMBERED:
            del notes[next(iter(notes))]
