"""An operator's key in wrong hands: what it can order alone, and what the log tells of it."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.attacks.deployments import YEAR_MS, Deployment, deployed
from tests.e2e.commandline import aigovtool
from tests.e2e.world import BORROWER, MODEL
from tests.observations import Observed

from aigovtool.codec import encode
from aigovtool.crypto.sign import SigningKey
from aigovtool.ids import BorrowerId, InstanceId
from aigovtool.ledger.budget import Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands
from aigovtool.protocol.commands import Act
from aigovtool.testing.simulated_tee import wiring


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A custodian with two operators and a stop in force; no enclave is needed."""
    with deployed(tmp_path_factory.mktemp("operators"), budget=100, enclave=False) as made:
        made.stop()
        made.second_operator()
        yield made


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
def test_one_operator_alone_cannot(world: Deployment, what: str, observed: Observed) -> None:
    """What undoes a stop or the ledger, or admits others, needs a second signature; the attempt is in the log."""
    entries = len(world.log_entries())
    refused = world.send(world.order(ALONE_REFUSED[what]))
    assert (refused.status_code, refused.json()["reason"]) == (409, "needs_second")
    observed.refusal(refused.json())
    (told,) = [json.loads(entry)["body"] for entry in world.log_entries()[entries:]]
    assert (told["kind"], told["command"]["operator"], told["reason"]) == ("command_refused", "alice", "needs_second")
    observed.entry(told["kind"])
    assert [stop["target"] for stop in world.view("/v1/stops")["stops"]] == ["all"]


@pytest.mark.attack(41)
def test_one_operator_alone_stops(world: Deployment) -> None:
    """What must end at once is never kept waiting for a second one."""
    stop = commands.Stop(target=StopTarget.BORROWER, value=BORROWER, reason="now")
    assert world.send(world.order(stop)).status_code == 200
    assert {stop["target"] for stop in world.view("/v1/stops")["stops"]} == {"all", "borrower"}
    world.resume(StopTarget.BORROWER, BORROWER)


@pytest.mark.attack(41)
def test_what_one_operator_alone_can_is_in_the_log(world: Deployment, observed: Observed) -> None:
    """SECURITY.md says so: enrol others but operators, lend any model to them, and grant units. It names who did it."""
    before = len(world.log_entries())
    friend, key = BorrowerId("friend"), SigningKey.generate().public.raw
    terms = msgspec.structs.replace(default_policy(Dial.BALANCED), version=2)
    alone: dict[str, Act] = {
        "party_added": commands.AddParty(
            role=PartyRole.BORROWER, name=friend, key=key, borrower=None, valid_for_ms=YEAR_MS
        ),
        "model_terms_set": commands.SetModelTerms(model=MODEL, policy=terms, borrowers=[BORROWER, friend]),
        "budget_set": commands.GrantBudget(
            scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=10**6
        ),
    }
    for act in alone.values():
        assert world.send(world.order(act)).status_code == 200
    told = [json.loads(entry)["body"] for entry in world.log_entries()[before:]]
    assert [(one["kind"], one["command"]["operator"]) for one in told] == [(kind, "alice") for kind in alone]
    observed.figure("orders of one operator alone that the log tells", len(told))


@pytest.mark.attack(41)
def test_a_signature_that_was_kept_back_lifts_no_later_stop(world: Deployment, observed: Observed) -> None:
    """A second operator, or the thief of that key, has what the first signed in the matter of another stop."""
    ((target, epoch),) = [(stop["target"], stop["epoch"]) for stop in world.view("/v1/stops")["stops"]]
    lift = commands.Resume(target=StopTarget(target), value="", reason="it was a false alarm", epoch=epoch)
    kept = world.order(lift, world.operator_key, world.second_operator())
    world.resume()
    world.stop()
    refused = world.send(kept)
    assert (refused.status_code, refused.json()["reason"]) == (409, "stop_changed")
    observed.refusal(refused.json())
    assert [stop["target"] for stop in world.view("/v1/stops")["stops"]] == ["all"]


@pytest.mark.attack(41)
def test_who_has_the_custodian_cannot_change_what_was_logged(
    world: Deployment, tmp_path: Path, observed: Observed
) -> None:
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
