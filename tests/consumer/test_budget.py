"""What a consumer asks its custodian."""

import msgspec
import pytest
from tests.consumer.conftest import DOUBLER, MODEL, FakeEnclave, World

from aigovtool.consumer import AsyncClient, Client
from aigovtool.crypto.tlskey import TlsKey
from aigovtool.crypto.x509 import new_authority
from aigovtool.errors import DeadlineError, InvalidValueError, SignatureInvalidError, UnreachableError
from aigovtool.ids import ModelId, digest_of
from aigovtool.ledger.units import Dimension
from aigovtool.protocol.views import DimensionRoom


def test_more_budget_is_asked_for_by_scope(client: Client) -> None:
    """The scope is this consumer of this borrower on the only model."""
    ask = client.request_budget(10, "ten more cases")
    assert (ask.units, ask.reason, ask.state) == (10, "ten more cases", "open")
    assert (ask.scope.model, ask.scope.borrower, ask.scope.consumer) == (MODEL, "hospital", "radiology")
    assert client.ask_state(ask.ask_id) == ask


def test_a_lost_ask_is_repeated_and_recorded_once(client: Client, world: World) -> None:
    """The id is the consumer's, so the custodian recognises the repetition."""
    world.custodian.lose_answers = 1
    client.request_budget(10, "ten more cases")
    assert world.custodian.posts == 2
    assert len(world.custodian.asks) == 1
    world.custodian.lose_answers = 2
    with pytest.raises(UnreachableError):
        client.request_budget(10, "ten more cases")


def test_the_own_view_is_shown(client: Client) -> None:
    """What is left, and what was asked."""
    view = client.budget()
    left = [DimensionRoom(dimension=Dimension.INFERENCES, units=10)]
    assert (view.name, view.budgets[0].rooms, view.asks) == ("radiology", left, [])


@pytest.mark.parametrize(("units", "reason"), [(0, "x"), (-5, "x"), (10**12 + 1, "x"), (5, ""), (5, "x" * 501)])
def test_an_ask_out_of_bounds_is_not_sent(client: Client, world: World, units: int, reason: str) -> None:
    """Bounds are checked on this side too."""
    with pytest.raises(InvalidValueError):
        client.request_budget(units, reason)
    assert world.custodian.posts == 0


@pytest.mark.parametrize("ask_id", ["", "..", "../self", "AB" * 16, "ab" * 16 + "/x"])
def test_an_ask_id_cannot_be_a_path(client: Client, ask_id: str) -> None:
    """An id goes into a path, so it is checked first."""
    with pytest.raises(InvalidValueError):
        client.ask_state(ask_id)


def test_among_several_models_one_must_be_named(world: World, enclave: FakeEnclave) -> None:
    """Nobody guesses for which model budget is wanted."""
    enclave.manifests[ModelId("tripler")] = digest_of(b"tripler")
    enclave.models[ModelId("tripler")] = DOUBLER
    client = world.connect(enclave)
    with pytest.raises(InvalidValueError) as caught:
        client.request_budget(10, "more")
    assert caught.value.reason == "which_model"
    assert client.request_budget(10, "more", model="tripler").scope.model == "tripler"


def test_a_custodian_under_another_authority_is_refused(world: World, enclave: FakeEnclave) -> None:
    """The authority in the consumer file is the only one that counts."""
    other = new_authority(TlsKey.generate(), "other", **world.validity)
    client = world.connect(enclave, credential_path=world.consumer_file("other.json", tls_authority=other))
    with pytest.raises(SignatureInvalidError) as caught:
        client.budget()
    assert caught.value.reason == "other_certificate"
    assert not world.custodian.posts


# --- Waiting for a decision -----------------------------------------------------------------------


@pytest.mark.parametrize("state", ["approved", "denied"])
def test_a_decision_is_waited_for(state: str, world: World, enclave: FakeEnclave) -> None:
    """What the operator decided, with the reason; it is looked after more and more rarely."""
    client = world.connect(enclave)
    ask = client.request_budget(10, "more patients")

    def decide() -> None:
        if len(world.clock.slept) == 4:
            decided = msgspec.structs.replace(ask, state=state, decision="as agreed", granted=10)
            world.custodian.asks[ask.ask_id] = decided

    world.clock.on_sleep = decide
    found = client.decision(ask.ask_id)
    assert (found.state, found.decision, found.granted) == (state, "as agreed", 10)
    assert world.clock.slept == [1, 2, 4, 8]


def test_nobody_decides(world: World, enclave: FakeEnclave) -> None:
    """The wait ends when it is over, and says how to look again; the request is open all the same."""
    client = world.connect(enclave)
    ask = client.request_budget(10, "more patients")
    with pytest.raises(DeadlineError) as caught:
        client.decision(ask.ask_id, deadline_s=100)
    assert caught.value.reason == "not_decided"
    assert ask.ask_id in (caught.value.fix or "")
    assert sum(world.clock.slept) < 100
    assert max(world.clock.slept) == 15
    assert client.ask_state(ask.ask_id).state == "open"


async def test_a_decision_is_waited_for_on_asyncio(world: World, enclave: FakeEnclave) -> None:
    """The same."""
    async with AsyncClient.connect(enclave.url, world.file, allow_simulated=True, clock=world.clock.clock()) as client:
        ask = await client.request_budget(10, "more patients")
        with pytest.raises(DeadlineError):
            await client.decision(ask.ask_id, deadline_s=3)
