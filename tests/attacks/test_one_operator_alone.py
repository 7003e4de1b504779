"""An operator's key in wrong hands: what it can order alone, and what the log tells of it."""

import base64
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.commandline import aigovtool
from tests.e2e.model import digits_model
from tests.e2e.world import BORROWER, World
from tests.observations import Observed

from aigovtool.codec import encode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.ids import InstanceId, MessageId
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.protocol import commands
from aigovtool.protocol.commands import COMMAND, Act, Command
from aigovtool.testing.simulated_tee import wiring

YEAR_MS = 365 * 86_400_000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A custodian with two operators and a stop in force; no enclave is needed."""
    made = World(tmp_path_factory.mktemp("operators"))
    try:
        made.prepare(digits_model(), default_policy(Dial.BALANCED))
        made.grant(100)
        made.stop()
        made.second_operator()
        yield made
    finally:
        made.close()


def order_alone(world: World, act: Act) -> httpx.Response:
    """Send what the first operator alone has signed."""
    order = signed(world, act, SigningKey.from_secret(Secret(world.operator.key)))
    with world.custodian_client() as client:
        return client.post("/v1/commands", content=order, headers={"content-type": "application/json"})


def signed(world: World, act: Act, *keys: SigningKey) -> bytes:
    """Return an order of the first operator with these signatures."""
    order = Command(
        custodian=world.custodian_id,
        operator=world.operator.operator,
        command_id=MessageId(secrets.token_hex(16)),
        issued_at_ms=time.time_ns() // 1_000_000,
        act=act,
    )
    return encode(seal(COMMAND, order, *keys))


ALONE_REFUSED: dict[str, Act] = {
    "lift a stop": commands.Resume(target=StopTarget.ALL, value="", reason="all is well"),
    "enrol another operator": commands.AddParty(
        role=PartyRole.OPERATOR,
        name="puppet",
        key=SigningKey.generate().public.raw,
        borrower=None,
        valid_for_ms=YEAR_MS,
    ),
    "accept other enclaves": commands.SetAppraisalPolicy(policy=wiring.development_policy()),
    "give up an enclave's leases": commands.WriteOff(instance=InstanceId("0" * 64), reason="lost"),
    "settle a gap": commands.SettleGap(checkpoint="", charges=[], reason="lost"),
}


@pytest.mark.attack(41)
@pytest.mark.parametrize("what", ALONE_REFUSED)
def test_one_operator_alone_cannot(world: World, what: str, observed: Observed) -> None:
    """What undoes a stop or the ledger, or admits others, needs a second signature; the attempt is in the log."""
    entries = len(world.log_entries())
    refused = order_alone(world, ALONE_REFUSED[what])
    assert (refused.status_code, refused.json()["reason"]) == (409, "needs_second")
    observed.refusal(refused.json())
    (told,) = [json.loads(entry)["body"] for entry in world.log_entries()[entries:]]
    assert (told["kind"], told["command"]["operator"], told["reason"]) == ("command_refused", "alice", "needs_second")
    observed.entry(told["kind"])
    assert [stop["target"] for stop in world.view("/v1/stops")["stops"]] == ["all"]


@pytest.mark.attack(41)
def test_one_operator_alone_stops(world: World) -> None:
    """What must end at once is never kept waiting for a second one."""
    stop = commands.Stop(target=StopTarget.BORROWER, value=BORROWER, reason="now")
    assert order_alone(world, stop).status_code == 200
    assert {stop["target"] for stop in world.view("/v1/stops")["stops"]} == {"all", "borrower"}
    world.resume(StopTarget.BORROWER, BORROWER)


@pytest.mark.attack(41)
def test_a_signature_that_was_kept_back_lifts_no_later_stop(world: World, observed: Observed) -> None:
    """A second operator, or the thief of that key, has what the first signed in the matter of another stop."""
    ((target, epoch),) = [(stop["target"], stop["epoch"]) for stop in world.view("/v1/stops")["stops"]]
    lift = commands.Resume(target=StopTarget(target), value="", reason="it was a false alarm", epoch=epoch)
    kept = signed(world, lift, SigningKey.from_secret(Secret(world.operator.key)), world.second_operator())
    world.resume()
    world.stop()
    with world.custodian_client() as client:
        refused = client.post("/v1/commands", content=kept, headers={"content-type": "application/json"})
    assert (refused.status_code, refused.json()["reason"]) == (409, "stop_changed")
    observed.refusal(refused.json())
    assert [stop["target"] for stop in world.view("/v1/stops")["stops"]] == ["all"]


@pytest.mark.attack(41)
def test_who_has_the_custodian_cannot_change_what_was_logged(world: World, tmp_path: Path, observed: Observed) -> None:
    """A grant that is taken out of an exported log is missed, by whoever verifies the copy."""
    operator, copy = tmp_path / "alice.json", tmp_path / "log.jsonl"
    operator.write_bytes(encode(world.operator))
    operator.chmod(0o600)
    aigovtool("audit", "export", "-o", copy, operator=operator)
    root = base64.b64encode(world.operator.custodian.root).decode()
    aigovtool("audit", "verify", copy, "--root", root)
    lines = copy.read_text(encoding="utf-8").splitlines(keepends=True)
    granted = next(number for number, line in enumerate(lines) if '"kind":"budget_set"' in line)
    copy.write_text("".join(lines[:granted] + lines[granted + 1 :]), encoding="utf-8")
    refused = aigovtool("audit", "verify", copy, "--root", root, "--json", code=5)
    problem = json.loads(refused.stderr or refused.stdout)
    observed.refusal(problem.get("error", problem))
