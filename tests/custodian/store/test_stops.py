"""The list of stopped consumers that each renewal carries: it has a bound, and the fullest reply can be read."""

import msgspec
import pytest
from sqlalchemy import insert
from tests.custodian.conftest import BORROWER, CONSUMER, OTHER, STRANGER, Bench, Enclave

from aigovtool.codec import encode
from aigovtool.crypto.sign import SigningKey, seal
from aigovtool.custodian.service import renewal, views
from aigovtool.custodian.store.schema import stops
from aigovtool.custodian.store.stops import MAX_STOPPED_CONSUMERS
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError
from aigovtool.ids import BorrowerId, ConsumerId, Digest, InstanceId, KeyId, LeaseId, MessageId, ModelId
from aigovtool.ledger import entry
from aigovtool.ledger.answers import AnswerTerms, OutputRule
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.ledger.inputs import InputTerms
from aigovtool.ledger.policy import MAX_REQUEST_MS
from aigovtool.ledger.units import Dimension, UnitVector
from aigovtool.limits import (
    MAX_ANSWER_TERMS_BYTES,
    MAX_CONTROL_BODY_BYTES,
    MAX_INTEGER,
    MAX_PADDING_BYTES,
    MAX_REPORTS_PER_RENEWAL,
    MAX_WANTS_PER_RENEWAL,
)
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages
from aigovtool.protocol.messages import Ack, Answer, Grant, ModelTerms, PathRoom, RenewReply
from aigovtool.protocol.release import MAX_MODELS
from aigovtool.protocol.stop import STOP_STATE, ActiveStop, StopState

YEARS_MS = 10**11


def stopped(bench: Bench, number: int, borrower: BorrowerId = BORROWER, **changes: object) -> dict[str, object]:
    row = {
        "target": StopTarget.CONSUMER.value,
        "value": f"{borrower}{number}",
        "borrower": borrower,
        "until_ms": bench.now_ms + YEARS_MS,
        "epoch": 0,
        "active": True,
    }
    return {**row, **changes}


async def stop_many(bench: Bench, rows: list[dict[str, object]]) -> None:
    def write(transaction: Transaction) -> None:
        transaction.connection.execute(insert(stops), rows)

    await bench.custodian.database.run(write)


@pytest.mark.parametrize(
    "act",
    [
        acts.Stop(target=StopTarget.CONSUMER, value=CONSUMER, reason="drill"),
        acts.RevokeParty(role=PartyRole.CONSUMER, name=CONSUMER),
    ],
    ids=["stop", "revoke"],
)
async def test_a_stop_that_nobody_could_read_is_refused(act: acts.Act, admitted: Enclave, lent: Bench) -> None:
    """It would end every enclave of the borrower by itself; who orders it is told how to stop them all instead."""
    await stop_many(lent, [stopped(lent, number) for number in range(MAX_STOPPED_CONSUMERS)])
    with pytest.raises(ConflictError) as caught:
        await lent.command(act)
    assert caught.value.reason == "too_many_stopped"
    assert "stop the borrower" in (caught.value.fix or "")
    last = (await lent.log())[-1]
    assert isinstance(last, entry.CommandRefused)
    assert last.reason == "too_many_stopped"
    state = admitted.stop_state(await renewal.stop_state_of(lent.custodian, admitted.instance))
    assert (len(state.stops), state.epoch) == (MAX_STOPPED_CONSUMERS, 0)
    # What is listed already is stopped again, another borrower's consumer too, and the borrower as a whole.
    await lent.command(acts.Stop(target=StopTarget.CONSUMER, value=STRANGER, reason="drill"))
    await lent.command(acts.Stop(target=StopTarget.BORROWER, value=BORROWER, reason="drill"))
    assert len((await views.show_stops(lent.custodian)).stops) == MAX_STOPPED_CONSUMERS + 2


async def test_only_what_is_listed_counts_against_the_bound(admitted: Enclave, lent: Bench) -> None:
    """Neither a lifted stop, nor one of a credential that has ended, nor another borrower's consumers."""
    rows = [stopped(lent, number) for number in range(MAX_STOPPED_CONSUMERS - 1)]
    rows += [stopped(lent, 10_000, active=False), stopped(lent, 10_001, until_ms=lent.now_ms - 1)]
    await stop_many(lent, [*rows, stopped(lent, 0, OTHER)])
    order = acts.Stop(target=StopTarget.CONSUMER, value=CONSUMER, reason="drill")
    for _ in range(2):
        await lent.command(order)
    state = admitted.stop_state(await renewal.stop_state_of(lent.custodian, admitted.instance))
    assert len(state.stops) == MAX_STOPPED_CONSUMERS


def fullest_terms() -> AnswerTerms:
    """Return terms of answers that say as much as they may."""
    hidden = [OutputRule(name=f"{number}" + "x" * 255, hide=True) for number in range(3)]
    terms = AnswerTerms(outputs=(*hidden, OutputRule(name="y", hide=True)), pad_bytes=MAX_PADDING_BYTES)
    last = OutputRule(name="y" * (1 + MAX_ANSWER_TERMS_BYTES - len(encode(terms))), hide=True)
    return msgspec.structs.replace(terms, outputs=(*hidden, last))


@pytest.mark.parametrize("models", [1, MAX_MODELS])
def test_the_fullest_reply_with_the_longest_list_can_be_read(models: int) -> None:
    """A thousand grants in bound mode, acknowledgements, rooms, terms, and every name as long as names may be."""
    name, digest, key = "x" * 63, Digest("sha256:" + "0" * 64), SigningKey.generate()
    model, consumer, units = ModelId(name), ConsumerId(name), UnitVector(inferences=10**12, compute_ms=10**12)
    number = MessageId("0" * 32)
    grant = Grant(
        lease_id=LeaseId(number),
        model=model,
        consumer=consumer,
        units=units,
        ttl_ms=86_400_000,
        policy=digest,
        request=digest,
    )
    rooms = [
        PathRoom(model=model, consumer=consumer, dimension=dimension, units=MAX_INTEGER)
        for dimension in (Dimension.INFERENCES, Dimension.COMPUTE_MS)
    ]
    told = ModelTerms(
        model=model,
        ttl_ms=86_400_000,
        wipe_after_ms=7 * 86_400_000,
        bound=True,
        request_max=UnitVector(output_tokens=10**9, compute_ms=MAX_REQUEST_MS),
        max_run_ms=MAX_REQUEST_MS,
        inputs=InputTerms(finite=True),
        answers=fullest_terms(),
    )
    terms = (told,) * models
    answer = Answer(
        custodian=KeyId("0" * 64),
        instance=InstanceId("0" * 64),
        request_id=number,
        generation=MAX_INTEGER,
        epoch=MAX_INTEGER,
        server_time_ms=MAX_INTEGER,
        checkpoint="x" * 1_000,
        ttl_ms=86_400_000,
        results=[grant] * MAX_WANTS_PER_RENEWAL,
        acks=[Ack(lease_id=LeaseId(number), seq=MAX_INTEGER)] * MAX_REPORTS_PER_RENEWAL,
        rooms=rooms * renewal._most_paths(terms),
        terms=terms,
    )
    stop = ActiveStop(target=StopTarget.CONSUMER, value=name, epoch=MAX_INTEGER)
    state = StopState(
        instance=answer.instance,
        epoch=MAX_INTEGER,
        scope_epoch=MAX_INTEGER,
        stops=[stop] * MAX_STOPPED_CONSUMERS,
    )
    reply = RenewReply(answer=seal(messages.ANSWER, answer, key), stop_state=seal(STOP_STATE, state, key))
    assert len(encode(fullest_terms())) == MAX_ANSWER_TERMS_BYTES
    assert len(encode(told)) <= 1_300
    assert len(encode(reply)) <= MAX_CONTROL_BODY_BYTES
