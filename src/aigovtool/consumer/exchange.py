"""The vocabulary between the core, which decides, and its two drivers, which do.

The core's conversations are generators (`Flow`): they yield a `Call` (one HTTP exchange) or a `Wait`, and are sent
what came of it: a `Reply`, a `Failure`, or None after a wait. So the whole behaviour of the SDK, retries and waits
included, exists once, without sockets, and the synchronous and the asynchronous client cannot differ.

A failure says what the core must know before it repeats anything: whether the request can have been received.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

from aigovtool.errors import (
    AIGovToolError,
    DeadlineError,
    FaultError,
    OverloadedError,
    SignatureInvalidError,
    TooLargeError,
    UnauthenticatedError,
    UnreachableError,
)

T = TypeVar("T")


class Peer(Enum):
    """At the other end: an enclave, or the custodian (known by the authority in the consumer file)."""

    ENCLAVE = auto()
    CUSTODIAN = auto()


@dataclass(frozen=True, slots=True)
class Channel:
    """Which connection to use.

    To an enclave without `certificate`: a new one, for attestation only, believed by nobody. With a `certificate`
    (DER): only connections whose server proves exactly that one. With `sealed`: those to whoever ends TLS before the
    enclave, for what is sealed to it (`consumer.sealed`), believed by nobody either.
    """

    peer: Peer
    certificate: bytes | None = None
    sealed: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether its connections are used again: never those for attestation only."""
        return self.peer is Peer.CUSTODIAN or self.certificate is not None or self.sealed


ATTESTATION_CHANNEL: Final = Channel(Peer.ENCLAVE)
CUSTODIAN_CHANNEL: Final = Channel(Peer.CUSTODIAN)
SEALED_CHANNEL: Final = Channel(Peer.ENCLAVE, sealed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP exchange. It is over, one way or another, `timeout_s` seconds from its start."""

    channel: Channel
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes = b""
    max_bytes: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Let `seconds` pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer: names of `headers` in lower case; `certificate` (DER) is the server's on that connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    certificate: bytes | None


class FailureKind(Enum):
    """What became of an exchange without an answer. After the first five, nothing can have been received.

    CROWDED: all connections that this client may have to that peer were in use for too long.

    HUNG_UP: the peer took the connection and ended it before it answered. A server on asyncio does that also when it
    refuses the client's certificate: it drops the TLS alert that would say so, and TLS 1.3 lets the client believe that
    the handshake succeeded.

    OTHER_BODY_KEY, BETWEEN, ALTERED are of sealed exchanges: the enclave, or who claims to be it, cannot open the
    request; whoever ends TLS answers itself; what came back was not sealed by the enclave. None of it proves that the
    request was not received.
    """

    UNREACHED = auto()
    CONNECT_TIMEOUT = auto()
    OTHER_CERTIFICATE = auto()
    CREDENTIAL_REFUSED = auto()
    CROWDED = auto()
    HUNG_UP = auto()
    LOST = auto()
    TIMEOUT = auto()
    TOO_LARGE = auto()
    BAD_ANSWER = auto()
    OTHER_BODY_KEY = auto()
    BETWEEN = auto()
    ALTERED = auto()


_NOBODY: Final = "check that it is running, and that address and port are right"
_UNSENT: Final = frozenset(
    {
        FailureKind.UNREACHED,
        FailureKind.CONNECT_TIMEOUT,
        FailureKind.OTHER_CERTIFICATE,
        # The server ends such a connection in its handshake, before it reads a request.
        FailureKind.CREDENTIAL_REFUSED,
        FailureKind.CROWDED,
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exchange without an answer; `detail` is for people and holds nothing that a peer wrote."""

    kind: FailureKind
    detail: str = ""

    @property
    def maybe_received(self) -> bool:
        """Whether the peer can have received the request, and so can have acted on it."""
        return self.kind not in _UNSENT

    def error(self, who: str) -> AIGovToolError:
        """Return what to raise about the peer `who`."""
        match self.kind:
            case FailureKind.UNREACHED:
                return UnreachableError(f"{who} cannot be reached: {self.detail}", reason="connect", fix=_NOBODY)
            case FailureKind.CONNECT_TIMEOUT:
                return UnreachableError(
                    f"{who} did not take a connection in time", reason="connect_timeout", fix=_NOBODY
                )
            case FailureKind.OTHER_CERTIFICATE:
                return SignatureInvalidError(
                    f"{who} proves another certificate than the trusted one",
                    reason="other_certificate",
                    fix="connect again; if it lasts, somebody stands between",
                )
            case FailureKind.CREDENTIAL_REFUSED:
                return UnauthenticatedError(
                    f"{who} refuses the client certificate in the TLS handshake",
                    reason="credential_refused",
                    fix="use the consumer file that this custodian issued, or ask it for a new one",
                )
            case FailureKind.CROWDED:
                return OverloadedError(
                    f"this client has as many requests with {who} as it may have", reason="crowded", retry_after_s=1
                )
            case _:
                return self._late_error(who)

    def _late_error(self, who: str) -> AIGovToolError:
        match self.kind:
            case FailureKind.TIMEOUT:
                return DeadlineError(f"{who} did not answer in time", reason="answer_timeout")
            case FailureKind.TOO_LARGE:
                return TooLargeError(f"the answer of {who} is over its bound", reason="answer_too_large")
            case FailureKind.BAD_ANSWER:
                return FaultError(f"{who} does not answer as HTTP demands: {self.detail}", reason="bad_answer")
            case FailureKind.OTHER_BODY_KEY | FailureKind.BETWEEN | FailureKind.ALTERED:
                return self._sealed_error(who)
            case FailureKind.HUNG_UP:
                return UnreachableError(
                    f"{who} ended the connection before it answered",
                    reason="hung_up",
                    fix="try again; if every connection ends like this, it refuses the client certificate: use the "
                    "consumer file that its own custodian issued, or ask that one for a new one",
                )
            case _:
                return UnreachableError(
                    f"the connection to {who} was lost: {self.detail}", reason="connection_lost", fix="try again"
                )

    def _sealed_error(self, who: str) -> AIGovToolError:
        match self.kind:
            case FailureKind.OTHER_BODY_KEY:
                return UnreachableError(
                    f"who answers for {who} cannot open what is sealed to the attested key",
                    reason="other_body_key",
                    fix="try again; if it lasts, whoever balances the load spreads one client's requests over several "
                    "enclaves: have it route by the header aigovtool-route, or by the client's address",
                )
            case FailureKind.ALTERED:
                return SignatureInvalidError(
                    f"what came back was not sealed by {who}: {self.detail}",
                    reason="altered_answer",
                    fix="somebody between changes answers: tell whoever runs the load balancer",
                )
            case _:
                return UnreachableError(
                    f"whoever ends TLS before {who} answers itself: {self.detail}",
                    reason="answered_between",
                    fix="ask whoever runs the load balancer; it must demand no client certificate, and pass POST "
                    "requests of up to 66 MiB on as they are",
                )


Step = Call | Wait
Event = Reply | Failure | None
Flow = Generator[Step, Event, T]


def exchange(call: Call) -> Flow[Reply | Failure]:
    """Make one exchange and return what came of it.

    Raises:
        FaultError: `driver`, when a driver breaks the protocol of this module.
    """
    event = yield call
    if event is None:
        raise FaultError("a driver answered a call with nothing", reason="driver")
    return event
