"""The terms of a model can change while it is lent: to whom, and how much at once."""

from typing import Any

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper
from tests.custodian.conftest import BORROWER, CONSUMER, MODEL, OTHER, STRANGER, Bench, Enclave, want

from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.custodian.service import commands, views
from aigovtool.errors import ConflictError, ForbiddenError, InvalidValueError, NotFoundError
from aigovtool.ids import BorrowerId, ModelId
from aigovtool.ledger import entry
from aigovtool.ledger.entry import PartyRole
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import Dial, ServingPolicy, default_policy
from aigovtool.ledger.units import Dimension
from aigovtool.protocol import commands as acts
from aigovtool.protocol.commands import COMMAND
from aigovtool.protocol.messages import Deny, DenyCode, Grant


def terms(policy: ServingPolicy, *borrowers: BorrowerId) -> acts.SetModelTerms:
    return acts.SetModelTerms(model=MODEL, policy=policy, borrowers=list(borrowers))


async def test_a_model_can_be_lent_to_another_borrower_later(lent: Bench) -> None:
    """Without sealing it again; who had it keeps it."""
    await lent.grant(100)
    stranger = Enclave(lent, borrower=OTHER)
    with pytest.raises(ForbiddenError):
        await stranger.boot()
    await lent.command(terms(default_policy(Dial.BALANCED, version=2), BORROWER, OTHER))
    for enclave, consumer in ((stranger, STRANGER), (Enclave(lent), CONSUMER)):
        await enclave.boot()
        await enclave.release()
        (result,) = (await enclave.renew(want(1, consumer=consumer))).results
        assert isinstance(result, Grant)


async def test_who_is_no_longer_lent_a_model_draws_nothing_more(admitted: Enclave, lent: Bench) -> None:
    """No lease, no key and no new enclave; what is out keeps its terms."""
    await lent.grant(100)
    (result,) = (await admitted.renew(want(1))).results
    assert isinstance(result, Grant)
    await lent.command(terms(default_policy(Dial.BALANCED, version=2), OTHER))
    (denied,) = (await admitted.renew(want(1))).results
    assert isinstance(denied, Deny)
    assert denied.code is DenyCode.STOPPED
    with pytest.raises(ForbiddenError):
        await admitted.release()
    with pytest.raises(ForbiddenError):
        await Enclave(lent).boot()


async def test_a_stricter_dial_holds_from_the_next_lease(admitted: Enclave, lent: Bench) -> None:
    """Its size and its ttl are the custodian's to decide: no enclave need attest again."""
    await lent.grant(10_000)
    (before,) = (await admitted.renew(want(100))).results
    strict = default_policy(Dial.STRICT, ttl_ms=5_000, version=2)
    await lent.command(terms(strict, BORROWER))
    answer = await admitted.renew(want(100))
    (after,) = answer.results
    assert isinstance(before, Grant)
    assert isinstance(after, Grant)
    assert (before.units.inferences, before.ttl_ms) == (100, 30_000)
    assert (after.units.inferences, after.ttl_ms, after.policy) == (10, 5_000, strict.digest())
    assert answer.ttl_ms == 5_000
    (line,) = [one for one in await lent.log() if isinstance(one, entry.ModelTermsSet)]
    assert (line.model, line.policy, line.borrowers) == (MODEL, strict.digest(), [BORROWER])
    (shown,) = (await views.show_models(lent.custodian)).models
    assert (shown.policy, shown.borrowers) == (strict, [BORROWER])


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"policy": default_policy(Dial.STRICT)}, ConflictError, "terms_rollback"),
        ({"policy": default_policy(Dial.STRICT, version=1_002)}, InvalidValueError, "version_too_large"),
        (
            {
                "policy": msgspec.structs.replace(
                    default_policy(Dial.STRICT, version=2), dimension=Dimension.INPUT_TOKENS
                )
            },
            InvalidValueError,
            "dimension_fixed",
        ),
        ({"borrowers": [BorrowerId("nobody")]}, ForbiddenError, "not_enrolled"),
        ({"model": ModelId("nothing")}, NotFoundError, "no_such_model"),
    ],
)
async def test_terms_that_make_no_sense_are_refused(
    changes: dict[str, Any], error: type[Exception], reason: str, lent: Bench
) -> None:
    """Older terms, another unit of account, a borrower or a model that does not exist."""
    good = terms(default_policy(Dial.STRICT, version=2), BORROWER)
    with pytest.raises(error) as caught:
        await lent.command(msgspec.structs.replace(good, **changes))
    assert getattr(caught.value, "reason", None) == reason
    (shown,) = (await views.show_models(lent.custodian)).models
    assert shown.policy == lent.policy


async def test_a_model_that_takes_no_batches_is_not_computed_in_any(bench: Bench) -> None:
    """Neither when it is lent nor later: its graph says that a request has one row, so that two cannot be one run."""
    batch = InputTerms(batch=True)
    fixed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", fixed[:1], fixed[1:])
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    bench.graph = bytes(made.SerializeToString())
    await bench.add_borrower(BORROWER)
    act = bench.upload()
    with pytest.raises(InvalidValueError) as caught:
        await bench.command(msgspec.structs.replace(act, policy=msgspec.structs.replace(act.policy, inputs=batch)))
    assert caught.value.reason == "not_batchable"
    await bench.command(act)
    with pytest.raises(InvalidValueError) as caught:
        later = default_policy(Dial.BALANCED, version=2)
        await bench.command(terms(msgspec.structs.replace(later, inputs=batch), BORROWER))
    assert caught.value.reason == "not_batchable"


async def test_island_terms_need_two_operators(lent: Bench) -> None:
    """One alone could put hours between a stop and its effect, also by a long ttl under another dial's name."""
    key = SigningKey.generate()
    await lent.add_party(PartyRole.OPERATOR, "bob", key)
    long = msgspec.structs.replace(default_policy(Dial.STRICT, version=2), ttl_ms=3_600_000)
    for policy in (default_policy(Dial.ISLAND, version=2), long):
        with pytest.raises(ConflictError) as caught:
            await lent.command(terms(policy, BORROWER))
        assert caught.value.reason == "needs_second"
        with pytest.raises(ConflictError) as caught:
            await lent.command(msgspec.structs.replace(lent.upload(), policy=policy))
        assert caught.value.reason == "needs_second"
    (shown,) = (await views.show_models(lent.custodian)).models
    assert shown.policy == lent.policy
    island = default_policy(Dial.ISLAND, version=2)
    both = seal(COMMAND, lent.order(terms(island, BORROWER)), lent.key, key)
    await commands.execute(lent.custodian, lent.alice, both)
    (shown,) = (await views.show_models(lent.custodian)).models
    assert shown.policy == island
    # Back to a shorter leash, one is enough.
    await lent.command(terms(default_policy(Dial.STRICT, version=3), BORROWER))


async def test_what_two_signed_is_the_next_version_and_no_later_one(lent: Bench) -> None:
    """Kept back for a day it does not follow on other terms, or another policy, that its second signer never saw."""
    key = SigningKey.generate()
    await lent.add_party(PartyRole.OPERATOR, "bob", key)
    appraisal = await views.show_policy(lent.custodian)

    async def ordered(act: acts.Act) -> str:
        both = seal(COMMAND, lent.order(act), lent.key, key)
        try:
            await commands.execute(lent.custodian, lent.alice, both)
        except ConflictError as error:
            return error.reason or ""
        return ""

    island = terms(default_policy(Dial.ISLAND, version=3), BORROWER)
    policy = acts.SetAppraisalPolicy(policy=msgspec.structs.replace(appraisal, version=appraisal.version + 2))
    again = acts.SetAppraisalPolicy(policy=appraisal)
    for skipping in (island, policy, again):
        assert await ordered(skipping) == "not_next_version"
    (shown,) = (await views.show_models(lent.custodian)).models
    assert (shown.policy, await views.show_policy(lent.custodian)) == (lent.policy, appraisal)
    # One operator may still leave versions out, where one is enough; then what was kept back is the next.
    await lent.command(terms(default_policy(Dial.STRICT, version=4), BORROWER))
    assert await ordered(terms(default_policy(Dial.ISLAND, version=5), BORROWER)) == ""
    between = acts.SetAppraisalPolicy(policy=msgspec.structs.replace(appraisal, version=appraisal.version + 1))
    assert [await ordered(act) for act in (between, policy)] == ["", ""]
