"""Lost answers, reboots, refusals: what is repeated, where, and what is waited for."""

from collections.abc import Callable

import msgspec
import pytest
from tests.consumer.conftest import FakeEnclave, World

from aigovtool.consumer import Client
from aigovtool.consumer.outcomes import REPEATABLE_MS
from aigovtool.errors import (
    AIGovToolError,
    BudgetExhaustedError,
    BudgetReservedError,
    ConflictError,
    ForbiddenError,
    LeaseExpiredError,
    NoBudgetError,
    StoppedError,
    UnreachableError,
)
from aigovtool.ids import MessageId, OperatorId


def test_a_lost_answer_is_fetched_again_and_charged_once(world: World, enclave: FakeEnclave) -> None:
    """The same request id at the same instance: the kept answer comes back."""
    client = world.connect(enclave)
    enclave.lose_answers = 1
    assert client.infer("doubler", [[1, 2]]).units_remaining == 9
    assert len(enclave.charged) == 1


def test_a_connection_that_is_lost_twice_is_an_error(world: World, enclave: FakeEnclave) -> None:
    """One repetition, not a loop; the caller can go on with the same request id."""
    client = world.connect(enclave)
    enclave.lose_answers = 2
    with pytest.raises(UnreachableError) as caught:
        client.infer("doubler", [[1, 2]], request_id="case-1")
    assert caught.value.reason == "hung_up"
    client.infer("doubler", [[1, 2]], request_id="case-1")
    assert len(enclave.charged) == 1


def test_a_lost_answer_can_be_asked_for_by_who_gave_the_request_no_name(world: World, enclave: FakeEnclave) -> None:
    """The error says which name it had, so that it is charged once: by another process, too."""
    enclave.lose_answers = 2
    with pytest.raises(UnreachableError) as caught:
        world.connect(enclave).infer("doubler", [[1, 2]])
    assert caught.value.fix is not None
    (key,) = enclave.charged
    assert f"request_id {key}:" in caught.value.fix
    assert world.connect(enclave).infer("doubler", [[1, 2]], request_id=key).units_remaining == 9
    assert enclave.charged == [key]


def test_what_was_certainly_not_received_is_asked_anew(world: World, enclave: FakeEnclave) -> None:
    """Nobody takes the connection: there is nothing that a name could keep from being charged twice."""
    client = world.connect(enclave)
    client.models()
    enclave.served.stop()
    with pytest.raises(UnreachableError) as caught:
        client.infer("doubler", [[1, 2]])
    assert "request_id" not in (caught.value.fix or "")


def reboot_after_losing(enclave: FakeEnclave) -> Callable[..., object]:
    def forge(answer: object) -> object:
        enclave.forge_answer = lambda same: same
        enclave.new_keys()
        enclave.served.server.replace_tls(enclave.tls)
        enclave.served.drop_connections()
        return answer

    return forge


def test_an_unknown_outcome_is_not_repeated_on_another_instance(world: World, enclave: FakeEnclave) -> None:
    """A rebooted enclave cannot know the request, and would charge it again."""
    client = world.connect(enclave)
    enclave.forge_answer = reboot_after_losing(enclave)  # type: ignore[assignment]
    with pytest.raises(ConflictError) as caught:
        client.infer("doubler", [[1, 2]], request_id="case-1")
    assert caught.value.reason == "retry_may_charge"
    assert len(enclave.charged) == 1
    with pytest.raises(ConflictError):
        client.infer("doubler", [[1, 2]], request_id="case-1")
    client.infer("doubler", [[1, 2]])  # another request is free to go there


def lost(client: Client, enclave: FakeEnclave) -> None:
    """Have an answer that was charged get lost on its way, twice."""
    enclave.lose_answers = 2
    with pytest.raises(UnreachableError):
        client.infer("doubler", [[1, 2]], request_id="case-1")
    assert enclave.charged == ["case-1"]


@pytest.mark.parametrize("suspended", [False, True])
def test_an_unknown_outcome_is_not_repeated_when_the_enclave_may_have_forgotten_it(
    world: World, enclave: FakeEnclave, *, suspended: bool
) -> None:
    """It remembers for ten minutes, and would charge it again. A host that cuts connections can bring that about.

    A machine that was suspended meanwhile does not count the time by the one of its clocks.
    """
    client = world.connect(enclave)
    lost(client, enclave)
    if suspended:
        world.clock.wall_s += REPEATABLE_MS / 1000
    else:
        world.clock.advance(REPEATABLE_MS / 1000)
    enclave.kept.clear()
    with pytest.raises(ConflictError) as caught:
        client.infer("doubler", [[1, 2]], request_id="case-1")
    assert caught.value.reason == "retry_may_charge"
    assert enclave.charged == ["case-1"]


def test_may_charge_repeats_what_the_enclave_may_have_forgotten(world: World, enclave: FakeEnclave) -> None:
    """Whoever accepts the second charge gets the answer; who asks in time need not."""
    client = world.connect(enclave, retry="may-charge")
    lost(client, enclave)
    world.clock.advance(REPEATABLE_MS / 1000)
    client.infer("doubler", [[1, 2]], request_id="case-1")
    assert enclave.charged == ["case-1"]


def test_a_wait_for_units_may_last_after_a_lost_try(world: World, enclave: FakeEnclave) -> None:
    """Each refusal for want of units says that nothing was charged by then, so the time begins anew."""
    client = world.connect(enclave)

    def lose_and_refuse(answer: object) -> object:
        enclave.forge_answer = lambda same: same
        enclave.kept.clear()
        enclave.charged.clear()  # it was not received after all
        enclave.refusals = [BudgetExhaustedError("no units are left", retry_after_s=30)] * 40
        enclave.served.drop_connections()
        return answer

    enclave.forge_answer = lose_and_refuse  # type: ignore[assignment]
    assert client.infer("doubler", [[1, 2]], request_id="case-1", wait=True).request_id == "case-1"
    assert enclave.charged == ["case-1"]
    assert sum(world.clock.slept) > REPEATABLE_MS / 1000


def test_may_charge_repeats_on_another_instance(world: World, enclave: FakeEnclave) -> None:
    """Whoever accepts the second charge gets the answer."""
    client = world.connect(enclave, retry="may-charge")
    enclave.forge_answer = reboot_after_losing(enclave)  # type: ignore[assignment]
    client.infer("doubler", [[1, 2]], request_id="case-1")
    assert enclave.charged == ["case-1", "case-1"]


def test_a_refused_request_may_go_to_another_instance(world: World, enclave: FakeEnclave) -> None:
    """A refusal says that nothing was charged, so the outcome is known."""
    client = world.connect(enclave)
    enclave.refusals = [BudgetExhaustedError("no units are left")]
    with pytest.raises(BudgetExhaustedError):
        client.infer("doubler", [[1, 2]], request_id="case-1")
    enclave.reboot()
    assert client.infer("doubler", [[1, 2]], request_id="case-1").units_remaining == 9


def test_a_refusal_says_nothing_of_a_try_before_that_got_no_answer(world: World, enclave: FakeEnclave) -> None:
    """Charged, its answer lost; refused when it is repeated, and then another instance: it is not charged there again.

    A host can bring that about: it cuts the answer off, keeps the custodian away until the lease is over, and reboots.
    """
    client = world.connect(enclave)

    def lose_and_refuse(answer: object) -> object:
        enclave.forge_answer = lambda same: same
        enclave.refusals = [LeaseExpiredError("no authority", retry_after_s=1)]
        enclave.served.drop_connections()
        return answer

    enclave.forge_answer = lose_and_refuse  # type: ignore[assignment]
    world.clock.on_sleep = enclave.reboot
    with pytest.raises(ConflictError) as caught:
        client.infer("doubler", [[1, 2]], request_id="case-1", wait=True)
    assert caught.value.reason == "retry_may_charge"
    assert enclave.charged == ["case-1"]


def test_a_refusal_is_the_same_class_on_this_side(world: World, enclave: FakeEnclave) -> None:
    """Code, reason, fix and Retry-After travel."""
    client = world.connect(enclave)
    enclave.refusals = [
        BudgetReservedError("others hold the units", reason="pool_held", fix="try later", retry_after_s=7)
    ]
    with pytest.raises(BudgetReservedError) as caught:
        client.infer("doubler", [[1, 2]])
    error = caught.value
    assert (error.message, error.reason, error.fix, error.retry_after_s) == (
        "others hold the units",
        "pool_held",
        "try later",
        7,
    )
    assert not world.clock.slept


def test_waiting_ends_when_units_come(world: World, enclave: FakeEnclave) -> None:
    """402, 429 and an expired lease pass; the request id stays the same."""
    client = world.connect(enclave)
    enclave.refusals = [
        BudgetExhaustedError("no units are left", retry_after_s=3),
        BudgetReservedError("others hold them", retry_after_s=3600),
        LeaseExpiredError("no authority", retry_after_s=0),
        BudgetExhaustedError("no units are left"),
    ]
    result = client.infer("doubler", [[1, 2]], request_id="case-1", wait=True)
    assert result.request_id == "case-1"
    assert enclave.charged == ["case-1"]
    assert world.clock.slept == [3.0, 30.0, 0.2, 2.0]


def test_waiting_ends_at_the_deadline(world: World, enclave: FakeEnclave) -> None:
    """The refusal that still stands is raised, of its own class and with its own exit code; nothing was charged."""
    client = world.connect(enclave)
    enclave.refusals = [BudgetExhaustedError("no units are left", reason="pool_empty", retry_after_s=10)] * 9
    with pytest.raises(BudgetExhaustedError) as caught:
        client.infer("doubler", [[1, 2]], wait=True, deadline_s=25)
    assert (caught.value.reason, caught.value.exit_code) == ("pool_empty", 6)
    assert "the wait is over" in caught.value.message
    assert world.clock.slept == [10.0, 10.0]
    assert not enclave.charged


def deny(world: World, ask_id: MessageId) -> None:
    asks = world.custodian.asks
    asks[ask_id] = msgspec.structs.replace(asks[ask_id], state="denied", decided_by=OperatorId("alice"))


def test_a_denial_ends_the_wait(world: World, enclave: FakeEnclave) -> None:
    """Nobody is being asked any more, so waiting for the answer of an hour is over at once; the request is named."""
    client = world.connect(enclave)
    ask = client.request_budget(10, "budget exhausted")
    enclave.refusals = [BudgetExhaustedError("no units are left", retry_after_s=10)] * 9
    world.clock.on_sleep = lambda: deny(world, ask.ask_id) if len(world.clock.slept) == 2 else None
    with pytest.raises(BudgetExhaustedError) as caught:
        client.infer("doubler", [[1, 2]], wait=True)
    assert caught.value.reason == "ask_denied"
    assert "alice denied" in caught.value.message
    assert ask.ask_id[:12] in caught.value.message
    assert world.clock.slept == [10.0, 10.0]


def test_a_denial_from_before_leaves_time_for_a_new_request(world: World, enclave: FakeEnclave) -> None:
    """An enclave files a new request within a few tries; without one, the old denial is the answer."""
    client = world.connect(enclave)
    deny(world, client.request_budget(10, "budget exhausted").ask_id)
    enclave.refusals = [BudgetExhaustedError("no units are left", retry_after_s=10)] * 9
    with pytest.raises(BudgetExhaustedError) as caught:
        client.infer("doubler", [[1, 2]], wait=True)
    assert caught.value.reason == "ask_denied"
    assert world.clock.slept == [10.0] * 3
    enclave.refusals = [BudgetExhaustedError("no units are left", retry_after_s=10)] * 5
    world.clock.slept.clear()

    def file_one() -> None:
        if len(world.clock.slept) == 1:
            client.request_budget(5, "again")

    world.clock.on_sleep = file_one
    assert client.infer("doubler", [[1, 2]], wait=True).units_remaining == 9
    assert world.clock.slept == [10.0] * 5


def test_a_denial_of_another_model_or_refusal_is_not_waited_on(world: World, enclave: FakeEnclave) -> None:
    """Requests for other models say nothing about this one; units that others hold come back without anybody."""
    client = world.connect(enclave)
    deny(world, client.request_budget(10, "r", model="tripler").ask_id)
    enclave.refusals = [BudgetExhaustedError("no units are left", retry_after_s=1)] * 6
    assert client.infer("doubler", [[1, 2]], wait=True).units_remaining == 9
    deny(world, client.request_budget(10, "r").ask_id)
    enclave.refusals = [BudgetReservedError("others hold them", retry_after_s=1)] * 6
    assert client.infer("doubler", [[1, 2]], wait=True).units_remaining == 8


def test_a_denial_beside_an_open_request_is_not_the_end(world: World, enclave: FakeEnclave) -> None:
    """Somebody is still being asked, whichever of the two is newer."""
    client = world.connect(enclave)
    open_ask, denied = (client.request_budget(units, "r").ask_id for units in (5, 6))
    deny(world, denied)
    asks = world.custodian.asks
    asks[open_ask] = msgspec.structs.replace(asks[open_ask], at_ms=1)
    enclave.refusals = [BudgetExhaustedError("no units are left", retry_after_s=1)] * 6
    assert client.infer("doubler", [[1, 2]], wait=True).units_remaining == 9


def test_a_custodian_out_of_reach_does_not_end_the_wait(world: World, enclave: FakeEnclave) -> None:
    """A consumer's network may lead to the enclave only; it is tried once, and the units come all the same."""
    client = world.connect(enclave)
    deny(world, client.request_budget(10, "r").ask_id)
    world.custodian.lose_answers = 2
    enclave.refusals = [BudgetExhaustedError("no units are left", retry_after_s=1)] * 6
    assert client.infer("doubler", [[1, 2]], wait=True).units_remaining == 9
    assert world.custodian.looks == 2  # the first look and its repetition on a new connection


def test_without_a_budget_the_consumers_borrower_is_named(world: World, enclave: FakeEnclave) -> None:
    """The enclave cannot tell a missing budget from a consumer of somebody else; the consumer knows whose it is."""
    client = world.connect(enclave)
    enclave.refusals = [NoBudgetError("no budget row allows this consumer", fix="theirs")]
    with pytest.raises(NoBudgetError) as caught:
        client.infer("doubler", [[1, 2]])
    assert "an enclave of hospital" in (caught.value.fix or "")


@pytest.mark.parametrize(
    "error",
    [StoppedError("stopped"), NoBudgetError("no row"), ForbiddenError("not you")],
    ids=lambda error: error.code,
)
def test_a_decision_is_not_waited_for(world: World, enclave: FakeEnclave, error: AIGovToolError) -> None:
    """Repeating cannot change what a person decided."""
    client = world.connect(enclave)
    enclave.refusals = [error]
    with pytest.raises(type(error)):
        client.infer("doubler", [[1, 2]], wait=True)
    assert not world.clock.slept


def test_an_expired_lease_is_an_error_without_wait(world: World, enclave: FakeEnclave) -> None:
    """Only who asked to wait waits."""
    client = world.connect(enclave)
    enclave.refusals = [LeaseExpiredError("no authority", retry_after_s=1)]
    with pytest.raises(LeaseExpiredError):
        client.infer("doubler", [[1, 2]])
    assert not world.clock.slept
