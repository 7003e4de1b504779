"""Who listens on the line counts the bytes of answers: of a model that is lent so, there are a few sizes only.

What is counted is what TLS sends, record headers and all, by a relay that cannot read it.
"""

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from tests.attacks.lent_digits import PATH, Lender, fresh_key, images, lender, outputs_of, request
from tests.e2e.world import Answer, Connection, wait_for
from tests.observations import Observed

from aigovtool.enclave.gateway.padding import padded_size
from aigovtool.ledger.answers import AnswerTerms

pytestmark = pytest.mark.attack(31)

LEAST = 1_024
PADDED = AnswerTerms(pad_bytes=LEAST)
#: The sizes that bodies of up to 16 KiB may have: 1, 2, 4, 8 and 16 KiB.
SIZES = [LEAST << step for step in range(5)]
#: A request id is another request's for ever: each of this module ends in a number of its own.
NUMBERS = itertools.count()


@dataclass
class Relay:
    """A listener on the way to an enclave. It passes everything on, and counts what comes back."""

    target: int
    received: int = 0
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    threads: list[threading.Thread] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._run(self._accept)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listener.getsockname()[1])

    def _run(self, what: object, *arguments: object) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)  # type: ignore[arg-type]
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        try:
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += (near, far)
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._run(self._pass, near, far, False)
                self._run(self._pass, far, near, True)
        except OSError:  # closed
            return

    def _pass(self, source: socket.socket, drain: socket.socket, counted: bool) -> None:  # noqa: FBT001 -- a direction
        try:
            while data := source.recv(1 << 16):
                if counted:
                    self.received += len(data)
                drain.sendall(data)
        except OSError:
            pass
        finally:
            for each in (source, drain):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let nobody in any more; those who are there end with their connections."""
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        for each in (self.listener, *self.sockets):
            each.close()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    """A model that is lent without padding at first."""
    with lender(tmp_path_factory.mktemp("sizes") / "world", None) as made:
        yield made


@pytest.fixture
def relay(digits: Lender) -> Iterator[Relay]:
    """A listener before the enclave."""
    made = Relay(digits.world.enclave_port)
    yield made
    digits.world.connections.pop().close()
    made.close()


def asked_for() -> list[tuple[bytes, dict[str, str], str | None]]:
    """Return requests whose answers differ in everything: rows, form, outputs, ids, how long the numbers are."""
    corpus = []
    for rows in (1, 2, 3, 5, 8, 13, 21, 34, 55):
        for binary in (False, True):
            for number, outputs in enumerate(((), ("label",), ("probabilities",))):
                seed = 10 * rows + number
                identifier = None if number == 0 else "x" * (seed % 200)
                key = None if number == 1 else fresh_key()[: 1 + seed % 16]
                corpus.append((*request(images(rows, seed), *outputs, binary=binary, identifier=identifier), key))
    return corpus


def heard(relay: Relay, connection: Connection, lent: Lender) -> list[tuple[int, Answer]]:
    """Return the answers to the corpus, each with how many bytes the listener counted for it."""
    lent.ask(connection, *request(images(1, 0), binary=False))  # the handshake's tickets come before this answer
    found = []
    for body, headers, key in asked_for():
        before = relay.received
        answer = lent.ask(connection, body, headers, None if key is None else f"{key}.{next(NUMBERS):04}")
        assert answer.status == 200, answer.body
        found.append((relay.received - before, answer))
    return found


def order(lent: Lender, terms: AnswerTerms | None) -> None:
    """Order terms, and wait until answers are on them."""
    lent.order(terms)
    padded = terms is not None

    def is_so() -> bool:
        answer = lent.ask(lent.world.connections[-1], *request(images(1, 1), "label", binary=False))
        return ("aigovtool-padding" in answer.headers) is padded

    wait_for(is_so, "answers are on the new terms")


def test_the_sizes_of_answers_are_few(digits: Lender, relay: Relay, observed: Observed) -> None:
    """Without the term the listener can tell the answers apart by their sizes; with it there are five sizes."""
    connection = digits.world.connect(relay.port)
    order(digits, None)
    plain = {size for size, _ in heard(relay, connection, digits)}
    assert len(plain) > 30  # the control
    order(digits, PADDED)
    answers = heard(relay, connection, digits)
    sizes = {size for size, _ in answers}
    assert {len(answer.body) for _, answer in answers} <= set(SIZES)
    assert 3 <= len(sizes) <= len(SIZES)
    # Each size on the line is that of one size of bodies: nothing else of an answer shows in it.
    assert len({(size, len(answer.body)) for size, answer in answers}) == len(sizes)
    observed.figure("sizes on the wire without padding", len(plain))
    observed.figure("sizes on the wire with padding", len(sizes))


def test_padded_answers_are_the_same_answers(digits: Lender, relay: Relay) -> None:
    """Both forms are read as before, and no body is one size longer than it has to be."""
    connection = digits.world.connect(relay.port)
    for binary in (False, True):
        body, headers = request(images(9, 3), binary=binary)
        order(digits, None)
        plain = digits.ask(connection, body, headers)
        order(digits, PADDED)
        padded = digits.ask(connection, body, headers)
        assert padded.body.replace(b" ", b"") == plain.body.replace(b" ", b"")
        before, after = outputs_of(plain), outputs_of(padded)
        assert all((before[name] == after[name]).all() for name in before)
        assert len(padded.body) == padded_size(len(plain.body), LEAST)


def test_a_refusal_is_told_from_an_answer(digits: Lender, relay: Relay) -> None:
    """Only answers are padded: what the documents say of refusals is so, and a refusal never has an answer's size."""
    connection = digits.world.connect(relay.port)
    order(digits, PADDED)
    sizes = {size for size, _ in heard(relay, connection, digits)}
    before = relay.received
    refused = connection.request("POST", f"{PATH}/infer", b"{}")
    assert refused.status == 422
    assert relay.received - before not in sizes
