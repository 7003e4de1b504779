"""The enclave's way to its custodian: typed requests over TLS, pinned to the CA in its configuration."""

import os
import ssl
from collections.abc import AsyncIterator
from errno import ENOENT
from io import BufferedRandom
from pathlib import Path
from typing import Final, TypeVar

import httpx

from aigovtool.codec import Message, decode, encode
from aigovtool.crypto.x509 import from_pem
from aigovtool.enclave.package_download import Hashed, Incoming, Told
from aigovtool.errors import AIGovToolError, ConfigurationError, PackageError, UnreachableError
from aigovtool.ids import Digest
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from aigovtool.protocol.messages import Push
from aigovtool.protocol.party import CustodianAddress
from aigovtool.regular_file import NO_REGULAR_FILE, open_regular
from aigovtool.transport.remote_problem import MAX_PROBLEM_BYTES, error_from_problem
from aigovtool.transport.tls import client_context

T = TypeVar("T")
_TIMEOUT: Final = httpx.Timeout(10.0)
#: The custodian sends a line at least every 5 s; twice that without one means that the stream is dead.
_STREAM_TIMEOUT: Final = httpx.Timeout(10.0, read=12.0)
#: After so many downloads in a row that broke off without coming further, it is the package and not the way to it.
STUCK_TRIES: Final = 3
#: Why a download is given up for now, of a package that no other error is told of.
DOWNLOAD_STUCK: Final = "download_stuck"


class CustodianLink:
    """One custodian, as an enclave speaks to it."""

    def __init__(self, address: CustodianAddress) -> None:
        # The enclave's wall clock is its host's: it decides over nothing, and what is believed here is signed besides.
        context = client_context(from_pem(address.tls_ca.encode()), at_any_time=True)
        self._client: Final = httpx.AsyncClient(
            base_url=address.url, verify=context, timeout=_TIMEOUT, trust_env=False, follow_redirects=False
        )
        #: Of packages whose download broke off: how far it came, and how often in a row no further.
        self._broken: Final[dict[Digest, tuple[int, int]]] = {}
        #: What was hashed of packages that are not there yet.
        self._hashed: Final[dict[Digest, Hashed]] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def post(self, path: str, message: Message, answer: type[T]) -> T:
        """Send `message` and return the typed answer.

        Raises:
            UnreachableError: no answer in time.
            AIGovToolError: the class that the custodian refused with.
        """
        return await self._exchange("POST", path, encode(message), answer)

    async def get(self, path: str, answer: type[T]) -> T:
        """Return what is at `path`; raises as `post`."""
        return await self._exchange("GET", path, None, answer)

    async def _exchange(self, method: str, path: str, content: bytes | None, answer: type[T]) -> T:
        headers = {} if content is None else {"content-type": "application/json"}
        try:
            async with self._client.stream(method, path, content=content, headers=headers) as response:
                body = await _bounded(response, MAX_CONTROL_BODY_BYTES)
        except (httpx.HTTPError, OSError) as error:  # a corrupted TLS record is an ssl.SSLError, an OSError
            raise _unreachable(error) from None
        if response.status_code != httpx.codes.OK:
            raise error_from_problem(response.status_code, body, retry_after=response.headers.get("retry-after"))
        return decode(body, answer)

    async def listen(self, message: Message) -> AsyncIterator[Push]:
        """Yield the lines of a push stream until it breaks.

        Raises:
            UnreachableError: it broke, or nothing came for 12 s.
        """
        try:
            async with self._client.stream(
                "POST",
                "/v1/listen",
                content=encode(message),
                headers={"content-type": "application/json"},
                timeout=_STREAM_TIMEOUT,
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise error_from_problem(response.status_code, await _bounded(response, MAX_PROBLEM_BYTES))
                async for line in _lines(response):
                    yield decode(line, Push)
        except (httpx.HTTPError, OSError) as error:  # a corrupted TLS record is an ssl.SSLError, an OSError
            raise _unreachable(error) from None

    async def fetch(self, package: Digest, size: int, cache: Path, told: Told = lambda _done: None) -> Path:
        """Return the path of a package's ciphertext in `cache`, downloading what is missing of it.

        Args:
            package: its digest.
            size: bytes of it.
            cache: a directory of the enclave's own.
            told: is called with the bytes that are there, again and again.

        Raises:
            PackageError: what was downloaded has another digest; it is deleted.
            UnreachableError: the download broke; it is resumed next time. `download_stuck`: again and again at the same
                place, although the custodian answered what was asked before.
            ConfigurationError: the cache cannot be written (`cache`).
        """
        try:
            return await self._fetched(package, size, cache, told)
        except OSError as error:
            raise ConfigurationError(
                f"the cache {cache} cannot be used: {error.strerror}", reason="cache", fix="check the disk"
            ) from None

    async def _fetched(self, package: Digest, size: int, cache: Path, told: Told) -> Path:
        name = package.removeprefix("sha256:")
        whole, partial = cache / f"{name}.aigov", cache / f"{name}.part"
        if _is_whole(whole):
            return whole
        with _opened(partial) as file:
            incoming = Incoming(file, size, told, self._hashed.pop(package, None))
            try:
                complete = await self._completed(incoming, package, size)
            except AIGovToolError:  # it broke off, or was refused for now: the next try goes on
                self._hashed[package] = incoming.hashed()
                raise
            if not complete:
                partial.unlink()
                raise PackageError("the download is not the package that was named", reason="download_digest")
        return partial.rename(whole)

    async def _completed(self, incoming: Incoming, package: Digest, size: int) -> bool:
        """Download what is missing of a file, and return whether it is the package then."""
        begun = await incoming.resume()
        if begun and incoming.is_package(package):  # whoever wrote it ended before it had its name
            return True
        begun = begun if begun < size else 0
        headers = {"range": f"bytes={begun}-"} if begun else {}
        try:
            async with self._client.stream("GET", f"/v1/packages/{package}", headers=headers) as response:
                if response.status_code not in {200, 206}:
                    raise error_from_problem(response.status_code, await _bounded(response, MAX_PROBLEM_BYTES))
                if not begun or response.status_code != httpx.codes.PARTIAL_CONTENT:
                    incoming.begin_anew()  # whoever answers 200 sends all of it, whatever was asked for
                complete = await _written(response, incoming)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise self._broken_off(package, begun, incoming.done, error) from None
        self._broken.pop(package, None)
        return complete and incoming.is_package(package)

    def _broken_off(self, package: Digest, begun: int, ended: int, error: Exception) -> UnreachableError:
        """Take note that a download broke off, and return what is told of it."""
        furthest, tries = self._broken.get(package, (begun, 0))
        tries = tries + 1 if ended <= furthest else 0
        self._broken[package] = (max(ended, furthest), tries)
        if tries < STUCK_TRIES:
            return _unreachable(error)
        return UnreachableError(
            f"the download of a package breaks off at byte {ended:,}, again and again ({type(error).__name__})",
            reason=DOWNLOAD_STUCK,
            fix="look into the custodian's log and its disk, and at what is between",
            retry_after_s=1,
        )


async def _written(response: httpx.Response, incoming: Incoming) -> bool:
    """Write the body, unless it is longer than it may be."""
    async for chunk in response.aiter_raw():  # as it comes: what is put together first is lost when it breaks off
        if not incoming.add(chunk):
            return False
    return True


def _is_whole(path: Path) -> bool:
    """Return whether a package lies there; anything else in its place is removed, and is no package."""
    try:
        os.close(open_regular(path))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in NO_REGULAR_FILE:
            raise
        path.unlink()
        return False
    return True


def _opened(path: Path) -> BufferedRandom:
    """Open the part of a package that was downloaded, or begin one where there is none of ours alone.

    The cache is on the borrower's disk: what lies there may be a link to another file, or another name of one.
    """
    try:
        descriptor = open_regular(path, os.O_RDWR)
        if os.fstat(descriptor).st_nlink == 1:
            return os.fdopen(descriptor, "r+b")
        os.close(descriptor)
    except OSError as error:
        if error.errno not in {*NO_REGULAR_FILE, ENOENT}:
            raise
    path.unlink(missing_ok=True)
    return os.fdopen(open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), "r+b")


async def _bounded(response: httpx.Response, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise UnreachableError("the custodian's answer is too large", reason="bad_answer")
    return bytes(body)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield whole lines; what comes is looked at once, in however small pieces it comes."""
    buffer = bytearray()
    async for chunk in response.aiter_raw():
        buffer += chunk
        if len(buffer) > MAX_CONTROL_BODY_BYTES:
            raise UnreachableError("a pushed line is too large", reason="bad_answer")
        if b"\n" in chunk:
            *lines, rest = bytes(buffer).split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                yield line


def _unreachable(error: Exception) -> UnreachableError:
    return UnreachableError(
        f"the custodian does not answer ({type(error).__name__})",
        reason="custodian",
        fix="check the custodian's address and the network",
        retry_after_s=1,
    )
