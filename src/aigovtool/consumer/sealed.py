"""The consumer's end of sealed requests, for an enclave behind somebody who ends TLS (spec: docs/spec/sealed.md).

What is sent is sealed to the body key of the attested instance, and signed; what comes back is believed when it opens
with the secret that only this request has. Whoever stands between reads lengths and times, and can drop, delay and
invent refusals: such a word is told as nobody's, and no request is taken for unsent because of it.
"""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Final

from aigovtool.codec import decode, encode
from aigovtool.consumer.attest import Session
from aigovtool.consumer.clock import Clock
from aigovtool.consumer.credential import Credential
from aigovtool.consumer.exchange import SEALED_CHANNEL, Call, Failure, FailureKind, Flow, Reply, exchange
from aigovtool.consumer.problems import error_of
from aigovtool.crypto.frames import SALT_BYTES, SECRET_BYTES, FrameOpener, FrameSealer, sealed_size_bytes
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import seal
from aigovtool.crypto.wrap import wrap
from aigovtool.errors import InputError, MalformedError, VerificationError
from aigovtool.ids import Nonce
from aigovtool.limits import MAX_CONTROL_BODY_BYTES
from aigovtool.protocol import sealed
from aigovtool.protocol.sealed import Field, SealedChallenge, SealedHead, SealedRequest, SealedStatus, StatedChallenge

_ROUTE_BYTES: Final = 8
_UNKNOWN_BODY_KEY: Final = "unknown_body_key"
#: What balancers say when nobody behind them answers (RFC 9110, 15.6.3 to 15.6.5).
_NOBODY_BEHIND: Final = frozenset({502, 503, 504})


class Sealing:
    """Makes and reads sealed exchanges in the name of one consumer."""

    def __init__(self, credential: Credential, clock: Clock, random_bytes: Callable[[int], bytes]) -> None:
        self._credential: Final = credential
        self._clock: Final = clock
        self._random_bytes: Final = random_bytes
        self._route: Final = random_bytes(_ROUTE_BYTES).hex()

    def fetch_session(self, nonce: Nonce, timeout_s: float) -> Flow[Reply | Failure]:
        """Ask for evidence, and for the body key, with a signed challenge."""
        stated = StatedChallenge(consumer=self._credential.consumer, nonce=nonce, at_ms=self._clock.now_ms())
        challenge = seal(sealed.CHALLENGE, stated, self._credential.key)
        reply = yield from exchange(
            Call(
                channel=SEALED_CHANNEL,
                method="POST",
                path=sealed.SEALED_EVIDENCE_PATH,
                headers=(("content-type", "application/json"), (sealed.ROUTE_HEADER, self._route)),
                content=encode(SealedChallenge(credential=self._credential.chain[0], challenge=challenge)),
                max_bytes=MAX_CONTROL_BODY_BYTES,
                timeout_s=timeout_s,
            )
        )
        return _unproven(reply) if isinstance(reply, Failure) else reply

    def exchange(self, call: Call, session: Session) -> Flow[Reply | Failure]:
        """Make `call` sealed to the enclave of `session`, and return its answer as if nobody stood between."""
        secret = self._random_bytes(SECRET_BYTES)
        head = self._head(call, session, secret)
        digest = sha256(head).digest()
        frames = FrameSealer(secret, b"", sealed.body_info(digest)).seal_all(call.content)
        reply = yield from exchange(
            replace(
                call,
                method="POST",
                path=sealed.SEALED_PATH,
                headers=(("content-type", sealed.MEDIA_TYPE), (sealed.ROUTE_HEADER, self._route)),
                content=b"".join([len(head).to_bytes(sealed.HEAD_LENGTH_BYTES, "big"), head, *frames]),
                max_bytes=SALT_BYTES + sealed_size_bytes(call.max_bytes + sealed.MAX_STATUS_BYTES) + (1 << 20),
            )
        )
        if isinstance(reply, Failure):
            return _unproven(reply)
        if reply.status != 200 or reply.headers.get("content-type") != sealed.MEDIA_TYPE:
            return _between(reply)
        return _opened(reply, secret, digest, call.max_bytes)

    def _head(self, call: Call, session: Session, secret: bytes) -> bytes:
        request = SealedRequest(
            instance=session.instance,
            secret=secret,
            method="GET" if call.method == "GET" else "POST",
            path=call.path,
            headers=[Field(name=name.lower(), value=value) for name, value in call.headers],
            body_bytes=len(call.content),
            at_ms=self._clock.now_ms(),
        )
        signed = seal(sealed.REQUEST, request, self._credential.key)
        body_key = session.require_body_key()
        with Secret(encode(SealedHead(credential=self._credential.chain[0], request=signed))) as head:
            return wrap(head, body_key, sealed.request_info(session.instance, body_key))


def _unproven(failure: Failure) -> Failure:
    """Return a failure as whoever ends TLS can bring it about: it may have read, and passed on, before its alert."""
    if failure.kind is FailureKind.CREDENTIAL_REFUSED:
        return Failure(FailureKind.BETWEEN, "it demands a client certificate, and who seals shows none in TLS")
    return failure


def _between(reply: Reply) -> Failure:
    """Return what an answer in the clear means: that of an enclave which cannot open the request, or of anybody."""
    error = error_of(reply, "whoever ends TLS")
    if error.reason == _UNKNOWN_BODY_KEY:
        return Failure(FailureKind.OTHER_BODY_KEY)
    if reply.status in _NOBODY_BEHIND:
        return Failure(FailureKind.LOST, f"whoever ends TLS before it answers with status {reply.status}")
    said = f"status {reply.status}" + ("" if error.reason is None else f", {error.reason}")
    return Failure(FailureKind.BETWEEN, said)


def _opened(reply: Reply, secret: bytes, head_digest: bytes, max_bytes: int) -> Reply | Failure:
    try:
        opener = FrameOpener(secret, reply.body[:SALT_BYTES], sealed.answer_info(head_digest))
        text = b"".join(opener.feed(memoryview(reply.body)[SALT_BYTES:]))
        opener.require_complete()
        size = int.from_bytes(text[: sealed.STATUS_LENGTH_BYTES], "big")
        end = sealed.STATUS_LENGTH_BYTES + size
        if size > sealed.MAX_STATUS_BYTES or end > len(text):
            raise MalformedError("the answer has no beginning", reason="bad_status")
        status = decode(text[sealed.STATUS_LENGTH_BYTES : end], SealedStatus, max_bytes=sealed.MAX_STATUS_BYTES)
    except (InputError, VerificationError) as error:
        return Failure(FailureKind.LOST if error.reason == "cut_off" else FailureKind.ALTERED, error.message)
    if len(text) - end > max_bytes:
        return Failure(FailureKind.TOO_LARGE)
    headers = {field.name: field.value for field in status.headers}
    return Reply(status.status, headers, text[end:], None)
