"""The vendors' services: three fixed hosts, and nothing that evidence says leads anywhere else.

An address is made from strictly parsed fields of evidence (which chip, which TCB version). What comes back is believed
by nobody here: it is verified like endorsements that travel with evidence.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from aigovtool.attestation.tee.fetched import Fetched
from aigovtool.errors import AIGovToolError, InvalidValueError, UnreachableError
from aigovtool.limits import MAX_REVOCATION_LIST_BYTES

#: AMD's Key Distribution Service, Intel's Provisioning Certification Service, and where Intel's root list lies.
HOSTS: Final = frozenset({"kdsintf.amd.com", "api.trustedservices.intel.com", "certificates.trustedservices.intel.com"})
#: In which Intel sends the chain that signed a body.
_KEPT_HEADERS: Final = frozenset(
    {
        "sgx-pck-crl-issuer-chain",
        "tcb-info-issuer-chain",
        "sgx-tcb-info-issuer-chain",
        "sgx-enclave-identity-issuer-chain",
    }
)
_TIMEOUT_S: Final = 10.0
_AT_ONCE: Final = 4
#: Answers that say nothing about what was asked for: try again later.
_BUSY: Final = frozenset({401, 403, 407, 408, 425, 429})
#: A chain of three certificates, URL-encoded.
_MAX_HEADER_CHARS: Final = 16 << 10


class VendorServices:
    """Fetches from the vendors' hosts. TLS is verified with the system's authorities."""

    def __init__(self, *, client: httpx.AsyncClient | None = None) -> None:
        """Make the client; another one is given where a proxy must be used, and by tests."""
        self._client = client
        self._turns: Final[dict[str, asyncio.Semaphore]] = {}

    async def fetch(self, url: str, now_ms: int) -> Fetched:
        """Return what the vendor answers at an address.

        Raises:
            InvalidValueError: it is not an https address at one of the vendors' hosts (`not_a_vendor`).
            UnreachableError: there is nothing (`not_at_vendor`), too much is asked from here (`vendor_busy`), no answer
                in time, one that says that the service is busy or not well, or too large (`vendor_unreachable`).
        """
        require_vendor(url)
        turns = self._turns.setdefault(urlsplit(url).netloc, asyncio.Semaphore(_AT_ONCE))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await turns.acquire()
        except TimeoutError:
            raise _unreachable(url, "too much is asked of it", "vendor_busy") from None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._fetched(url, now_ms)
        except AIGovToolError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the library raises, there is no answer
            raise _unreachable(url, _why(error)) from None
        finally:
            turns.release()

    async def _fetched(self, url: str, now_ms: int) -> Fetched:
        body = bytearray()
        if self._client is None:  # most custodians never need one
            self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False)
        # Not packed: what is small on the way must not become large here.
        headers = {"accept-encoding": "identity"}
        async with self._client.stream("GET", url, headers=headers, follow_redirects=False) as response:
            if response.status_code != 200:
                absent = 400 <= response.status_code < 500 and response.status_code not in _BUSY
                reason = "not_at_vendor" if absent else "vendor_unreachable"
                raise _unreachable(url, f"it answers {response.status_code}", reason)
            if "content-encoding" in response.headers:
                raise _unreachable(url, "its answer is packed")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_REVOCATION_LIST_BYTES:
                    raise _unreachable(url, "its answer is too large")
            return Fetched(url=url, fetched_at_ms=now_ms, body=bytes(body), headers=_kept(response.headers))

    async def close(self) -> None:
        """End all connections."""
        if self._client is not None:
            await self._client.aclose()


def require_vendor(url: str) -> None:
    """Refuse an address that is not one of a vendor; raises `InvalidValueError` (`not_a_vendor`)."""
    try:
        parts = urlsplit(url)
        good = (parts.scheme, parts.netloc in HOSTS, parts.fragment) == ("https", True, "")
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidValueError("endorsements are fetched from their vendors only", reason="not_a_vendor")


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    found = {name.lower(): value for name, value in headers.items()}
    return {name: found[name][:_MAX_HEADER_CHARS] for name in sorted(_KEPT_HEADERS & found.keys())}


def _why(error: BaseException) -> str:
    """Return in words why there is no answer: what the system says, below what libraries make of it."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"no answer in {_TIMEOUT_S:g} seconds"
    found: OSError | None = None
    below: BaseException | None = error
    while below is not None:
        found = below if isinstance(below, OSError) and below.strerror else found
        inner = below.exceptions[0] if isinstance(below, BaseExceptionGroup) else None
        below = inner or below.__cause__ or below.__context__
    match found:
        case socket.gaierror():
            return f"its name is not resolved ({found.strerror})"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not valid ({found.verify_message})"
        case None:
            return type(error).__name__
        case _:
            return found.strerror or type(found).__name__


def _unreachable(url: str, why: str, reason: str = "vendor_unreachable") -> UnreachableError:
    return UnreachableError(
        f"the vendor's service {urlsplit(url).netloc} gives no endorsements: {why}",
        reason=reason,
        fix="let the custodian reach it by https, or put the endorsements into its cache: `aigovtool endorsements add`",
        retry_after_s=30,
    )
