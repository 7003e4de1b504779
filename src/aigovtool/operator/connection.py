"""One party's mutual-TLS connection to its custodian, or that of somebody without a credential.

Rules:

1. TLS 1.3 with the authority from the party file alone; no proxy, no redirect, nothing from the environment.
2. An answer is read up to a bound and no further, in bytes and in time, then decoded strictly into its type. One that
   is packed is refused unread: a few bytes of it could be any number; what is of another kind, before it is parsed.
3. A refusal is problem+json and becomes the error that it was (`transport.remote_problem`); it is never repeated.
4. A failure of the transport is repeated with the very same bytes, a few times with growing pauses: every request
   of this API is idempotent, commands because they carry their own id. Silence is not: who did not answer for as long
   as we wait is not asked again, because an operator has to know soon that an order went nowhere.

It is synchronous and not shared between threads.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx

from aigovtool.codec import decode, require_likely
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey
from aigovtool.crypto.x509 import from_pem
from aigovtool.errors import AIGovToolError, FaultError, InputError, UnreachableError
from aigovtool.protocol.party import BorrowerFile, CustodianAddress, PartyFile
from aigovtool.transport.remote_problem import MAX_PROBLEM_BYTES, error_from_problem
from aigovtool.transport.timed import TimedTransport, within
from aigovtool.transport.tls import client_context

T = TypeVar("T")

#: The largest answer is a page of 1,000 log entries, under 4 MiB; a view of thousands of parties comes near.
MAX_ANSWER_BYTES: Final = 32 << 20
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
#: For all of an exchange, whose reads are bounded by themselves: an operator, or a witness, is not held for ever.
_ANSWER_S: Final = 120.0
#: The same for a package or a ledger, which may have many gigabytes.
_LARGE_S: Final = 86_400.0
_PAUSES_S: Final = (0.2, 0.5, 1.0)
_JSON: Final = "application/json"

#: A copy of a whole ledger is made before its first byte is sent.
_FETCH_TIMEOUT: Final = httpx.Timeout(600.0, connect=10.0)
#: Takes the headers and the pieces of an answer; called anew for each attempt.
Receive = Callable[[Mapping[str, str], Iterator[bytes]], T]
#: Makes the body anew for each attempt, because a stream can be read once only.
Body = Callable[[], bytes | Iterator[bytes]]


class CustodianConnection:
    """Sends requests as one party.

    Args:
        address: where the custodian is, and its TLS authority.
        certificate: the party's client certificate (PEM); empty to come as nobody.
        key: the party's Ed25519 key; None to come as nobody.
        pause: waits before another attempt, in seconds.

    Raises:
        ConfigurationError: certificate, key and authority do not fit.
    """

    def __init__(
        self,
        address: CustodianAddress,
        certificate: str,
        key: SigningKey | None,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        credential = from_pem(certificate.encode()) if certificate else ()
        context = client_context(from_pem(address.tls_ca.encode()), credential=credential, key=key)
        self._url: Final = address.url
        self._pause: Final = pause
        self._http: Final = httpx.Client(
            transport=TimedTransport(context, limits=httpx.Limits()),
            base_url=address.url,
            timeout=_TIMEOUT,
            trust_env=False,
            headers={"accept-encoding": "identity"},
        )

    @classmethod
    def of(cls, party: PartyFile, *, pause: Callable[[float], None] = time.sleep) -> Self:
        """Connect as the holder of a party file; nothing is sent yet."""
        seed = party.enrolment_key if isinstance(party, BorrowerFile) else party.key
        with Secret(seed) as secret:
            return cls(party.custodian, party.certificate, SigningKey.from_secret(secret), pause=pause)

    @classmethod
    def anonymous(cls, address: CustodianAddress, *, pause: Callable[[float], None] = time.sleep) -> Self:
        """Connect without any credential, for what a custodian shows to everybody; nothing is sent yet."""
        return cls(address, "", None, pause=pause)

    def get(self, path: str, answer: type[T]) -> T:
        """Return what is at `path`.

        Raises:
            UnreachableError: no answer after several attempts.
            AIGovToolError: what the custodian answered instead.
        """
        return self._decoded(self._exchange("GET", path, None, {}), answer)

    def post(self, path: str, body: bytes, answer: type[T]) -> T:
        """Send JSON; raises as `get`."""
        return self._decoded(self._exchange("POST", path, lambda: body, {"content-type": _JSON}), answer)

    def put(self, path: str, body: Body, size_bytes: int, answer: type[T]) -> T:
        """Stream `size_bytes` of raw bytes; raises as `get`, and whatever `body` raises."""
        headers = {"content-type": "application/octet-stream", "content-length": str(size_bytes)}
        return self._decoded(self._exchange("PUT", path, body, headers, limit_s=_LARGE_S), answer)

    def server_certificate(self) -> bytes:
        """Return the certificate (DER) that the custodian proves on this connection; raises as `get`."""

        def attempt() -> bytes:
            with within(_ANSWER_S), self._http.stream("GET", "/v1/health") as response:
                proved = response.extensions["network_stream"].get_extra_info("ssl_object")
                certificate: bytes = proved.getpeercert(True)
                return certificate

        return self._repeated(attempt)

    def fetch(self, path: str, receive: Receive[T]) -> T:
        """Return what `receive` makes of a large answer; raises as `get`, and whatever `receive` raises."""

        def attempt() -> T:
            with within(_LARGE_S), self._http.stream("GET", path, timeout=_FETCH_TIMEOUT) as response:
                _require_success(response)
                return receive(response.headers, response.iter_raw())

        return self._repeated(attempt)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(
        self, method: str, path: str, body: Body | None, headers: dict[str, str], *, limit_s: float | None = None
    ) -> bytes:
        def attempt() -> bytes:
            with within(limit_s or _ANSWER_S):
                return self._attempt(method, path, body, headers)

        return self._repeated(attempt)

    def _repeated(self, attempt: Callable[[], T]) -> T:
        for pause_s in (*_PAUSES_S, None):
            try:
                return attempt()
            except httpx.TimeoutException as error:
                raise self._unreachable(error) from None
            except httpx.TransportError as error:
                if pause_s is None:
                    raise self._unreachable(error) from None
                self._pause(pause_s)
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None
        raise UnreachableError("no attempt was made", reason="no_answer")

    def _attempt(self, method: str, path: str, body: Body | None, headers: dict[str, str]) -> bytes:
        content = None if body is None else body()
        with self._http.stream(method, path, content=content, headers=headers) as response:
            _require_success(response)
            return _bounded(response, MAX_ANSWER_BYTES)

    def _decoded(self, data: bytes, answer: type[T]) -> T:
        try:
            require_likely(data, answer)  # else what was never asked for would take forty times its bytes
            return decode(data, answer, max_bytes=MAX_ANSWER_BYTES)
        except InputError as error:
            raise FaultError(
                f"the custodian's answer cannot be read: {error.message}",
                reason="bad_answer",
                fix="use the same version here and at the custodian",
            ) from None

    def _unreachable(self, error: httpx.HTTPError) -> AIGovToolError:
        if "certificate has expired" in str(error):
            return UnreachableError(
                f"the TLS certificate of the custodian at {self._url} has ended",
                reason="tls_expired",
                fix="renew it where the custodian runs: aigovtool custodian certificate DIRECTORY --renew; if it was "
                "renewed, check the clock here",
            )
        refused = "CERTIFICATE_VERIFY_FAILED" in str(error)
        return UnreachableError(
            f"the custodian at {self._url} "
            + (
                "does not prove that it is the one in the party file"
                if refused
                else f"does not answer ({_kind(error)})"
            ),
            reason="tls_refused" if refused else "no_answer",
            fix="check that the file is for this custodian"
            if refused
            else "check that the custodian is running and that its address in the party file is right",
        )


def _kind(error: httpx.HTTPError) -> str:
    # The type only: the text of a transport error may quote what the peer sent.
    return type(error).__name__


def _require_success(response: httpx.Response) -> None:
    if "content-encoding" in response.headers:
        raise FaultError("the custodian's answer is packed, and nobody asked for that", reason="bad_answer")
    if not response.is_success:
        document = _bounded(response, MAX_PROBLEM_BYTES)
        raise error_from_problem(response.status_code, document, retry_after=response.headers.get("retry-after"))


def _bounded(response: httpx.Response, max_bytes: int) -> bytes:
    data = bytearray()
    for piece in response.iter_raw():
        data += piece
        if len(data) > max_bytes:
            raise FaultError(f"the custodian's answer is over {max_bytes} bytes", reason="answer_too_large")
    return bytes(data)
