"""A stranger collected a custodian's checkpoints before it lost its ledger, and shows one after the other."""

import httpx
import pytest
from tests.attacks.raw import context_of
from tests.e2e.heartbeat import wait_for_heartbeat
from tests.e2e.test_restore import BUDGET, JSON, ask, copied, put_back, stop_custodian
from tests.e2e.world import MakeWorld, World
from tests.observations import Observed

from aigovtool.ledger.entry import StopTarget
from aigovtool.protocol import commands


class Stranger:
    """Somebody without any credential, who reads what is published and keeps it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.notes: list[str] = []

    def _client(self) -> httpx.Client:
        url = self.world.operator.custodian.url
        return httpx.Client(base_url=url, verify=context_of(None), timeout=20, trust_env=False)

    def collect(self) -> None:
        """Keep the newest checkpoint."""
        with self._client() as client:
            self.notes.append(client.get("/v1/checkpoint").json()["checkpoint"])

    def show(self, note: str) -> httpx.Response:
        """Show the custodian a checkpoint."""
        with self._client() as client:
            return client.post("/v1/checkpoints", json={"checkpoint": note}, headers=JSON)


@pytest.mark.attack(21)
def test_checkpoints_that_were_held_back_do_not_stop_a_settled_custodian(
    make_world: MakeWorld, body: bytes, observed: Observed
) -> None:
    """They end all grants until two operators settle it for good. Then the larger ones, one by one, change nothing.

    Nor do those that are shown between the two signatures make the order void, and a lease of afterwards is served.
    """
    world = make_world(budget=BUDGET, ttl_ms=1_000)
    world.second_operator()
    stranger = Stranger(world)
    stop_custodian(world)
    copies = copied(world)
    world.start_custodian()
    for _ in range(3):
        world.grant(1)
        wait_for_heartbeat(world)
        stranger.collect()
    world.kill("enclave")  # whoever remembered most is gone: what the stranger has is all that is shown
    for _ in range(3):
        world.grant(1)
        stranger.collect()
    put_back(world, copies, shown=lambda: stranger.show(stranger.notes[0]))
    first, second, *larger = stranger.notes
    assert observed.refusal(stranger.show(first).json()) == "ledger_rollback"
    order = commands.SettleGap(
        checkpoint=world.view("/v1/gap")["checkpoint"], charges=[], reason="disk lost", final=True
    )
    assert stranger.show(second).status_code == 503
    world.command(commands.Stop(target=StopTarget.ALL, value="", reason="disk lost"))
    world.command(order)
    (stop,) = world.view("/v1/stops")["stops"]
    world.command(commands.Resume(target=StopTarget.ALL, value="", reason="looked through", epoch=stop["epoch"]))
    assert all(row["room"] == 0 for row in world.view("/v1/budgets")["budgets"])
    world.grant(2)
    world.start_enclave()
    statuses: list[int] = []
    for note in larger:
        assert stranger.show(note).status_code == 200
    world.wait_for(lambda: ask(world, body, statuses) == 200, "it serves what was granted anew", 30)
    for note in (*larger, first):
        assert stranger.show(note).status_code == 200
    assert ask(world, body, statuses) == 200
    world.wait_for(lambda: ask(world, body, statuses) == 402, "the rest is used up")
    assert statuses.count(200) == 2
    assert world.view("/v1/gap")["shown_since"] > 0
