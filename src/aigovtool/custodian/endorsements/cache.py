"""The custodian's cache of endorsements: on disk, refreshed before it is old, and usable without a network.

Each answer of a vendor is one file, named by the hash of its address. What is asked for is fetched if it is not there
or is not fresh; if that fails, what is there is used: whether it is still good is said by the signed dates within, and
by the policy's greatest age of collateral, not by the cache. What was used in the last 30 days is refreshed in the
background.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.codec import decode, encode
from aigovtool.crypto.keyfile import make_private_directory, write_secret_file
from aigovtool.crypto.secret import Secret
from aigovtool.errors import AIGovToolError, InputError, UnreachableError
from aigovtool.limits import MAX_REVOCATION_LIST_BYTES

_LOG: Final = logging.getLogger(__name__)
_DAY_MS: Final = 86_400_000
#: When an answer is fetched anew: vendors publish lists and TCB information some days before the old ones end.
FRESH_MS: Final = _DAY_MS
#: The certificate of a chip for a TCB version is issued once.
_CERTIFICATE_FRESH_MS: Final = 30 * _DAY_MS
_USED_MS: Final = 30 * _DAY_MS
#: After a failure the vendor is left alone so long: boots must not become a flood of requests.
_PAUSE_MS: Final = 30_000
#: Certificates of 500 servers with their lists. The oldest make room.
_MAX_FILES: Final = 4_096
_MAX_FILE_BYTES: Final = 2 * MAX_REVOCATION_LIST_BYTES

Fetch = Callable[[str, int], Awaitable[Fetched]]


def fresh_ms(url: str) -> int:
    """Return for how long the answer at an address is not fetched again."""
    parts = urlsplit(url)
    certificate = parts.netloc == "kdsintf.amd.com" and not parts.path.endswith("/crl")
    return _CERTIFICATE_FRESH_MS if certificate else FRESH_MS


class EndorsementCache:
    """What vendors have answered, by address."""

    def __init__(self, directory: Path, fetch: Fetch | None, time_ms: Callable[[], int]) -> None:
        """Use `directory`, which is made if it is not there; without `fetch` nothing is fetched."""
        make_private_directory(directory)
        self._directory: Final = directory
        self._fetch: Final = fetch
        self._time_ms: Final = time_ms
        self._used: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, urls: Sequence[str]) -> dict[str, Fetched]:
        """Return what is known at these addresses, fetched now where that is needed and possible.

        Raises:
            UnreachableError: nothing is known at one of them, and it cannot be fetched (`vendor_unreachable`).
        """
        return {url: await self._get(url) for url in urls}

    async def refresh(self) -> None:
        """Fetch what was used lately and is about to be a day old; a failure is logged, and tried again later."""
        now_ms = self._time_ms()
        self._used = {url: at_ms for url, at_ms in self._used.items() if now_ms - at_ms < _USED_MS}
        for url in list(self._used):
            kept = self._read(url)
            if kept is None or now_ms - kept.fetched_at_ms >= fresh_ms(url) // 2:
                with suppress(UnreachableError):
                    await self._fetched(url)

    def add(self, answer: Fetched) -> None:
        """Keep an answer, for example one that was fetched on another machine.

        Raises:
            ConfigurationError: the directory cannot be written.
        """
        self._make_room()
        write_secret_file(self._path(answer.url), Secret(encode(answer)), replace=True)

    async def _get(self, url: str) -> Fetched:
        now_ms = self._time_ms()
        self._used[url] = now_ms
        kept = self._read(url)
        # A clock that was put back must not keep an old answer for ever.
        if kept is not None and 0 <= now_ms - kept.fetched_at_ms < fresh_ms(url):
            return kept
        try:
            return await self._fetched(url)
        except UnreachableError:
            if kept is None:
                raise
            return kept

    async def _fetched(self, url: str) -> Fetched:
        async with self._locks.setdefault(url, asyncio.Lock()):
            now_ms = self._time_ms()
            kept = self._read(url)
            if kept is not None and 0 <= now_ms - kept.fetched_at_ms < _PAUSE_MS:
                return kept  # somebody else has just fetched it
            if self._fetch is None or 0 <= now_ms - self._failed.get(url, now_ms - _PAUSE_MS) < _PAUSE_MS:
                raise _unknown()
            try:
                answer = await self._fetch(url, now_ms)
            except AIGovToolError as error:
                self._failed[url] = now_ms
                _LOG.warning("endorsement_not_fetched", extra={"code": error.code, "reason": error.reason})
                raise
            self._failed.pop(url, None)
            self.add(answer)
            return answer

    def _read(self, url: str) -> Fetched | None:
        try:
            with self._path(url).open("rb") as file:
                found = decode(file.read(_MAX_FILE_BYTES), Fetched, max_bytes=_MAX_FILE_BYTES)
        except (OSError, InputError):  # damaged is as good as not there
            return None
        return found if found.url == url else None

    def _path(self, url: str) -> Path:
        return self._directory / f"{sha256(url.encode()).hexdigest()}.json"

    def _make_room(self) -> None:
        files = sorted(self._directory.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in files[: max(0, len(files) - _MAX_FILES + 1)]:
            path.unlink(missing_ok=True)


def _unknown() -> UnreachableError:
    return UnreachableError(
        "an endorsement of this platform is not in the custodian's cache, and cannot be fetched now",
        reason="vendor_unreachable",
        fix="let the custodian reach the vendor's service, or put it into the cache: `aigovtool endorsements add`",
        retry_after_s=30,
    )
