"""Who is at the other end of one TLS connection, as a handler may ask.

The client's certificate was verified, and its key proven, in the handshake. It is parsed at most once per
connection; its validity is checked at every request, because a connection may outlive the credential. The time is
the caller's: trusted time differs from role to role.

Who shows no certificate is a stranger, until a handler has verified its signature under what it sent and says so
(`Connection.prove`). `Tally` counts connections, and says whose place a newcomer gets where there is none left.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, IntEnum, auto
from itertools import count
from typing import Final, Protocol, cast, final

from starlette.requests import HTTPConnection

from aigovtool import limits
from aigovtool.crypto.identity import Identity, read_credential
from aigovtool.errors import AIGovToolError, UnauthenticatedError
from aigovtool.transport.notices import Notices

#: Key in `scope["extensions"]` under which the server puts the connection.
EXTENSION: Final = "aigovtool.connection"
_NUMBERS: Final = count(1)


@final
class Connection:
    """One accepted connection; `number` is unique in the process and only for logs."""

    __slots__ = (
        "__weakref__",
        "_identity",
        "_on_proof",
        "_on_refusal",
        "_signer",
        "number",
        "peer",
        "peer_certificate",
        "server_spki_sha256",
    )

    def __init__(
        self,
        *,
        peer: tuple[str, int] | None,
        peer_certificate: bytes | None,
        server_spki_sha256: bytes | None,
        on_proof: Callable[[str], None] | None = None,
        on_refusal: Callable[[AIGovToolError], None] | None = None,
    ) -> None:
        self.number: Final = next(_NUMBERS)
        #: Address and port of whoever connected; on a borrower's host this is the borrower's word.
        self.peer: Final = peer
        #: The verified client certificate in DER, or None when the client showed none.
        self.peer_certificate: Final = peer_certificate
        #: SHA-256 of the public key that this server proved on this connection (32 bytes).
        self.server_spki_sha256: Final = server_spki_sha256
        self._identity: Identity | None = None
        self._signer: str | None = None
        self._on_proof: Final = on_proof
        self._on_refusal: Final = on_refusal

    def identity(self) -> Identity:
        """Return who the client proved to be; whether its credential is valid now is the caller's to check.

        Raises:
            UnauthenticatedError: `no_credential` or `bad_credential`.
        """
        if self.peer_certificate is None:
            raise UnauthenticatedError(
                "this needs a client certificate",
                reason="no_credential",
                fix="connect with the certificate and the key of your credential",
            )
        return self._read(self.peer_certificate)

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

    @property
    def sharer(self) -> str:
        """Whose share of what all callers have together it takes: its client's, its signer's, or its address's."""
        if self.client:
            return self.client
        if self._signer is not None:
            return f"signer:{self._signer}"
        return "" if self.peer is None else network_of(self.peer[0])

    def prove(self, signer: str) -> None:
        """Take note that `signer` (a key id) has signed what came on this connection, as a handler has verified.

        From now on the connection counts as one of that signer's: it is not ended for somebody else, and may be idle
        like that of a client with a certificate.
        """
        self._signer = signer
        if self._on_proof is not None:
            self._on_proof(signer)

    def refused(self, error: AIGovToolError) -> None:
        """Take note that a request on this connection is answered with `error`, so that the log tells of it."""
        if self._on_refusal is not None:
            self._on_refusal(error)

    def _read(self, certificate: bytes) -> Identity:
        if self._identity is None:
            self._identity = read_credential(certificate)
        return self._identity

    def __repr__(self) -> str:
        return f"Connection({self.number}, peer={self.peer})"


def network_of(host: str) -> str:
    """Return what one subscriber has of the internet: an IPv4 address, or an IPv6 network of 64 bits."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


class Worth(IntEnum):
    """What would be lost with a connection, the least first."""

    #: Nothing but what it sends, or may send: no request of it is complete, or the last one is answered.
    SILENT = 0
    #: An answer that it does not take as fast as it is made.
    UNREAD = 1
    #: A request that is being worked on. It is never ended for somebody else.
    WORKED_ON = 2


class Guest(Protocol):
    """A connection, as the tally knows it."""

    @property
    def worth(self) -> Worth:
        """What would be lost with it now."""
        ...

    def end(self) -> None:
        """Give up the place at once, without a word."""
        ...


class Verdict(Enum):
    """What a newcomer is told."""

    WELCOME = auto()
    #: It has as many connections as one client may have.
    GREEDY = auto()
    #: There is no place, and none that could be made.
    FULL = auto()


class Tally:
    """Who has the places of a server.

    A client with a certificate, and whoever has signed, has a share of them, and keeps what it has. Where all places
    for certificates are taken, a client gets that of one that has at least two more than itself: of the one with the
    most the oldest that is silent, else the oldest that does not read. So those who hold credentials, revoked ones
    among them, do not shut out an operator, however they work together.

    So it is for a stranger among those who have signed, where all places without a certificate are taken: who signs may
    have hundreds of connections that say nothing, and whoever is to sign next comes as a stranger.

    Strangers have a part: each address a share of it. Where there is none left for a stranger it gets the place of
    another one: of its own address if that has its share, else of the one with the most; there of the oldest that is
    silent, else of the oldest that does not read. One that is worked on keeps its place, and so does an address that
    has fewer than the newcomer's. Where all places are taken, a client with a certificate gets that of a stranger.

    Of all places, an eighth can be had with a certificate only, and another one only without: neither those who hold
    credentials nor enclaves, which hold none, can shut the others out.
    """

    def __init__(
        self,
        most: int,
        *,
        in_all: int = limits.MAX_CONNECTIONS,
        strangers: int = limits.MAX_STRANGERS,
        strangers_of_address: int = limits.MAX_STRANGERS_PER_ADDRESS,
        told: int = limits.MAX_REFUSALS_TOLD,
        notices: Notices | None = None,
    ) -> None:
        """Count for a server that has `in_all` places, of which one client may have `most`."""
        self._most: Final = most
        self._in_all: Final = in_all
        self._most_of_a_kind: Final = in_all - in_all // 8
        self._most_strangers: Final = strangers
        self._most_of_address: Final = strangers_of_address
        self._most_told: Final = told
        self._notices: Final = notices
        self._counts: Final[Counter[str]] = Counter()
        #: Whose the connections are of those who have proven who they are; and of which address, by how they have.
        self._proven: Final[dict[Guest, str]] = {}
        self._certified: Final[dict[Guest, str]] = {}
        self._signed: Final[dict[Guest, str]] = {}
        #: Those of each address, the oldest first; and where each of them is found.
        self._strangers: Final[dict[str, dict[Guest, None]]] = {}
        self._network: Final[dict[Guest, str]] = {}
        self._told: Final[set[Guest]] = set()

    def enter(self, guest: Guest, client: str | None, network: str) -> Verdict:
        """Count one more, of a client that has shown a certificate or else of an address, if there is a place."""
        verdict = self._enter_stranger(guest, network) if client is None else self._enter_client(guest, client, network)
        if verdict is not Verdict.WELCOME:
            self._note(network, "refused")
        return verdict

    def prove(self, guest: Guest, signer: str) -> bool:
        """Count a stranger as one of `signer` from now on; return whether it is, or was by another proof.

        The latest signer counts: enclaves behind one proxy may share connections. One that has its share gets no more.
        """
        if guest in self._certified:
            return True
        if guest not in self._network and guest not in self._proven:
            return False  # it has lost its place meanwhile
        known = self._proven.get(guest)
        if known != signer and self._counts[signer] < self._most:
            network = self._network.get(guest) or self._signed[guest]
            self._forget(guest)
            self._signed[guest] = network
            self._counts[signer] += 1
            self._proven[guest] = signer
        return guest in self._proven

    def leave(self, guest: Guest) -> None:
        """Count one less, if it was counted."""
        self._forget(guest)
        self._told.discard(guest)

    def may_be_told(self, guest: Guest) -> bool:
        """Return whether one that got no place may stay for a moment, to read why; it is to leave as if it had one."""
        if len(self._told) >= self._most_told:
            return False
        self._told.add(guest)
        return True

    def _enter_client(self, guest: Guest, client: str, network: str) -> Verdict:
        if self._counts[client] >= self._most:
            return Verdict.GREEDY
        if len(self._certified) >= self._most_of_a_kind:
            if not self._end_greedy(self._certified, over=self._counts[client] + 1):
                return Verdict.FULL
        elif self._taken >= self._in_all and not (
            self._end_one(self._by_greed(over=0)) or self._end_greedy(self._certified, over=self._counts[client] + 1)
        ):
            return Verdict.FULL
        self._counts[client] += 1
        self._proven[guest] = client
        self._certified[guest] = network
        return Verdict.WELCOME

    def _end_greedy(self, proven: Mapping[Guest, str], *, over: int) -> bool:
        """End a connection of the one with the most, if it has more than so many, that nobody works on."""
        held: dict[str, list[Guest]] = {}
        for guest in proven:
            held.setdefault(self._proven[guest], []).append(guest)
        for guests in sorted(held.values(), key=len, reverse=True):
            if len(guests) <= over:
                break
            least = _least(guests)
            if least is not None:
                self._give_up(least, proven[least])
                return True
        return False

    def _enter_stranger(self, guest: Guest, network: str) -> Verdict:
        own = len(self._strangers.get(network, ()))
        if own >= self._most_of_address:
            if not self._end_one([network]):
                return Verdict.FULL
        elif (
            len(self._network) >= self._most_strangers
            or self._taken - len(self._certified) >= self._most_of_a_kind
            or self._taken >= self._in_all
        ) and not (
            self._end_one(self._by_greed(over=own))
            or (len(self._network) < self._most_strangers and self._end_greedy(self._signed, over=own + 1))
            or self._end_one([network] if own else [])
        ):
            return Verdict.FULL
        self._strangers.setdefault(network, {})[guest] = None
        self._network[guest] = network
        return Verdict.WELCOME

    @property
    def _taken(self) -> int:
        return len(self._proven) + len(self._network)

    def _by_greed(self, *, over: int) -> list[str]:
        """Return the addresses with more than so many, those with the most first; where two have as many, the older."""
        found = [(-len(guests), network) for network, guests in self._strangers.items() if len(guests) > over]
        found.sort(key=lambda one: one[0])
        return [network for _, network in found]

    def _end_one(self, networks: Iterable[str]) -> bool:
        for network in networks:
            guest = _least(self._strangers[network])
            if guest is not None:
                self._give_up(guest, network)
                return True
        return False

    def _give_up(self, guest: Guest, network: str) -> None:
        self._forget(guest)
        guest.end()
        self._note(network, "ended_for_another")

    def _forget(self, guest: Guest) -> None:
        network, client = self._network.pop(guest, None), self._proven.pop(guest, None)
        if network is not None:
            guests = self._strangers[network]
            del guests[guest]
            if not guests:
                del self._strangers[network]
        if client is not None:
            self._certified.pop(guest, None)
            self._signed.pop(guest, None)
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]

    def _note(self, network: str, what: str) -> None:
        if self._notices is not None:
            self._notices.note(network, what)


def _least(guests: Iterable[Guest]) -> Guest | None:
    """Return the oldest that is silent, else the oldest that does not read; None when all are worked on."""
    unread = None
    for guest in guests:
        worth = guest.worth
        if worth is Worth.SILENT:
            return guest
        if worth is Worth.UNREAD and unread is None:
            unread = guest
    return unread


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
