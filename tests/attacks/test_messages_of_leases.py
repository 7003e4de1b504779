"""A host that sees and sends the messages of leases as it likes gains no unit, no time and no stream by it.

The proxy of these tests has the custodian's TLS key, as no host has: what is shown here does not rest on TLS.
"""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from tests.attacks.between import Between, DroppedError, Exchange, Message, Reply
from tests.attacks.deployments import Consumer, Deployment, answered_until_refused, answered_until_used_up, deployed
from tests.e2e.heartbeat import wait_for_heartbeat
from tests.e2e.model import one_digit
from tests.e2e.world import Connection
from tests.observations import Observed

from aigovtool.ledger.entry import StopTarget

RENEW, LISTEN, WIPED = "/v1/renew", "/v1/listen", "/v1/wiped"
TTL_S = 1.0
SLACK_S = 0.25
#: So many requests make a consumer one that is lent enough for some seconds at such a pause.
BUSY = 60
PAUSE_S = 0.03
#: What is told to whoever asks an enclave that has lost its authority.
EXPIRED = (423, "lease_expired")
#: What a custodian may answer, but for what it should.
NONSENSE = (b"abc", b"-1", b"", b'{"answer":1,"stop_state":[]}', b"[" * 100_000)


@dataclass
class Site:
    """A deployment, and the host's place between its enclave and its custodian."""

    world: Deployment
    between: Between

    def granted(self, consumer: Consumer) -> int:
        """Return the units of all leases that a consumer was ever granted."""
        granted = [entry for entry in self.world.entries("lease_granted") if entry["consumer"] == consumer.name]
        return sum(int(entry["units"]["inferences"]) for entry in granted)


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One deployment for all tests here."""
    directory = tmp_path_factory.mktemp("between")
    with ExitStack() as stack:
        found: list[Between] = []

        def prepare(world: Deployment) -> None:
            found.append(stack.enter_context(Between(world.directory / "custodian", world.custodian_port)))
            world.custodian_seen_at = found[0].port

        world = stack.enter_context(deployed(directory, ttl_ms=int(TTL_S * 1000), prepare=prepare))
        yield Site(world, found[0])


@pytest.fixture
def site(lent: Site) -> Iterator[Site]:
    """The deployment, when it serves whoever asks."""
    anybody = lent.world.connect()
    lent.world.wait_for(lambda: anybody.infer(one_digit()).status == 200, "it serves")
    yield lent
    lent.between.heal()


def told(answer: Any) -> tuple[int, str]:
    return answer.status, answer.json().get("code", "")


def payload(envelope: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return found


def answer_in(reply: Reply | None) -> dict[str, Any]:
    """Return the signed answer to a renewal."""
    assert reply is not None
    assert reply.status == 200
    found: dict[str, Any] = json.loads(reply.body)["answer"]
    return found


def grants_in(exchange: Exchange) -> list[dict[str, Any]]:
    return [one for one in payload(answer_in(exchange.reply))["results"] if one["outcome"] == "grant"]


def asking(connection: Connection, body: bytes) -> float:
    """Ask until refused; return when (monotonic) the last answer came."""
    last_s = 0.0
    while connection.infer(body).status == 200:
        last_s = time.monotonic()
        time.sleep(PAUSE_S)
    return last_s


@pytest.mark.attack(15)
def test_messages_that_come_twice_grant_nothing_twice(site: Site, body: bytes, observed: Observed) -> None:
    """Each renewal three times at once and once more later: the same bytes come back, and one lease is granted."""
    differing: list[Reply] = []
    sent: list[Message] = []

    def thrice(message: Message) -> Reply:
        replies: list[Reply] = []
        others = [threading.Thread(target=lambda: replies.append(message.forward())) for _ in range(2)]
        for other in others:
            other.start()
        mine = message.forward()
        for other in others:
            other.join()
        sent.append(message)
        differing.extend(reply for reply in replies if answer_in(reply) != answer_in(mine))
        message.forward()
        return mine

    site.between.on(RENEW, thrice)
    consumer, connection = site.world.new_consumer(units=25)
    answered, refusal = answered_until_used_up(connection, body, 60)
    assert (answered, told(refusal)) == (25, (402, "budget_exhausted"))
    assert site.granted(consumer) == 25 >= site.world.charged_to(consumer)
    assert (len(sent) > 3, differing) == (True, [])
    assert site.world.entries("forked") == []
    observed.figure("answers on 25 units while each renewal came four times", answered)


@pytest.mark.attack(15)
def test_late_and_reordered_copies_are_refused(site: Site, body: bytes, observed: Observed) -> None:
    """All renewals that were ever granted something, last first: none is carried out again, and the enclave goes on."""
    instance, (consumer, connection) = site.world.instance(), site.world.new_consumer(units=10)
    before = len(site.between.exchanges(RENEW))
    assert answered_until_used_up(connection, body, 11)[0] == 10
    granted = site.granted(consumer)
    of_it = [one for one in site.between.exchanges(RENEW)[before:] if one.reply and grants_in(one)]
    assert of_it
    replies = [one.again() for one in reversed(of_it)]
    assert {reply.status for reply in replies} == {409}
    for reply in replies:
        assert observed.refusal(json.loads(reply.body)) == "conflict: request_superseded"
    assert site.granted(consumer) == granted == 10
    assert site.world.instance() == instance
    assert site.world.entries("forked") == []


@pytest.mark.attack(15)
def test_old_answers_in_place_of_new_ones_give_no_authority(site: Site, body: bytes) -> None:
    """Whatever genuine answer is played again, the enclave refuses it: the service ends within the ttl of the last."""
    before = len(site.between.exchanges(RENEW))
    _, connection = site.world.new_consumer(units=10**6)
    assert connection.infer(body).status == 200
    old = [one.reply for one in site.between.exchanges(RENEW)[before:] if one.reply]
    played: list[Reply] = []

    def old_one(_: Message) -> Reply:
        played.append(old[-1 - len(played) % len(old)])
        return played[-1]

    instance, began_s = site.world.instance(), time.monotonic()
    site.between.on(RENEW, old_one)
    last_s = asking(connection, body)
    assert last_s - began_s <= TTL_S + SLACK_S
    assert told(connection.infer(body)) == EXPIRED
    assert played
    site.between.heal()
    site.world.wait_for(lambda: connection.infer(body).status == 200, "it serves again")
    assert site.world.instance() == instance


@pytest.mark.attack(15)
def test_what_is_held_back_gives_no_more_time(site: Site, body: bytes) -> None:
    """Every answer comes late, just within its try: authority counts from the first sending, not from the coming."""
    consumer, connection = site.world.new_consumer(units=10**6)
    assert answered_until_refused(connection, body, BUSY) == (BUSY, None)
    renewals: list[tuple[float, float]] = []

    def late(message: Message) -> Reply:
        sent_s = time.monotonic()
        reply = message.forward()
        time.sleep(0.8 * TTL_S)
        renewals.append((sent_s, time.monotonic()))
        return reply

    site.between.on(RENEW, late)
    answered, until_s = [], time.monotonic() + 4 * TTL_S
    while time.monotonic() < until_s:
        answer = connection.infer(body)
        if answer.status == 200:
            answered.append(time.monotonic())
        else:
            assert told(answer) == EXPIRED
        time.sleep(PAUSE_S)
    ages = [one - max(sent for sent, came in renewals if came <= one) for one in answered if one > renewals[0][1]]
    assert 0.8 * TTL_S <= max(ages) <= TTL_S + SLACK_S
    assert site.world.charged_to(consumer) <= site.granted(consumer)


@pytest.mark.attack(15)
def test_an_older_stop_state_lifts_no_stop(site: Site, body: bytes) -> None:
    """The push is kept away, and beside each answer lies the genuine stop state from before: the stop takes effect."""
    consumer, connection = site.world.new_consumer(units=10**6)
    assert connection.infer(body).status == 200
    before = json.loads(next(one.reply.body for one in reversed(site.between.exchanges(RENEW)) if one.reply))

    def as_before(message: Message) -> Reply:
        reply = message.forward()
        changed = json.loads(reply.body) | {"stop_state": before["stop_state"]}
        return Reply(reply.status, json.dumps(changed).encode())

    def never(_: Message) -> Reply:
        raise DroppedError

    site.between.on(LISTEN, never)
    site.between.on(RENEW, as_before)
    site.between.cut()
    site.world.wait_for(lambda: connection.infer(body).status == 200, "it serves")
    site.world.stop(StopTarget.CONSUMER, consumer.name)
    stopped_s = time.monotonic()
    last_s = asking(connection, body)
    assert last_s - stopped_s <= TTL_S + SLACK_S
    assert connection.infer(body).status == 423
    site.between.heal()
    site.world.wait_for(lambda: told(connection.infer(body)) == (423, "stopped"), "the stop arrives")


@pytest.mark.attack(15)
def test_a_known_stop_is_not_lifted_by_what_was_said_before_it(site: Site, body: bytes) -> None:
    """The stop has arrived, and the consumer's units are still at hand: genuine older states change nothing."""
    consumer, connection = site.world.new_consumer(units=10**6)
    assert answered_until_refused(connection, body, BUSY) == (BUSY, None)
    before = json.loads(next(one.reply.body for one in reversed(site.between.exchanges(RENEW)) if one.reply))
    played: list[Message] = []

    def as_before(message: Message) -> Reply:
        reply = message.forward()
        played.append(message)
        return Reply(reply.status, json.dumps(json.loads(reply.body) | {"stop_state": before["stop_state"]}).encode())

    site.between.on(RENEW, as_before)
    site.world.stop(StopTarget.CONSUMER, consumer.name)
    site.world.wait_for(lambda: told(connection.infer(body)) == (423, "stopped"), "the stop arrives")
    known, until_s = len(played), time.monotonic() + 1.5 * TTL_S
    while time.monotonic() < until_s:
        assert told(connection.infer(body)) == (423, "stopped")
        time.sleep(0.02)
    assert len(played) > known


@pytest.mark.attack(15)
def test_a_copy_of_a_request_for_the_stream_of_stops_cuts_no_stream(site: Site, observed: Observed) -> None:
    """Whoever sends it again is refused, and the enclave does not need to ask for another stream."""
    # Where no stream is open, one is opened, and is cut by the enclave's own next request, which is newer.
    site.world.wait_for(lambda: site.between.exchanges(LISTEN)[-1].again().status == 409, "its stream is open")
    captured = site.between.exchanges(LISTEN)
    for _ in range(5):
        reply = captured[-1].again()
        assert observed.refusal(json.loads(reply.body)) == "conflict: listen_superseded"
    wait_for_heartbeat(site.world)
    assert len(site.between.exchanges(LISTEN)) == len(captured)


@pytest.mark.attack(19)
@pytest.mark.fault(2)
def test_reports_that_never_arrive_cost_the_units_that_were_lent(site: Site, body: bytes, observed: Observed) -> None:
    """All but renewals and reports passes: answers come for what was leased, no more, and the ledger charges it all."""

    def never(_: Message) -> Reply:
        raise DroppedError

    consumer, connection = site.world.new_consumer(units=400)
    assert answered_until_refused(connection, body, 20) == (20, None)
    site.between.on(RENEW, never)
    site.between.on(WIPED, never)
    leased = site.world.charged_to(consumer)
    more, refusal = answered_until_refused(connection, body, 400)
    assert 20 + more <= leased <= 400
    assert told(refusal) == EXPIRED
    assert told(connection.infer(body)) == EXPIRED
    assert site.world.charged_to(consumer) == leased
    site.world.wait_for(lambda: site.world.row_of(consumer)["pending"] == 0, "the leases are charged in full")
    its_own = {one["lease_id"] for one in site.world.entries("lease_granted") if one["consumer"] == consumer.name}
    assert its_own & {one["lease_id"] for one in site.world.entries("lease_expired")}
    observed.entry("lease_expired")
    observed.refusal(refusal.json())
    assert site.world.row_of(consumer)["posted"] == leased


@pytest.mark.fault(9)
def test_a_custodian_that_answers_nonsense_ends_the_service_and_not_the_enclave(
    site: Site, body: bytes, observed: Observed
) -> None:
    """It refuses with a typed error within the bound, goes on in the same process, and serves when sense returns."""
    _, connection = site.world.new_consumer(units=10**6)
    assert connection.infer(body).status == 200
    enclave, nonsense = site.world.processes["enclave"], list(NONSENSE)
    began_s = time.monotonic()
    site.between.on(RENEW, lambda _: Reply(200, nonsense.pop() if nonsense else b"abc"))
    assert asking(connection, body) - began_s <= TTL_S + SLACK_S
    site.world.wait_for(lambda: not nonsense, "all of it was answered")
    refusal = connection.infer(body)
    assert told(refusal) == EXPIRED
    assert b"Traceback" not in refusal.body
    observed.refusal(refusal.json())
    site.between.heal()
    site.world.wait_for(lambda: connection.infer(body).status == 200, "it serves again")
    assert enclave.poll() is None
    assert "Traceback" not in site.world.log_of("enclave")
