"""Who sent what came through somebody who ends TLS: by certificate and signature, as the handshake tells it otherwise.

What OpenSSL checks of a client's certificate in a handshake is checked here: that an authority of the custodian's key
set issued it, that it is for client authentication (`crypto.identity`), that its key is held, and, against the
custodian's time, that it is valid. A signature proves it for one request only, so each is taken once, and soon; that
it was taken is found before anything is refused which the one that was taken may have been spared.
"""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from aigovtool import limits
from aigovtool.crypto.identity import Identity, IdentityKind, read_credential
from aigovtool.crypto.sign import Envelope, open_envelope
from aigovtool.crypto.x509 import is_issued_by
from aigovtool.enclave.boot import Instance
from aigovtool.enclave.spent_ids import SpentIds
from aigovtool.errors import ConflictError, ForbiddenError, OverloadedError, UnauthenticatedError
from aigovtool.ids import ConsumerId, Millis, RequestKey
from aigovtool.protocol import sealed
from aigovtool.protocol.sealed import SealedChallenge, SealedRequest, StatedChallenge

#: Refuses whom this enclave never answers, by raising.
Authorize = Callable[[Identity], None]


class SealedCallers:
    """The consumers whose sealed requests one instance takes, and which of those it has taken."""

    def __init__(self, instance: Instance, authorize: Authorize, most: int = limits.MAX_SEALED_REQUESTS) -> None:
        """Remember at most so many requests."""
        self._instance: Final = instance
        self._authorize: Final = authorize
        self._most: Final = most
        self._taken: Final = SpentIds(most)
        #: Identities by certificate, of those that one of `_authorities` has issued.
        self._known: Final[OrderedDict[bytes, Identity]] = OrderedDict()
        self._authorities: tuple[bytes, ...] = ()

    def of_challenge(self, asked: SealedChallenge) -> StatedChallenge:
        """Return a challenge that a consumer has signed, which counts as taken from now on.

        Whoever repeats it would have quotes made in this consumer's place, who then is refused them, and connections
        counted as this consumer's.

        Raises:
            AIGovToolError: as `of_request`.
        """
        identity = self._identity_of(asked.credential)
        stated = open_envelope(asked.challenge, sealed.CHALLENGE, StatedChallenge, [identity.public_key])
        if stated.consumer != identity.name:
            raise ForbiddenError("the challenge is in another consumer's name", reason="wrong_consumer")
        self._require_recent(stated.at_ms)
        self._take(identity, sha256(asked.challenge.payload).digest())
        return stated

    def of_request(self, credential: bytes, request: Envelope, head_digest: bytes) -> Identity:
        """Return who signed a request, which counts as taken from now on.

        Raises:
            UnauthenticatedError: `foreign_credential`, `bad_credential`, `credential_expired`,
                `credential_not_yet_valid`, `sealed_at_another_time`.
            ForbiddenError: `wrong_role`, and those of `authorize`.
            SignatureInvalidError: the request is not signed with the key of the certificate.
            ConflictError: `sealed_for_another` instance, or `sealed_twice`: it was taken before.
            OverloadedError: `sealed_requests`: too many were taken of late.
        """
        identity = self._identity_of(credential)
        asked = open_envelope(request, sealed.REQUEST, SealedRequest, [identity.public_key])
        if asked.instance != self._instance.instance:
            raise ConflictError("the request is for another instance", reason="sealed_for_another")
        self._require_recent(asked.at_ms)
        self._take(identity, head_digest)
        return identity

    def _identity_of(self, credential: bytes) -> Identity:
        authorities = tuple(self._instance.key_set.credentials)
        if authorities != self._authorities:
            self._known.clear()
            self._authorities = authorities
        name = sha256(credential).digest()
        identity = self._known.get(name)
        if identity is None:
            if not any(is_issued_by(credential, authority) for authority in authorities):
                raise UnauthenticatedError(
                    "the certificate is by no authority of this custodian", reason="foreign_credential"
                )
            identity = self._known[name] = read_credential(credential)
            if len(self._known) > limits.MAX_KNOWN_CREDENTIALS:
                self._known.popitem(last=False)
        identity.check_time(self._instance.custodian_time_ms())
        if identity.kind is not IdentityKind.CONSUMER:
            raise ForbiddenError(f"this is not for a {identity.kind.value}", reason="wrong_role")
        return identity

    def _require_recent(self, at_ms: Millis) -> None:
        if abs(self._instance.custodian_time_ms() - at_ms) > sealed.MAX_AGE_MS:
            raise UnauthenticatedError(
                "this was signed at another time than it is at the custodian",
                reason="sealed_at_another_time",
                fix=f"set the clock of the consumer's machine: it may be {sealed.MAX_AGE_MS // 1000} s wrong at most; "
                "if it is right, whoever ends TLS passes on late what it is sent",
            )

    def _take(self, identity: Identity, digest: bytes) -> None:
        consumer, key = ConsumerId(identity.name), RequestKey(digest.hex())
        now_ms = self._instance.clock.now_ms()
        self._taken.expire(now_ms)
        if self._taken.has(consumer, key):
            raise ConflictError(
                "this sealed request, or challenge, was taken before",
                reason="sealed_twice",
                fix="try again; if it lasts, whoever ends TLS passes on twice what it is sent once",
            )
        # Whom this enclave never answers has no share of the memory.
        self._authorize(identity)
        most = limits.REQUEST_IDS_OF_ANYBODY if len(self._taken) >= self._most else self._most // 2
        if self._taken.of(consumer) >= most:
            raise OverloadedError("too many sealed requests", reason="sealed_requests", retry_after_s=60)
        self._taken.add(consumer, key, now_ms)
