"""What both drivers share of HTTP and TLS: contexts, requests, and what each exception of httpx means.

Nothing of the environment is used: no proxies, no `.netrc`, no system authorities, no cookies, no redirects, no
compression. Whether a request can have been received is decided here, from where the exchange broke.
"""

import socket
import ssl
from collections.abc import Iterator
from typing import Final

import httpx
from httpcore import AsyncNetworkStream, NetworkStream

from aigovtool.consumer.credential import Credential
from aigovtool.consumer.exchange import Call, Channel, Failure, FailureKind, Peer, Reply
from aigovtool.transport.tls import (
    client_context,
    pinned_context,
    unverified_context_for_attestation_only,
    unverified_context_for_sealed_bodies,
)

#: A connection takes a round trip or two; the rest of a call's time belongs to the answer.
CONNECT_TIMEOUT_S: Final = 5.0
#: TCP and TLS have this much each, so that both together end before the call does.
CONNECT_SHARE: Final = 0.45
#: Idle connections are closed by us before the enclave does, so that a request rarely meets a closing one.
POOL_LIMITS: Final = httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=30.0)
_DEAD_PEER_S: Final = 10

_ALERTS_ABOUT_US: Final = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
    "DECRYPT_ERROR",
)


def socket_options() -> list[tuple[int, int, int]]:
    """Return options that notice a dead host within seconds, while a living one may compute for minutes."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # Linux and the BSDs; macOS calls the first one otherwise
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_S * 1000))
    return options


def context_for(channel: Channel, credential: Credential) -> ssl.SSLContext:
    """Return the TLS context of a channel; raises as `transport.tls`."""
    if channel.peer is Peer.CUSTODIAN:
        return client_context(credential.custodian_authorities, credential=credential.chain, key=credential.key)
    if channel.sealed:
        return unverified_context_for_sealed_bodies()
    if channel.certificate is None:
        return unverified_context_for_attestation_only(credential=credential.chain, key=credential.key)
    return pinned_context(channel.certificate, credential=credential.chain, key=credential.key)


def request_of(call: Call, base_url: str) -> httpx.Request:
    """Return the HTTP request of a call."""
    connect_s = min(CONNECT_TIMEOUT_S, CONNECT_SHARE * call.timeout_s)
    timeout = {"connect": connect_s, "pool": connect_s, "read": call.timeout_s, "write": call.timeout_s}
    return httpx.Request(
        call.method,
        base_url + call.path,
        headers=[("accept-encoding", "identity"), *call.headers],
        content=call.content or None,
        extensions={"timeout": timeout},
    )


def peer_certificate(response: httpx.Response) -> bytes | None:
    """Return the server certificate (DER) of the very connection that this response came over."""
    stream: NetworkStream | AsyncNetworkStream = response.extensions["network_stream"]
    tls = stream.get_extra_info("ssl_object")
    certificate = None if tls is None else tls.getpeercert(True)
    return certificate if isinstance(certificate, bytes) else None


def reply_of(response: httpx.Response, body: bytes, certificate: bytes | None) -> Reply | Failure:
    """Return a complete answer; a body in a content encoding is refused, because its size would be anybody's guess."""
    if response.headers.get("content-encoding", "identity") != "identity":
        return Failure(FailureKind.BAD_ANSWER, "a content encoding that was not asked for")
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, body, certificate)


def failure_of(error: Exception, *, answered: bool) -> Failure:
    """Return what became of an exchange that ended with `error`, in words that hold nothing of the peer's.

    `answered`: whether the head of an answer had come.
    """
    refused = tls_failure(error)
    if refused is not None:
        return Failure(refused)
    tls = next((each for each in _chain(error) if isinstance(each, ssl.SSLError)), None)
    kind = _kind_of(error)
    if kind is FailureKind.LOST and not answered and tls is None:
        kind = FailureKind.HUNG_UP
    return Failure(kind, detail_of(error))


def tls_failure(error: Exception) -> FailureKind | None:
    """Return whether TLS refused the server's certificate, or the server ours; None for neither."""
    tls = next((each for each in _chain(error) if isinstance(each, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return FailureKind.OTHER_CERTIFICATE
    if tls is not None and any(alert in (tls.reason or "") for alert in _ALERTS_ABOUT_US):
        return FailureKind.CREDENTIAL_REFUSED
    return None


def _kind_of(error: Exception) -> FailureKind:
    match error:
        case httpx.PoolTimeout():
            return FailureKind.CROWDED
        case httpx.ConnectTimeout():
            return FailureKind.CONNECT_TIMEOUT
        case httpx.ConnectError() | httpx.InvalidURL():
            return FailureKind.UNREACHED
        case httpx.TimeoutException() | TimeoutError():
            return FailureKind.TIMEOUT
        case httpx.RemoteProtocolError() if not str(error).startswith(("Server disconnected", "peer closed")):
            return FailureKind.BAD_ANSWER
        case _:  # also an OSError that httpx lets through: nothing says that the request was not received
            return FailureKind.LOST


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(16):  # a chain of causes may have a loop
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def detail_of(error: Exception) -> str:
    """Return what broke, in words that hold nothing of the peer's."""
    for each in _chain(error):
        if isinstance(each, ssl.SSLError):
            return f"TLS {each.reason or 'error'}"
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
    return type(error).__name__
