"""A deployment in whose life everything happens that an audit log can tell of, and its log as an auditor gets it.

First with real processes: enclaves that are killed, frozen and thawed, a budget used up and raised, stops, a write-off.
Then, with the custodian stopped, its own ledger is opened by production code, because what follows needs a peer that
lies: a fork, refused evidence, a key for a model that is not lent; and a backup that is put in the place of the ledger.
"""

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from tests.custodian.conftest import Bench, Enclave, message_id, report, want
from tests.custodian.host_clock import told_by
from tests.e2e.model import one_digit
from tests.e2e.world import BORROWER, CONSUMER, MODEL, World

from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.codec import decode
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.custodian.app import open_custodian
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import key_release, views
from aigovtool.custodian.time_order import accept_time
from aigovtool.errors import AIGovToolError
from aigovtool.ids import BorrowerId, ConsumerId, InstanceId, MessageId, ModelId
from aigovtool.ledger.budget import BudgetLimit, RowKey, Scope, Window
from aigovtool.ledger.cosignature import WitnessKey
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.policy import Dial, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as acts
from aigovtool.protocol import release
from aigovtool.protocol.messages import Grant
from aigovtool.protocol.party import BorrowerFile, OperatorFile
from aigovtool.testing.simulated_tee import wiring
from assurance.drills.second import SecondOperator

_ROW = RowKey(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, bucket_ms=0)
_GUEST = BorrowerId("guest")
_VISITOR = ConsumerId("visitor")


def live(world: World) -> SecondOperator:
    """Let real processes do all that they do."""
    second = SecondOperator(world)
    _daily_limit(world)
    _ask(world, 3)
    lost = _instance(world)
    world.kill("enclave")
    world.start_enclave()
    _ask(world, 3)
    frozen = _instance(world)
    world.processes["enclave"].send_signal(signal.SIGSTOP)
    world.wait_for(lambda: _pending(world) == 0, "the leases of both are over")
    second.order(acts.WriteOff(instance=InstanceId(lost), reason="killed"))
    world.processes["enclave"].send_signal(signal.SIGCONT)
    world.wait_for(lambda: _outstanding(world, frozen) == 0, "the frozen one closes late")
    world.wait_ready()
    _until_asked(world)
    world.stop(StopTarget.CONSUMER, CONSUMER)
    world.resume(StopTarget.CONSUMER, CONSUMER)
    world.stop()
    world.wait_for(lambda: _state(world) == "wiped", "the enclave is wiped")
    world.resume()
    world.wait_ready()
    world.kill("enclave", 15)
    world.processes["enclave"].wait(60)
    world.kill("custodian", 15)
    world.processes["custodian"].wait(60)
    accept_time(world.directory / "custodian")
    return second


def _daily_limit(world: World) -> None:
    limit = BudgetLimit(
        scope=Scope(model=MODEL, borrower=BORROWER),
        dimension=Dimension.INFERENCES,
        window=Window.ROLLING_DAY,
        limit=900,
    )
    world.command(acts.SetBudget(limit=limit))


def _ask(world: World, number: int) -> list[int]:
    connection = world.connect()
    return [connection.infer(one_digit()).status for _ in range(number)]


def _until_asked(world: World) -> None:
    """Use the budget up, until the enclave has asked for more on the consumer's behalf, and approve that."""
    world.wait_for(
        lambda: 402 in _ask(world, 5) and bool(_asks(world)), "the budget is used up, and more was asked for"
    )
    world.command(acts.DecideAsk(ask_id=_asks(world)[0], approve=True, units=5, reason="drill"))
    world.wait_for(lambda: 200 in _ask(world, 1), "what was added is served")


def _asks(world: World) -> list[MessageId]:
    return [MessageId(str(ask["ask_id"])) for ask in world.view("/v1/asks")["asks"] if ask["state"] == "open"]


def _enclaves(world: World) -> list[dict[str, object]]:
    found: list[dict[str, object]] = world.view("/v1/enclaves")["enclaves"]
    return found


def _instance(world: World) -> str:
    return str(_enclaves(world)[0]["instance"])


def _state(world: World) -> str:
    return str(_enclaves(world)[0]["state"])


def _outstanding(world: World, instance: str) -> int:
    held = [one["outstanding"] for one in _enclaves(world) if one["instance"] == instance]
    return sum(int(units.get("inferences", 0)) for units in held if isinstance(units, dict))


def _pending(world: World) -> int:
    return sum(int(row["pending"]) for row in world.view("/v1/budgets")["budgets"])


# --- With the ledger at hand ---------------------------------------------------------------------------------


def end(world: World, second: SecondOperator) -> tuple[Custodian, str, list[bytes]]:
    """Let happen what needs a liar or a loss, and return the custodian (closed), the newest note and all entries."""
    directory = world.directory / "custodian"
    operator = decode((directory / "operator.json").read_bytes(), OperatorFile)
    party = decode((world.directory / "borrower.json").read_bytes(), BorrowerFile)
    custodian = open_custodian(directory)
    bench = Bench(directory, custodian, operator, custodian.time_ms())
    bench.second = second.key
    bench.enrolment[BORROWER] = SigningKey.from_secret(Secret(party.enrolment_key))
    try:
        return asyncio.run(_end(bench, world.directory / "backup"))
    finally:
        bench.custodian.database.close()


async def _end(bench: Bench, backup: Path) -> tuple[Custodian, str, list[bytes]]:
    await _refusals(bench)
    await bench.add_borrower(_GUEST)
    await bench.add_consumer(_VISITOR, _GUEST)
    enclave = await _booted(bench)
    await enclave.renew(want(1, consumer=_VISITOR, model=MODEL))  # of another borrower: refused, and noted
    await bench.command(acts.RevokeParty(role=PartyRole.BORROWER, name=_GUEST))
    await _grant(bench, 40)
    await _spend(bench, enclave, 2)
    _swap(bench, lambda: shutil.copytree(bench.directory, backup))
    await _spend(bench, enclave, 3)
    _swap(bench, lambda: _restore(bench.directory, backup))
    await _refused(enclave.renew())  # it remembers more: the ledger has a gap
    gap = await views.show_gap(bench.custodian)
    charge = acts.RowCharge(row=_ROW, units=3)
    settle = acts.SettleGap(checkpoint=gap.checkpoint or "", charges=[charge], reason="restored")
    await bench.command_of_two(settle)
    await _fork(bench)
    witness = WitnessKey("auditor.example", SigningKey.generate().public)
    await bench.command(acts.EnrolWitness(witness=witness.text()))
    await bench.command(acts.RetireWitness(name=witness.name))
    terms = default_policy(Dial.STRICT, version=9)
    await bench.command(acts.SetModelTerms(model=MODEL, policy=terms, borrowers=[BORROWER]))
    await bench.command(acts.WithdrawModel(model=MODEL))
    entries = (await views.show_log(bench.custodian, 0, 1000)).entries
    return bench.custodian, (await views.show_head(bench.custodian)).checkpoint, entries


async def _refused(work: Awaitable[object]) -> None:
    try:
        await work
    except AIGovToolError:
        return
    raise AssertionError("what should have been refused was not")


async def _refusals(bench: Bench) -> None:
    """Refused evidence, a key that is not lent, an order that one cannot give alone, and a policy that ends a life."""
    stranger = _enclave(bench)
    challenge = await stranger.challenge()
    claims = stranger.claims(challenge)
    other = msgspec.structs.replace(claims, nonce=(await stranger.challenge()).nonce)
    await _refused(stranger.admit(stranger.sealed(stranger.request(claims, evidence_of=other))))
    enclave = await _booted(bench)
    asked = release.ReleaseRequest(
        instance=enclave.instance, request_id=message_id(), model=ModelId("another"), manifest=bench.manifest
    )
    await _refused(key_release.release_key(bench.custodian, seal(release.RELEASE_REQUEST, asked, enclave.identity)))
    await _refused(bench.command(acts.WriteOff(instance=enclave.instance, reason="alone")))
    accepted = wiring.development_policy()
    for policy in (_refusing(accepted), accepted):  # the first ends the enclave that is there
        newer = msgspec.structs.replace(policy, version=policy.version + 1 + (policy is accepted))
        await bench.command_of_two(acts.SetAppraisalPolicy(policy=newer))


def _refusing(policy: AppraisalPolicy) -> AppraisalPolicy:
    """Return a policy that accepts another build only."""
    (entry,) = policy.accepted
    (known,) = entry.reference_values
    other = msgspec.structs.replace(known, values=(msgspec.structs.replace(known.values[0], digest="ab" * 48),))
    return msgspec.structs.replace(policy, accepted=(msgspec.structs.replace(entry, reference_values=(other,)),))


def _enclave(bench: Bench) -> Enclave:
    return Enclave(bench, BORROWER, models=[MODEL])


async def _booted(bench: Bench) -> Enclave:
    enclave = _enclave(bench)
    await enclave.boot()
    return enclave


async def _grant(bench: Bench, units: int) -> None:
    act = acts.GrantBudget(
        scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=units
    )
    await bench.command(act)


async def _drawn(enclave: Enclave, units: int) -> Grant:
    wish = want(units, consumer=ConsumerId(CONSUMER), model=MODEL)
    (result,) = (await enclave.renew(msgspec.structs.replace(wish, minimum=wish.target))).results
    if not isinstance(result, Grant):
        raise AssertionError(f"no grant: {result}")  # noqa: TRY004 - the deployment did not do what it should
    return result


async def _spend(bench: Bench, enclave: Enclave, units: int) -> None:
    bench.now_ms += 1
    grant = await _drawn(enclave, units)
    await enclave.renew(reports=(report(grant.lease_id, seq=1, used=units, final=True),))


async def _fork(bench: Bench) -> None:
    """Wait until the ledger grants again, and let a copy of an enclave contradict it."""
    bench.now_ms += 60_000
    bench.custodian.clock = told_by(lambda: bench.now_ms)
    enclave = await _booted(bench)
    grant = await _drawn(enclave, 4)
    await enclave.renew(reports=(report(grant.lease_id, seq=2, used=3),))
    await enclave.renew(reports=(report(grant.lease_id, seq=3, used=1),))


def _swap(bench: Bench, change: Callable[[], object]) -> None:
    bench.custodian.database.close()
    change()
    bench.custodian = open_custodian(bench.directory)


def _restore(directory: Path, backup: Path) -> None:
    for path in directory.glob("ledger.db*"):
        path.unlink()
    for path in backup.glob("ledger.db*"):
        shutil.copy(path, directory / path.name)
