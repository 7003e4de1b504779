"""Who is at the other end of one TLS connection, as a handler may ask.

The client's certificate was verified, and its key proven, in the handshake. It is parsed at most once per
connection; its validity is checked at every request, because a connection may outlive the credential. The time is
the caller's: trusted time differs from role to role.

`Tally` counts the connections of each client, of which one may have a share of all.
"""

from collections import Counter
from itertools import count
from typing import Final, cast, final

from starlette.requests import HTTPConnection

from aigovtool.crypto.identity import Identity, read_credential
from aigovtool.errors import UnauthenticatedError

#: Key in `scope["extensions"]` under which the server puts the connection.
EXTENSION: Final = "aigovtool.connection"
_NUMBERS: Final = count(1)


@final
class Connection:
    """One accepted connection; `number` is unique in the process and only for logs."""

    __slots__ = ("_identity", "number", "peer", "peer_certificate", "server_spki_sha256")

    def __init__(
        self,
        *,
        peer: tuple[str, int] | None,
        peer_certificate: bytes | None,
        server_spki_sha256: bytes | None,
    ) -> None:
        self.number: Final = next(_NUMBERS)
        #: Address and port of whoever connected; on a borrower's host this is the borrower's word.
        self.peer: Final = peer
        #: The verified client certificate in DER, or None when the client showed none.
        self.peer_certificate: Final = peer_certificate
        #: SHA-256 of the public key that this server proved on this connection (32 bytes).
        self.server_spki_sha256: Final = server_spki_sha256
        self._identity: Identity | None = None

    def identity(self, now_ms: int) -> Identity:
        """Return who the client proved to be, valid at the trusted time `now_ms`.

        Raises:
            UnauthenticatedError: `no_credential`, `bad_credential`, `credential_not_yet_valid` or
                `credential_expired`.
        """
        if self.peer_certificate is None:
            raise UnauthenticatedError(
                "this needs a client certificate",
                reason="no_credential",
                fix="connect with the certificate and the key of your credential",
            )
        identity = self._read(self.peer_certificate)
        identity.check_time(now_ms)
        return identity

    @property
    def client(self) -> str | None:
        """Whose connection this is, for counting; None for a client that proved nothing.

        The credential's time does not matter. What the authority has signed and nobody can read counts as one client.
        """
        if self.peer_certificate is None:
            return None
        try:
            identity = self._read(self.peer_certificate)
        except UnauthenticatedError:
            return "unreadable"
        return f"{identity.kind.value}:{identity.name}"

    def _read(self, certificate: bytes) -> Identity:
        if self._identity is None:
            self._identity = read_credential(certificate)
        return self._identity

    def __repr__(self) -> str:
        return f"Connection({self.number}, peer={self.peer})"


class Tally:
    """How many connections each client has. Those of clients that proved nothing are not told apart, nor bounded."""

    def __init__(self, most: int) -> None:
        self._most: Final = most
        self._counts: Final[Counter[str]] = Counter()

    def enter(self, client: str | None) -> bool:
        """Count one more; return False, counting nothing, for a client that has as many as it may."""
        if client is None:
            return True
        if self._counts[client] >= self._most:
            return False
        self._counts[client] += 1
        return True

    def leave(self, client: str | None) -> None:
        """Count one less of a client that has entered."""
        if client is None:
            return
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]


def connection_of(request: HTTPConnection) -> Connection:
    """Return the connection of a request that came through `transport.server`.

    Raises:
        UnauthenticatedError: `no_connection` when it came another way; nothing is known about the peer then.
    """
    extensions = cast("dict[str, object]", request.scope.get("extensions") or {})
    connection = extensions.get(EXTENSION)
    if not isinstance(connection, Connection):
        raise UnauthenticatedError("the request did not come through the guarded server", reason="no_connection")
    return connection
