"""The ledger is lost and an old copy put in its place: the running enclave makes the custodian notice."""

import http.client
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.heartbeat import wait_for_heartbeat
from tests.e2e.orders import key_of, signed_order
from tests.e2e.world import MODEL, MakeWorld, World
from tests.observations import Observed

from aigovtool.codec import decode
from aigovtool.custodian.app import add_operator
from aigovtool.ledger.budget import RowKey, Scope, Window
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands
from aigovtool.protocol.party import OperatorFile

BUDGET = 60
JSON = {"content-type": "application/json"}
ROW = RowKey(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=0)


def ledger_files(world: World) -> list[Path]:
    return sorted((world.directory / "custodian").glob("ledger.db*"))


def stop_custodian(world: World) -> None:
    world.kill("custodian", 15)
    world.processes["custodian"].wait(20)


def copied(world: World) -> list[tuple[Path, Path]]:
    """Copy the ledger of a custodian that is stopped; return each file with its copy."""
    copies = [(path, world.directory / path.name) for path in ledger_files(world)]
    for path, copy in copies:
        shutil.copy(path, copy)
    return copies


def put_back(world: World, copies: list[tuple[Path, Path]], *, shown: Callable[[], object] = lambda: None) -> None:
    """Put a copy in the ledger's place, and wait until the enclave, or whoever else, has shown what it remembers."""
    stop_custodian(world)
    for path in ledger_files(world):
        path.unlink()
    for path, copy in copies:
        shutil.copy(copy, path)
    world.start_custodian()
    shown()
    world.wait_for(lambda: world.view("/v1/gap")["checkpoint"] is not None, "somebody shows what they remember")


def settle(world: World, second: OperatorFile, charge: int) -> None:
    """Two operators sign that `charge` units were spent in what is lost."""
    act = commands.SettleGap(
        checkpoint=world.view("/v1/gap")["checkpoint"],
        charges=[commands.RowCharge(row=ROW, units=charge)],
        reason="disk lost, backup of this morning",
    )
    with world.custodian_client() as client:
        response = client.post(
            "/v1/commands",
            content=signed_order(world, act, key_of(world.operator), key_of(second)),
            headers=JSON,
        )
    assert response.status_code == 200, response.text


def ask(world: World, body: bytes, statuses: list[int]) -> int:
    """Ask once on a connection of its own; 0 if it was cut."""
    connection = world.connect()
    try:
        statuses.append(connection.infer(body).status)
    except (OSError, http.client.HTTPException):
        statuses.append(0)
    finally:
        connection.close()
    return statuses[-1]


@pytest.mark.attack(21)
def test_an_enclave_that_was_forgotten_too_shows_what_it_remembers(make_world: MakeWorld, body: bytes) -> None:
    """The copy is from before it attested: it is refused as unknown, and shows its checkpoint before it boots again."""
    world = make_world(budget=BUDGET, ttl_ms=1_000)
    stop_custodian(world)
    copies = copied(world)
    world.start_custodian()
    world.kill("enclave")
    world.start_enclave()
    world.wait_for(lambda: ask(world, body, []) == 200, "the new one serves")
    wait_for_heartbeat(world)  # the enclave has the checkpoint that covers its leases
    put_back(world, copies)
    time.sleep(2.0)
    assert ask(world, body, []) != 200


@pytest.mark.attack(21)
def test_a_restored_ledger_never_grants_what_it_forgot(make_world: MakeWorld, body: bytes, observed: Observed) -> None:
    """The old copy is refused by what the enclave remembers; settled, the rest of the budget is served, and no more."""
    world = make_world(budget=BUDGET, ttl_ms=1_000)
    second = world.directory / "bob.json"
    stop_custodian(world)
    add_operator(world.directory / "custodian", "bob", second)
    copies = copied(world)
    world.start_custodian()
    connection = world.connect()
    world.wait_for(lambda: connection.infer(body).status == 200, "the service comes back")
    answered = 1 + sum(connection.infer(body).status == 200 for _ in range(30))
    wait_for_heartbeat(world)  # the enclave has the checkpoint that covers its leases
    charged = world.charged()
    put_back(world, copies)
    world.wait_for(lambda: connection.infer(body).status == 423, "without a renewal the service ends")
    assert world.charged() < charged
    with world.custodian_client() as client:
        grant = commands.GrantBudget(
            scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=1
        )
        refused = client.post(
            "/v1/commands",
            content=signed_order(world, grant, key_of(world.operator)),
            headers=JSON,
        )
    assert observed.refusal(refused.json()) == "ledger_rollback"
    settle(world, decode(second.read_bytes(), OperatorFile), charged)
    # The old instance must attest again: its connections end with it.
    statuses: list[int] = []
    world.wait_for(lambda: ask(world, body, statuses) == 200, "it serves what is left", 30)
    # 429 may come between: what the old instance held is not free at once.
    world.wait_for(lambda: ask(world, body, statuses) == 402, "the rest is used up")
    answered += statuses.count(200)
    assert 31 < answered <= BUDGET
    assert world.charged() <= BUDGET
    kinds = {json.loads(entry)["body"]["kind"] for entry in world.log_entries()}
    for kind in ("gap_found", "restored", "charged"):
        assert kind in kinds
        observed.entry(kind)
