"""One party that asks the custodian for all that it may, on as many connections, keeps nobody else waiting."""

import threading
from collections.abc import Iterator

import pytest
from tests.attacks.deployments import Deployment, deployed
from tests.attacks.rogue import Rogue, sent, want
from tests.e2e.world import CONSUMER
from tests.observations import Observed

from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol.commands import Stop

#: Renewals that are sent at once, and wishes in each: together they take the ledger some seconds.
AT_ONCE = 40
WISHES = 200


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A custodian and its parties; the only enclave is the test's."""
    with deployed(tmp_path_factory.mktemp("ledger"), enclave=False) as made:
        yield made


def test_a_stop_does_not_wait_for_a_borrowers_many_renewals(world: Deployment, observed: Observed) -> None:
    """An instance sends forty renewals at once, each with two hundred wishes: a stop is ordered before most of them."""
    rogue = Rogue(world)
    rogue.boot()
    rogue.renew()
    links = [rogue.connect() for _ in range(AT_ONCE)]
    operator = world.to_custodian()
    for link in (operator, *links):
        assert link.request("GET", "/v1/health").status == 200
    order = world.order(Stop(target=StopTarget.CONSUMER, value=CONSUMER, reason="incident"))
    answered: list[int] = []

    def insist(number: int) -> None:
        answered.append(sent(links[number], "/v1/renew", bodies[number]).status)

    bodies = [rogue.renewal([want(CONSUMER)] * WISHES) for _ in range(AT_ONCE)]
    threads = [threading.Thread(target=insist, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    world.wait_for(lambda: len(answered) > 0, "the first of them is answered")
    before = len(answered)
    stopped = operator.request("POST", "/v1/commands", order)
    during = len(answered)
    assert stopped.status == 200
    for thread in threads:
        thread.join(60)
    assert set(answered) == {200}
    assert len(answered) == AT_ONCE
    observed.figure(f"renewals of {AT_ONCE} that came before a stop which was ordered during them", during - before)
    assert during - before < AT_ONCE // 2
