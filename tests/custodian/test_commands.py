"""Operator commands: signed by this operator, for this custodian, fresh, and applied once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import pytest
from tests.custodian.conftest import (
    BORROWER,
    CONSUMER,
    MODEL,
    OTHER,
    STRANGER,
    YEAR_MS,
    Bench,
    Enclave,
    message_id,
    want,
)
from tests.custodian.test_continuity import verified

from aigovtool.crypto.identity import IdentityKind, parse_identity
from aigovtool.crypto.secret import Secret
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.crypto.wrap import wrap
from aigovtool.crypto.x509 import describe, from_pem
from aigovtool.custodian.service import commands, credentials, renewal, views
from aigovtool.custodian.service.packages import path_of
from aigovtool.custodian.store.database import Database
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import (
    AIGovToolError,
    AppraisalError,
    ConflictError,
    ForbiddenError,
    InvalidValueError,
    NotFoundError,
    SignatureInvalidError,
    StorageError,
)
from aigovtool.ids import ConsumerId, Digest, ModelId, digest_of, key_id_of
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.units import Dimension
from aigovtool.limits import MAX_INTEGER
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages
from aigovtool.protocol.commands import COMMAND, COMMAND_MAX_AGE_MS
from aigovtool.protocol.messages import Deny, DenyCode
from aigovtool.testing.simulated_tee import wiring

STOP = acts.Stop(target=StopTarget.ALL, value="", reason="drill")
RESUME = acts.Resume(target=StopTarget.ALL, value="", reason="drill over")
T = TypeVar("T")


async def refused(bench: Bench, act: Any, error: type[AIGovToolError], reason: str) -> None:
    """Expect that an act is refused, that only the refusal is in the log and that no epoch was spent."""
    before, epoch = len(await bench.log()), (await views.show_stops(bench.custodian)).epoch
    with pytest.raises(error) as caught:
        await bench.command(act)
    assert caught.value.reason == reason
    (line,) = (await bench.log())[before:]
    assert isinstance(line, entry.CommandRefused)
    assert (line.code, line.reason, line.command.operator) == (error.code, reason, "alice")
    assert (await views.show_stops(bench.custodian)).epoch == epoch


# --- Who, for whom, when -------------------------------------------------------------------------------------


async def test_a_command_is_named_in_the_log_by_its_digest(bench: Bench) -> None:
    """Whoever holds the signed command can find it in the log, and nobody can deny it."""
    envelope = seal(COMMAND, bench.order(STOP), bench.key)
    result = await commands.execute(bench.custodian, bench.alice, envelope)
    line = (await bench.log())[result.entry]
    assert isinstance(line, entry.Stopped)
    assert line.command.digest == digest_of(envelope.payload)
    assert (line.command.operator, line.command.command_id) == ("alice", result.command_id)


async def test_another_operators_signature_is_refused(bench: Bench) -> None:
    """Bob's connection cannot bring a command that alice signed, and alice's none that bob signed."""
    bobs = SigningKey.generate()
    await bench.add_party(PartyRole.OPERATOR, "bob", bobs)
    bob = bench.identity(IdentityKind.OPERATOR, "bob", bobs)
    order = bench.order(STOP)
    for identity, key in ((bob, bench.key), (bench.alice, bobs), (bench.alice, SigningKey.generate())):
        with pytest.raises(SignatureInvalidError) as caught:
            await commands.execute(bench.custodian, identity, seal(COMMAND, order, key))
        assert caught.value.reason == "wrong_key"
    with pytest.raises(SignatureInvalidError) as caught:  # bob signs in alice's name
        await commands.execute(bench.custodian, bob, seal(COMMAND, order, bobs))
    assert caught.value.reason == "wrong_command"
    assert (await views.show_stops(bench.custodian)).stops == []


async def test_a_command_for_another_custodian_is_refused(bench: Bench) -> None:
    """A command is worth nothing at a second custodian with the same operators."""
    order = bench.order(STOP, custodian=key_id_of(b"another custodian"))
    with pytest.raises(SignatureInvalidError) as caught:
        await commands.execute(bench.custodian, bench.alice, seal(COMMAND, order, bench.key))
    assert caught.value.reason == "wrong_command"


async def test_another_kind_of_message_is_no_command(bench: Bench) -> None:
    """A signature under another payload type is for something else."""
    with pytest.raises(SignatureInvalidError) as caught:
        await commands.execute(bench.custodian, bench.alice, seal(messages.WIPED, bench.order(STOP), bench.key))
    assert caught.value.reason == "wrong_kind"


@pytest.mark.parametrize(
    ("age_ms", "good"),
    [
        (COMMAND_MAX_AGE_MS, True),
        (-COMMAND_MAX_AGE_MS, True),
        (COMMAND_MAX_AGE_MS + 1, False),
        (-COMMAND_MAX_AGE_MS - 1, False),
    ],
)
async def test_an_old_or_future_command_is_worth_nothing(age_ms: int, good: bool, bench: Bench) -> None:  # noqa: FBT001
    """Five minutes either way, to the millisecond, by the custodian's time."""
    await bench.command(STOP)
    envelope = seal(COMMAND, bench.order(RESUME, issued_at_ms=bench.now_ms - age_ms), bench.key)
    if good:
        await commands.execute(bench.custodian, bench.alice, envelope)
        return
    with pytest.raises(SignatureInvalidError) as caught:
        await commands.execute(bench.custodian, bench.alice, envelope)
    assert caught.value.reason == "stale_command"
    assert (await views.show_stops(bench.custodian)).stops != []


@pytest.mark.parametrize("age_ms", [10 * YEAR_MS, COMMAND_MAX_AGE_MS + 1, -COMMAND_MAX_AGE_MS - 1, -10 * YEAR_MS])
async def test_a_stop_is_carried_out_whatever_the_clocks_say(age_ms: int, bench: Bench) -> None:
    """Once: the same again is answered alike, also after it was lifted."""
    envelope = seal(COMMAND, bench.order(STOP, issued_at_ms=max(0, bench.now_ms - age_ms)), bench.key)
    done = await commands.execute(bench.custodian, bench.alice, envelope)
    assert len((await views.show_stops(bench.custodian)).stops) == 1
    await bench.command(RESUME)
    assert await commands.execute(bench.custodian, bench.alice, envelope) == done
    assert (await views.show_stops(bench.custodian)).stops == []


async def test_one_clock_reading_far_ahead_does_not_lock_operators_out(bench: Bench) -> None:
    """The ledger's time never goes back; whether a command is fresh is judged by the clock as it is now."""
    bench.now_ms += 30 * 86_400_000
    await views.show_budgets(bench.custodian)  # the ledger has now seen the later time
    bench.now_ms -= 30 * 86_400_000
    assert (await bench.command(STOP)).epoch == 1


async def test_a_repeated_command_is_applied_once_and_answered_alike(lent: Bench) -> None:
    """Also after a restart's worth of time: the answer to a known command does not grow old."""
    act = acts.GrantBudget(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=100)
    envelope = seal(COMMAND, lent.order(act), lent.key)
    first = await commands.execute(lent.custodian, lent.alice, envelope)
    lines = len(await lent.log())
    lent.now_ms += 10 * COMMAND_MAX_AGE_MS
    assert await commands.execute(lent.custodian, lent.alice, envelope) == first
    (row,) = (await views.show_budgets(lent.custodian)).budgets
    assert row.limit == 100
    assert len(await lent.log()) == lines


async def test_a_command_id_is_used_for_one_command(bench: Bench) -> None:
    """The same id with another content is a conflict, not a second act and not the first answer."""
    first = bench.order(STOP)
    await commands.execute(bench.custodian, bench.alice, seal(COMMAND, first, bench.key))
    changed = msgspec.structs.replace(first, act=acts.Resume(target=StopTarget.ALL, value="", reason="drill"))
    with pytest.raises(ConflictError) as caught:
        await commands.execute(bench.custodian, bench.alice, seal(COMMAND, changed, bench.key))
    assert caught.value.reason == "command_changed"
    assert caught.value.status == 409
    assert len((await views.show_stops(bench.custodian)).stops) == 1


async def test_a_refused_command_may_be_sent_again(lent: Bench) -> None:
    """A refusal is not remembered: the same signed command works once its obstacle is gone."""
    envelope = seal(COMMAND, lent.order(acts.Resume(target=StopTarget.ALL, value="", reason="r")), lent.key)
    with pytest.raises(ConflictError) as caught:
        await commands.execute(lent.custodian, lent.alice, envelope)
    assert caught.value.reason == "not_stopped"
    await lent.command(STOP)
    await commands.execute(lent.custodian, lent.alice, envelope)
    assert (await views.show_stops(lent.custodian)).stops == []


# --- Parties -------------------------------------------------------------------------------------------------


async def test_a_revoked_operator_commands_nothing(bench: Bench) -> None:
    """Not with a fresh command, and not by repeating one that was carried out."""
    bobs = SigningKey.generate()
    await bench.add_party(PartyRole.OPERATOR, "bob", bobs)
    bob = bench.identity(IdentityKind.OPERATOR, "bob", bobs)
    order = bench.order(STOP, operator="bob")
    envelope = seal(COMMAND, order, bobs)
    await commands.execute(bench.custodian, bob, envelope)
    await bench.command(acts.RevokeParty(role=PartyRole.OPERATOR, name="bob"))
    fresh = seal(COMMAND, msgspec.structs.replace(order, command_id=message_id()), bobs)
    for attempt in (envelope, fresh):
        with pytest.raises(ForbiddenError) as caught:
            await commands.execute(bench.custodian, bob, attempt)
        assert caught.value.reason == "not_enrolled"


async def test_who_is_revoked_while_an_order_of_two_is_on_its_way_signs_nothing(bench: Bench) -> None:
    """Attack: the thief of a second key sends an order in the moment in which that is taken back.

    Both signatures were verified before it, and the order is carried out after it: by one operator, and nobody.
    """
    bobs, database = SigningKey.generate(), bench.custodian.database
    await bench.add_party(PartyRole.OPERATOR, "bob", bobs)
    order = seal(COMMAND, bench.order(enrolment("mallory")), bench.key, bobs)

    class Between:
        """Has bob revoked after the first job of the order."""

        async def run(self, job: Callable[[Transaction], T]) -> T:
            """Run a job."""
            bench.custodian.database = database
            found = await database.run(job)
            await bench.command(acts.RevokeParty(role=PartyRole.OPERATOR, name="bob"))
            return found

    bench.custodian.database = cast("Database", Between())
    with pytest.raises(SignatureInvalidError) as caught:
        await commands.execute(bench.custodian, bench.alice, order)
    assert caught.value.reason == "wrong_key"
    assert not [line for line in await bench.log() if isinstance(line, entry.PartyAdded) and line.name == "mallory"]


async def test_an_operator_whose_credential_has_ended_signs_nothing(bench: Bench) -> None:
    """Neither beside another one nor alone, by the ledger's time, which a clock that is put back does not turn back."""
    bobs = SigningKey.generate()
    await bench.command(
        acts.AddParty(role=PartyRole.OPERATOR, name="bob", key=bobs.public.raw, borrower=None, valid_for_ms=60_000)
    )
    bob = bench.identity(IdentityKind.OPERATOR, "bob", bobs)
    bench.now_ms += 59_999
    await commands.execute(
        bench.custodian, bench.alice, seal(COMMAND, bench.order(enrolment("carol")), bench.key, bobs)
    )
    for later_ms in (1, -30_000):
        bench.now_ms += later_ms
        await bench.custodian.database.run(bench.custodian.now)
        for identity, operator, keys in (
            (bench.alice, "alice", (bench.key, bobs)),
            (bob, "bob", (bench.key, bobs)),
            (bob, "bob", (bobs,)),
        ):
            order = bench.order(enrolment("dave"), operator=operator)
            with pytest.raises(SignatureInvalidError) as caught:
                await commands.execute(bench.custodian, identity, seal(COMMAND, order, *keys))
            assert caught.value.reason == "wrong_key"


async def test_an_issued_certificate_names_the_party_and_its_time(bench: Bench) -> None:
    """The certificate is for the key that was enrolled, from a little before now to the end that was asked for."""
    key = SigningKey.generate()
    added = await bench.add_party(PartyRole.BORROWER, BORROWER, key)
    (certificate,) = from_pem((added.certificate or "").encode())
    identity = parse_identity(certificate, bench.now_ms)
    assert (identity.kind, identity.name, identity.public_key) == (IdentityKind.BORROWER, BORROWER, key.public)
    assert identity.not_after_ms == (bench.now_ms + YEAR_MS) // 1000 * 1000
    assert bench.now_ms - 3_600_000 <= identity.not_before_ms < bench.now_ms


async def test_names_and_keys_are_given_out_once(lent: Bench) -> None:
    """Neither the name nor the key of a party, revoked or not, can be enrolled again."""
    key = lent.enrolment[BORROWER]
    for name, again in ((BORROWER, SigningKey.generate()), ("third", key)):
        act = acts.AddParty(
            role=PartyRole.BORROWER, name=name, key=again.public.raw, borrower=None, valid_for_ms=YEAR_MS
        )
        await refused(lent, act, ConflictError, "party_exists")
    await lent.command(acts.RevokeParty(role=PartyRole.BORROWER, name=BORROWER))
    act = acts.AddParty(
        role=PartyRole.BORROWER,
        name=BORROWER,
        key=SigningKey.generate().public.raw,
        borrower=None,
        valid_for_ms=YEAR_MS,
    )
    await refused(lent, act, ConflictError, "party_exists")


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"name": "Bad Name"}, InvalidValueError, "bad_name"),
        ({"borrower": None}, InvalidValueError, "bad_party"),
        ({"role": PartyRole.BORROWER}, InvalidValueError, "bad_party"),
        ({"borrower": "nobody"}, ForbiddenError, "not_enrolled"),
        ({"valid_for_ms": 0}, InvalidValueError, "bad_validity"),
        ({"valid_for_ms": 10 * YEAR_MS + 1}, InvalidValueError, "bad_validity"),
        ({"key": bytes(32)}, SignatureInvalidError, "bad_key"),
    ],
)
async def test_a_party_that_makes_no_sense_is_refused(
    changes: dict[str, Any], error: type[AIGovToolError], reason: str, lent: Bench
) -> None:
    """A consumer belongs to a borrower that exists; a key must be a key; ten years are the longest."""
    act = acts.AddParty(
        role=PartyRole.CONSUMER,
        name="third",
        key=SigningKey.generate().public.raw,
        borrower=BORROWER,
        valid_for_ms=YEAR_MS,
    )
    await refused(lent, msgspec.structs.replace(act, **changes), error, reason)


async def test_revoking_a_consumer_stops_it_at_once(admitted: Enclave, lent: Bench) -> None:
    """Its instances learn of it with the next stop state, and no lease is granted for it any more."""
    await lent.grant(100)
    await lent.command(acts.RevokeParty(role=PartyRole.CONSUMER, name=CONSUMER))
    (denied,) = (await admitted.renew(want())).results
    assert isinstance(denied, Deny)
    assert denied.code is DenyCode.STOPPED
    await refused(
        lent,
        acts.Resume(target=StopTarget.CONSUMER, value=CONSUMER, reason="r"),
        ForbiddenError,
        "not_enrolled",
    )


# --- Models --------------------------------------------------------------------------------------------------


async def test_a_model_is_sealed_by_who_adds_it_and_opens_here(bench: Bench) -> None:
    """Another sealer, digest, name, or a key for another manifest: nothing is lent."""
    await bench.add_borrower(BORROWER)
    act = bench.upload()
    elsewhere = wrap(Secret(bench.model_key), bench.operator.keystore, b"another context")
    for changes, error, reason in (
        ({"package": Digest("sha256:" + "0" * 64)}, NotFoundError, "no_package"),
        ({"manifest": digest_of(b"x")}, InvalidValueError, "wrong_manifest"),
        ({"model": ModelId("other")}, InvalidValueError, "wrong_manifest"),
        ({"wrapped_key": elsewhere}, SignatureInvalidError, "wrong_context"),
        ({"borrowers": ["nobody"]}, ForbiddenError, "not_enrolled"),
    ):
        await refused(bench, msgspec.structs.replace(act, **changes), error, reason)
    await bench.command(act)
    await refused(bench, act, ConflictError, "model_exists")


async def test_another_operators_package_cannot_be_added(bench: Bench) -> None:
    """Bob cannot lend, under his name, what alice sealed."""
    await bench.add_borrower(BORROWER)
    bobs = SigningKey.generate()
    await bench.add_party(PartyRole.OPERATOR, "bob", bobs)
    act = bench.upload()
    with pytest.raises(AIGovToolError) as caught:
        await commands.execute(
            bench.custodian,
            bench.identity(IdentityKind.OPERATOR, "bob", bobs),
            seal(COMMAND, bench.order(act, operator="bob"), bobs),
        )
    assert caught.value.status in {403, 422}
    assert (await views.show_models(bench.custodian)).models == []


async def test_a_package_that_was_cut_on_disk_cannot_be_added(bench: Bench) -> None:
    """The header fixes the length; a damaged file is noticed before it is lent."""
    await bench.add_borrower(BORROWER)
    act = bench.upload()
    path = path_of(bench.custodian, bench.package)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AIGovToolError) as caught:
        await bench.command(act)
    assert caught.value.code == "package_invalid"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "link"])
async def test_what_is_no_file_among_the_packages_blocks_nobody(make: Callable[[Path], None], bench: Bench) -> None:
    """Several custodians may share the directory: a pipe there must not hold the ledger's only writer."""
    await bench.add_borrower(BORROWER)
    act = bench.upload()
    path = path_of(bench.custodian, bench.package)
    path.unlink()
    make(path)
    with pytest.raises(StorageError) as caught:
        await bench.command(act)
    assert caught.value.reason == "package_unreadable"


# --- Policy, budgets, stops ----------------------------------------------------------------------------------


@pytest.mark.attack(11)
async def test_an_appraisal_policy_is_not_rolled_back(bench: Bench) -> None:
    """Only a higher version replaces it; the same version with another content is a fork."""
    policy = wiring.development_policy()
    await bench.command(acts.SetAppraisalPolicy(policy=msgspec.structs.replace(policy, version=5)))
    last_word = acts.SetAppraisalPolicy(policy=msgspec.structs.replace(policy, version=2**53 - 1))
    with pytest.raises(InvalidValueError) as caught:
        await bench.command(last_word)
    assert caught.value.reason == "version_too_large"
    older = acts.SetAppraisalPolicy(policy=msgspec.structs.replace(policy, version=4))
    await refused(bench, older, AppraisalError, "policy_rollback")
    other = acts.SetAppraisalPolicy(policy=msgspec.structs.replace(policy, version=5, memory_encryption_required=False))
    await refused(bench, other, AppraisalError, "policy_fork")
    assert (await views.show_policy(bench.custodian)).version == 5


async def test_the_same_appraisal_policy_can_be_set_once_more(bench: Bench) -> None:
    """By one operator who is alone; and the log of that verifies."""
    policy = msgspec.structs.replace(wiring.development_policy(), version=5)
    for _ in range(2):
        await bench.command(acts.SetAppraisalPolicy(policy=policy))
    await verified(bench)


def limit(units: int | None, **scope: Any) -> BudgetLimit:
    return BudgetLimit(
        scope=Scope(model=MODEL, **scope), dimension=Dimension.INFERENCES, window=Window.LIFETIME, limit=units
    )


async def test_budgets_stand_at_scopes_that_exist(lent: Bench) -> None:
    """A budget for a misspelt model or party, or for another borrower's consumer, would govern nothing."""
    scope = Scope(model=ModelId("misspelt"))
    wrong = msgspec.structs.replace(limit(1), scope=scope)
    await refused(lent, acts.SetBudget(limit=wrong), NotFoundError, "no_such_model")
    await refused(lent, acts.SetBudget(limit=limit(1, borrower="nobody")), ForbiddenError, "not_enrolled")
    foreign = limit(1, borrower=BORROWER, consumer=STRANGER)
    await refused(lent, acts.SetBudget(limit=foreign), InvalidValueError, "bad_scope")
    await lent.command(acts.SetBudget(limit=limit(1, borrower=OTHER, consumer=STRANGER)))


async def test_grants_add_up_and_end_somewhere(lent: Bench) -> None:
    """Units are exact integers up to 2**53 - 1; what is unlimited cannot be raised."""
    await lent.grant(3)
    await lent.grant(4)
    assert [row.limit for row in (await views.show_budgets(lent.custodian)).budgets] == [7]
    await lent.command(acts.SetBudget(limit=limit(MAX_INTEGER)))
    grant = acts.GrantBudget(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=1)
    await refused(lent, grant, InvalidValueError, "budget_too_large")
    await lent.command(acts.SetBudget(limit=limit(None)))
    await refused(lent, grant, ConflictError, "unlimited")


async def test_a_grant_to_a_budget_that_has_ended_is_refused(lent: Bench) -> None:
    """It would look like success, and nobody could use a unit of it; an end that is set lies ahead."""
    end_ms = lent.now_ms + 10
    await lent.command(acts.SetBudget(limit=msgspec.structs.replace(limit(5), not_after_ms=end_ms)))
    grant = acts.GrantBudget(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.LIFETIME, units=1)
    lent.now_ms = end_ms - 1
    await lent.command(grant)
    lent.now_ms = end_ms
    await refused(lent, grant, ConflictError, "budget_ended")
    past = acts.SetBudget(limit=msgspec.structs.replace(limit(5), not_after_ms=end_ms))
    await refused(lent, past, InvalidValueError, "bad_end")
    (row,) = (await views.show_budgets(lent.custodian)).budgets
    assert (row.limit, row.not_after_ms) == (6, end_ms)


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (StopTarget.ALL, "everything"),
        (StopTarget.MODEL, "misspelt"),
        (StopTarget.BORROWER, CONSUMER),
        (StopTarget.CONSUMER, BORROWER),
        (StopTarget.ENCLAVE, "0" * 64),
    ],
)
async def test_a_stop_that_would_stop_nothing_is_refused(target: StopTarget, value: str, lent: Bench) -> None:
    """A misspelt name in an emergency must not look like success."""
    await refused(lent, acts.Stop(target=target, value=value, reason="r"), NotFoundError, "no_such_target")


@pytest.mark.parametrize(
    "act",
    [
        acts.Stop(target=StopTarget.ALL, value="", reason="x" * 501),
        acts.Stop(target=StopTarget.MODEL, value="x" * 65, reason=""),
        acts.Resume(target=StopTarget.ALL, value="", reason="x" * 501, epoch=1),
        acts.DecideAsk(ask_id=message_id(), approve=False, units=None, reason="x" * 501),
    ],
)
async def test_no_order_is_longer_than_anybody_reads(act: Any, bench: Bench) -> None:
    """Of reasons 500 characters are taken, and nothing is kept of one that is longer; none at all is enough."""
    before = len(await bench.log())
    with pytest.raises(InvalidValueError) as caught:
        await bench.command(act)
    assert (caught.value.reason, len(caught.value.message) < 100) == ("schema", True)
    assert len(await bench.log()) == before
    for reason in ("", "x" * 500):
        await bench.command(acts.Stop(target=StopTarget.ALL, value="", reason=reason))


async def test_every_stop_and_resume_has_an_epoch_of_its_own(admitted: Enclave, lent: Bench) -> None:
    """Epochs only grow, so that a later state always wins over an earlier one."""
    targets = [
        (StopTarget.ALL, ""),
        (StopTarget.MODEL, str(MODEL)),
        (StopTarget.BORROWER, str(BORROWER)),
        (StopTarget.CONSUMER, str(CONSUMER)),
        (StopTarget.ENCLAVE, str(admitted.instance)),
    ]
    epochs = [
        (await lent.command(act(target=target, value=value, reason="r"))).epoch
        for target, value in targets
        for act in (acts.Stop, acts.Resume)
    ]
    assert epochs == list(range(1, 11))
    assert (await views.show_stops(lent.custodian)).stops == []


async def test_a_withdrawn_model_cannot_be_resumed(lent: Bench) -> None:
    """Withdrawal is for good: no resume brings it back."""
    await lent.command(acts.WithdrawModel(model=MODEL))
    resume = acts.Resume(target=StopTarget.MODEL, value=MODEL, reason="r")
    await refused(lent, resume, NotFoundError, "no_such_model")
    assert [model.withdrawn for model in (await views.show_models(lent.custodian)).models] == [True]


async def test_an_enclave_that_listens_hears_of_a_stop_at_once(admitted: Enclave, lent: Bench) -> None:
    """The push carries the signed stop state of this instance, made after the command was durable."""
    with lent.custodian.hub.listen(await admitted.record()) as stream:
        await lent.command(STOP)
        line = stream.get_nowait()
    assert line is not None
    assert line.stop_state is not None
    assert admitted.stop_state(line.stop_state).is_wide()


class Losing:
    """The ledger of a custodian that loses the answer to its second COMMIT, which the server has carried out."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.left = 2

    async def run(self, job: Callable[[Transaction], T]) -> T:
        result = await self.database.run(job)
        self.left -= 1
        if not self.left:
            raise StorageError("the connection was lost in COMMIT")
        return result


@pytest.mark.parametrize(
    "act",
    [STOP, acts.GrantBudget(scope=Scope(model=MODEL), dimension=Dimension.INFERENCES, window=Window.DAY, units=5)],
)
async def test_what_a_lost_commit_did_is_announced_when_the_command_comes_again(
    act: acts.Act, admitted: Enclave, lent: Bench
) -> None:
    """The other custodians were told by the transaction itself; the enclaves that listen here must not wait longer."""
    order, database = seal(COMMAND, lent.order(act), lent.key), lent.custodian.database
    with lent.custodian.hub.listen(await admitted.record()) as stream:
        lent.custodian.database = cast("Database", Losing(database))
        with pytest.raises(StorageError):
            await commands.execute(lent.custodian, lent.alice, order)
        lent.custodian.database = database
        assert stream.empty()
        await commands.execute(lent.custodian, lent.alice, order)
        line = stream.get_nowait()
    assert line is not None
    assert line.granted
    if act is STOP:
        assert line.stop_state is not None
        assert admitted.stop_state(line.stop_state).is_wide()


async def test_a_repeated_command_that_concerns_no_enclave_wakes_none(admitted: Enclave, lent: Bench) -> None:
    """Repeating is for a client that is not sure, and must not be a way to wake everybody."""
    order = seal(COMMAND, lent.order(enrolment("bob")), lent.key)
    with lent.custodian.hub.listen(await admitted.record()) as stream:
        for _ in range(2):
            await commands.execute(lent.custodian, lent.alice, order)
        assert stream.empty()


async def test_commands_wake_those_that_they_concern(admitted: Enclave, lent: Bench) -> None:
    """A raised budget wakes who serves the model; a stop elsewhere, or a new party, wakes nobody."""
    with lent.custodian.hub.listen(await admitted.record()) as stream:
        await lent.command(acts.Stop(target=StopTarget.BORROWER, value=OTHER, reason="r"))
        await lent.add_consumer(ConsumerId("third"), BORROWER)
        assert stream.empty()
        await lent.grant(5)
        line = stream.get_nowait()
    assert line is not None
    assert (line.granted, line.stop_state) == (True, None)


async def test_a_consumers_stop_concerns_the_enclaves_of_its_borrower_only(admitted: Enclave, lent: Bench) -> None:
    """Nobody else may serve it, so nobody else's scope epoch moves."""
    stop = acts.Stop(target=StopTarget.CONSUMER, value=STRANGER, reason="r")
    await lent.command(stop)
    state = admitted.stop_state(await renewal.stop_state_of(lent.custodian, admitted.instance))
    assert (state.stops, state.scope_epoch) == ([], 0)
    await lent.command(msgspec.structs.replace(stop, value=CONSUMER))
    state = admitted.stop_state(await renewal.stop_state_of(lent.custodian, admitted.instance))
    assert [one.value for one in state.stops] == [CONSUMER]
    assert state.scope_epoch == state.epoch


async def test_a_consumers_stop_is_listed_until_its_credential_ends(admitted: Enclave, lent: Bench) -> None:
    """After that nobody can present the credential; the scope epoch stays, so that no older state comes back."""
    await lent.command(acts.RevokeParty(role=PartyRole.CONSUMER, name=CONSUMER))
    before = admitted.stop_state(await renewal.stop_state_of(lent.custodian, admitted.instance))
    lent.now_ms += YEAR_MS + 1
    await lent.custodian.database.run(lent.custodian.now)
    after = admitted.stop_state(await renewal.stop_state_of(lent.custodian, admitted.instance))
    assert [one.value for one in before.stops] == [CONSUMER]
    assert after.stops == []
    assert after.scope_epoch == before.scope_epoch > 0


async def test_an_unknown_consumer_is_not_stopped_by_name_alone(lent: Bench) -> None:
    """A consumer that was never enrolled is no target."""
    act = acts.Stop(target=StopTarget.CONSUMER, value=ConsumerId("ghost"), reason="r")
    await refused(lent, act, NotFoundError, "no_such_target")


async def test_the_last_operator_cannot_be_revoked(bench: Bench) -> None:
    """Nobody could stop anything any more; one who is revoked or whose credential has ended does not count."""
    revoke = acts.RevokeParty(role=PartyRole.OPERATOR, name="alice")
    await refused(bench, revoke, ConflictError, "last_operator")
    for name in ("bob", "dave"):
        await bench.add_party(PartyRole.OPERATOR, name, SigningKey.generate())
    await bench.command_of_two(enrolment("carol", valid_for_ms=1000))
    for name in ("bob", "dave"):
        await bench.command(acts.RevokeParty(role=PartyRole.OPERATOR, name=name))
    bench.now_ms += 2000
    await refused(bench, revoke, ConflictError, "last_operator")


async def test_an_operator_can_be_revoked_while_another_can_act(bench: Bench) -> None:
    """By itself, too."""
    await bench.add_party(PartyRole.OPERATOR, "bob", SigningKey.generate())
    await bench.command(acts.RevokeParty(role=PartyRole.OPERATOR, name="alice"))


def enrolment(name: str, *, valid_for_ms: int = YEAR_MS) -> acts.AddParty:
    key = SigningKey.generate().public.raw
    return acts.AddParty(role=PartyRole.OPERATOR, name=name, key=key, borrower=None, valid_for_ms=valid_for_ms)


async def test_one_operator_cannot_make_its_own_second(bench: Bench) -> None:
    """Once there was a second one every further one takes two, also after the second was revoked by the first."""
    await bench.add_party(PartyRole.OPERATOR, "bob", SigningKey.generate())
    await refused(bench, enrolment("carol"), ConflictError, "needs_second")
    await bench.command_of_two(enrolment("carol"))
    await bench.command(acts.RevokeParty(role=PartyRole.OPERATOR, name="bob"))
    await bench.command(acts.RevokeParty(role=PartyRole.OPERATOR, name="carol"))
    await refused(bench, enrolment("mallory"), ConflictError, "needs_second")
    with pytest.raises(SignatureInvalidError) as caught:
        await bench.command_of_two(enrolment("mallory"))
    assert caught.value.reason == "wrong_key"


async def test_an_enrolled_partys_certificate_is_issued_again(bench: Bench) -> None:
    """For the same key and until the same end; not for who is revoked, unknown, or whose time is over."""
    key = SigningKey.generate()
    first = await bench.add_party(PartyRole.OPERATOR, "bob", key)
    bench.now_ms += 5_000
    again = await credentials.show_certificate(bench.custodian, PartyRole.OPERATOR, "bob")
    assert again.key == key.public.raw
    old, new = (describe(from_pem((text or "").encode())[0]) for text in (first.certificate, again.certificate))
    assert (new.subject, new.not_after_ms) == (old.subject, old.not_after_ms)
    with pytest.raises(ForbiddenError):
        await credentials.show_certificate(bench.custodian, PartyRole.BORROWER, "bob")
    await bench.command(acts.RevokeParty(role=PartyRole.OPERATOR, name="bob"))
    with pytest.raises(ForbiddenError):
        await credentials.show_certificate(bench.custodian, PartyRole.OPERATOR, "bob")
    bench.now_ms += 2 * YEAR_MS
    with pytest.raises(InvalidValueError):
        await credentials.show_certificate(bench.custodian, PartyRole.OPERATOR, "alice")
