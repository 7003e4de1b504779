"""Bodies that are nearly whole, on as many connections as one may have, take a bounded part of a custodian's memory.

Nor do they take its time, all together, once their last bytes come.
"""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.attacks.deployments import Consumer, Deployment, deployed
from tests.attacks.rogue import Rogue
from tests.e2e.world import CONSUMER, MODEL
from tests.observations import Observed

from aigovtool.codec import encode
from aigovtool.crypto.x509 import from_pem
from aigovtool.ids import MessageId
from aigovtool.ledger.budget import Scope
from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol.commands import AskRequest, Stop
from aigovtool.transport.tls import client_context

#: As long as a body may be, on nearly as many connections as one party may have.
BODY_BYTES, CONNECTIONS = 1 << 20, 200
#: What one caller may have under way, and what reading and connections take beside it.
GROWTH_MIB = 32 + 48


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A custodian and its parties; the only enclave is the test's."""
    with deployed(tmp_path_factory.mktemp("bodies"), enclave=False) as made:
        yield made


def resident_mib(world: Deployment) -> int:
    """Return the memory that the custodian has in use."""
    status = Path(f"/proc/{world.processes['custodian'].pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) >> 10


def nearly_sent(
    world: Deployment, stack: ExitStack, context: ssl.SSLContext, path: str, *, connections: int = CONNECTIONS
) -> list[ssl.SSLSocket]:
    """Send a body but for its last byte on each connection; return the connections.

    It is what is parsed most slowly, with white space at its end.
    """
    lists = b"[[[]]" + b",[[]]" * 200_000
    body = lists + b" " * (BODY_BYTES - 1 - len(lists))
    head = (
        f"POST {path} HTTP/1.1\r\nhost: custodian\r\ncontent-type: application/json\r\n"
        f"content-length: {BODY_BYTES}\r\n\r\n"
    ).encode()
    links = []
    for _ in range(connections):
        wire = socket.create_connection(("127.0.0.1", world.custodian_port), 30)
        link = stack.enter_context(context.wrap_socket(wire, server_hostname="127.0.0.1"))
        with suppress(OSError):  # it was answered before all was sent
            link.sendall(head + body)
        links.append(link)
    return links


def refusals(links: list[ssl.SSLSocket], observed: Observed) -> int:
    """Return how many of the connections were told that there is no room."""
    told = 0
    for link in links:
        link.settimeout(0.05)
        answer = b""
        with suppress(OSError):
            while more := link.recv(4_096):
                answer += more
        if answer.startswith(b"HTTP/1.1 429"):
            assert observed.refusal(json.loads(answer.partition(b"\r\n\r\n")[2])) == "overloaded: open_bodies"
            told += 1
    return told


def asks(consumer: Consumer) -> int:
    """Have a consumer ask for more budget; return the status."""
    scope = Scope(model=MODEL, borrower=consumer.borrower, consumer=consumer.name)
    wish = AskRequest(ask_id=MessageId("0" * 31 + "1"), scope=scope, units=1, reason="more")
    link = consumer.world.to_custodian(consumer.certificate, consumer.key)
    return link.request("POST", "/v1/asks", encode(wish)).status


def test_one_consumers_bodies_take_its_share_and_no_more(world: Deployment, observed: Observed) -> None:
    """Two hundred of a MiB each: most are refused before they are read; the others' requests are as before."""
    greedy, other = world.add_consumer("greedy"), world.add_consumer("other")
    before = resident_mib(world)
    with ExitStack() as stack:
        context = world.custodian_context(greedy.certificate, greedy.key)
        links = nearly_sent(world, stack, context, "/v1/asks")
        assert refusals(links, observed) >= CONNECTIONS - 40
        grown = resident_mib(world) - before
        assert asks(other) == 200
        world.stop(StopTarget.CONSUMER, CONSUMER)
    observed.figure(f"MiB that a custodian grew by, of {CONNECTIONS} MiB that one consumer announced", grown)
    assert grown < GROWTH_MIB


def test_so_do_those_of_an_address_that_proves_nothing(world: Deployment, observed: Observed) -> None:
    """And an enclave behind that same address, which has proven itself, has room of its own."""
    rogue = Rogue(world)
    rogue.boot()
    link = rogue.connect()
    assert link.request("POST", "/v1/renew", encode(rogue.renewal())).status == 200
    before = resident_mib(world)
    with ExitStack() as stack:
        context = client_context(from_pem(world.operator.custodian.tls_ca.encode()))
        links = nearly_sent(world, stack, context, "/v1/renew")
        assert refusals(links, observed) >= CONNECTIONS - 40
        grown = resident_mib(world) - before
        large = encode(rogue.renewal()) + b" " * (64 << 10)
        assert link.request("POST", "/v1/renew", large).status == 200
    observed.figure(f"MiB that a custodian grew by, of {CONNECTIONS} MiB that strangers announced", grown)
    assert grown < GROWTH_MIB


#: As many as there is room for, of one address.
AT_ONCE = 30
#: They took 9 s, one after the other, in which nothing else was done; a stop takes some hundredths.
PATIENCE_S = 2.0


def test_a_stop_does_not_wait_until_a_strangers_bodies_are_parsed(world: Deployment, observed: Observed) -> None:
    """Thirty MiB of empty lists, whose last bytes come at the same moment, without any credential."""
    operator = world.to_custodian()
    assert operator.request("GET", "/v1/health").status == 200
    order = world.order(Stop(target=StopTarget.CONSUMER, value=CONSUMER, reason="incident"))
    with ExitStack() as stack:
        context = client_context(from_pem(world.operator.custodian.tls_ca.encode()))
        links = nearly_sent(world, stack, context, "/v1/renew", connections=AT_ONCE)
        for link in links:
            link.sendall(b"]")
        began_s = time.monotonic()
        stopped = operator.request("POST", "/v1/commands", order)
        took_s = time.monotonic() - began_s
        answers = [link.recv(12) for link in links]
    assert stopped.status == 200
    assert set(answers) == {b"HTTP/1.1 422"}
    observed.figure(f"seconds that a stop took beside {AT_ONCE} bodies of a stranger's", round(took_s, 2))
    assert took_s < PATIENCE_S
