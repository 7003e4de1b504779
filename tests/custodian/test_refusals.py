"""The trace that refusals leave in the audit log: the first at once, repetitions counted, strangers none."""

import dataclasses
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import msgspec
import pytest
from sqlalchemy import insert
from tests.custodian.conftest import (
    BORROWER,
    CONSUMER,
    MODEL,
    OTHER,
    STRANGER,
    Bench,
    Enclave,
    message_id,
    want,
)

from aigovtool.crypto.sign import seal
from aigovtool.crypto.wrap import WrapKey
from aigovtool.custodian.refusals import INTERVAL_MS, Refusals
from aigovtool.custodian.service import boot, commands, refusals, renewal
from aigovtool.custodian.service.acting import Acting
from aigovtool.custodian.store.schema import head
from aigovtool.errors import (
    AIGovToolError,
    ConflictError,
    ForbiddenError,
    SignatureInvalidError,
    StorageError,
)
from aigovtool.ids import ConsumerId
from aigovtool.ledger import entry
from aigovtool.ledger.entry import (
    AttestationRefused,
    CommandRefused,
    PartyRole,
    Refusable,
    Refusal,
    Refused,
    ReleaseRefused,
    StopTarget,
)
from aigovtool.protocol import commands as acts
from aigovtool.protocol import messages
from aigovtool.protocol.commands import COMMAND, COMMAND_MAX_AGE_MS, CommandResult

STOP = acts.Stop(target=StopTarget.ALL, value="", reason="drill")
RESUME = acts.Resume(target=StopTarget.ALL, value="", reason="drill over")
SOME = Refused(role=Refusable.CONSUMER, name="ann", act="POST /v1/asks", code="forbidden", reason="not_own_scope")
OTHERS = msgspec.structs.replace(SOME, name="ben")


def times(refusal: Refusal, number: int) -> Refusal:
    return msgspec.structs.replace(refusal, times=number)


@asynccontextmanager
async def traced(bench: Bench, *lines: entry.EntryBody) -> AsyncIterator[None]:
    """Expect that exactly these lines are written within."""
    before = len(await bench.log())
    yield
    assert (await bench.log())[before:] == list(lines)


async def refused(attempt: Awaitable[object], error: type[AIGovToolError], reason: str | None) -> None:
    with pytest.raises(error) as caught:
        await attempt
    assert caught.value.reason == reason


# --- How often ---------------------------------------------------------------------------------------------------


def test_the_first_refusal_is_written_at_once_and_the_same_again_once_an_hour() -> None:
    """Each line says how many there were since the line before, so that nothing is left out."""
    kept = Refusals()
    assert kept.count(SOME, 0) == [SOME]
    assert [kept.count(SOME, INTERVAL_MS - 1) for _ in range(5)] == [[]] * 5
    assert kept.count(OTHERS, 1) == [OTHERS]
    assert kept.count(SOME, INTERVAL_MS) == [times(SOME, 6)]
    assert kept.count(SOME, INTERVAL_MS + 1) == []


def test_repetitions_that_end_are_written_when_the_hour_is_over() -> None:
    """Without a further refusal, too; then it is forgotten, and the next one is a first one."""
    kept = Refusals()
    for _ in range(4):
        kept.count(SOME, 0)
    kept.count(OTHERS, 5)
    assert kept.due(INTERVAL_MS - 1) == []
    assert kept.due(INTERVAL_MS + 10) == [times(SOME, 3)]
    assert kept.due(9 * INTERVAL_MS) == []
    assert kept.count(OTHERS, INTERVAL_MS + 11) == [OTHERS]


def test_a_clock_that_is_put_back_silences_nothing() -> None:
    """Else whoever can move the host's clock could hide what follows."""
    kept = Refusals()
    kept.count(SOME, 100 * INTERVAL_MS)
    assert kept.count(SOME, INTERVAL_MS) == [SOME]


def test_what_is_remembered_is_bounded_and_no_count_is_lost_by_it() -> None:
    """However many names are refused: what is forgotten is written first."""
    kept = Refusals()
    kept.count(SOME, 0)
    kept.count(SOME, 0)
    written = [
        line for number in range(5_000) for line in kept.count(msgspec.structs.replace(OTHERS, name=f"n{number}"), 1)
    ]
    assert written.count(SOME) == 1
    assert len(written) == 5_001
    assert kept.count(SOME, 2) == [SOME]


def test_what_could_not_be_written_counts_at_the_next_refusal() -> None:
    """A ledger that was away for a moment loses no line."""
    kept = Refusals()
    kept.not_written(kept.count(SOME, INTERVAL_MS * 3))
    assert kept.count(SOME, INTERVAL_MS * 3 + 1) == [times(SOME, 2)]
    kept.not_written([times(OTHERS, 7)])
    assert kept.everything() == [times(OTHERS, 7)]
    assert kept.everything() == []


async def test_the_counts_are_written_when_they_are_due_and_at_the_end(lent: Bench) -> None:
    """By the custodian's own round, and when it is told to end."""
    for _ in range(3):
        await refusals.note(lent.custodian, SOME)
    lent.now_ms += INTERVAL_MS
    async with traced(lent):  # ann was never enrolled here: a stranger by any name leaves no line
        await refusals.write_due(lent.custodian)
    known = msgspec.structs.replace(SOME, name=CONSUMER)
    async with traced(lent, known, times(known, 2)):
        for _ in range(3):
            await refusals.note(lent.custodian, known)
        await refusals.write_all(lent.custodian)


async def test_a_refusal_that_cannot_be_written_is_still_that_refusal(
    lent: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is refused hears why, not that our disk is full; and the line follows."""
    enclave, run = Enclave(lent, borrower=BORROWER), lent.custodian.database.run
    await lent.command(acts.RevokeParty(role=PartyRole.BORROWER, name=BORROWER))
    line = AttestationRefused(borrower=BORROWER, code="forbidden", reason="not_enrolled")

    async def broken(job: object) -> object:
        if getattr(job, "__module__", "") == refusals.__name__:
            raise StorageError("the disk is full")
        return await run(job)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(lent.custodian.database, "run", broken)
        async with traced(lent):
            await refused(enclave.challenge(), ForbiddenError, "not_enrolled")
    async with traced(lent, times(line, 2)):
        await refused(enclave.challenge(), ForbiddenError, "not_enrolled")


# --- Operators ---------------------------------------------------------------------------------------------------


async def test_every_refused_command_of_an_operator_is_in_the_log(lent: Bench) -> None:
    """Stale, or a used identifier with another content: named by its digest."""
    order = lent.order(STOP)
    await commands.execute(lent.custodian, lent.alice, seal(COMMAND, order, lent.key))
    changed = msgspec.structs.replace(order, act=msgspec.structs.replace(STOP, reason="another"))
    stale = lent.order(RESUME, issued_at_ms=lent.now_ms - COMMAND_MAX_AGE_MS - 1)
    for made, error, reason in (
        (changed, ConflictError, "command_changed"),
        (stale, SignatureInvalidError, "stale_command"),
    ):
        before = len(await lent.log())
        await refused(commands.execute(lent.custodian, lent.alice, seal(COMMAND, made, lent.key)), error, reason)
        (line,) = (await lent.log())[before:]
        assert isinstance(line, CommandRefused)
        assert (line.reason, line.command.command_id, line.times) == (reason, made.command_id, 1)


async def test_a_command_that_the_schema_does_not_take_is_in_the_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last wall: that it held is a refusal, not a fault of the disk."""

    def second_head(acting: Acting, _act: acts.Stop) -> CommandResult:
        acting.transaction.execute(insert(head).values(id=2, schema=1, body=b""))
        raise AssertionError

    monkeypatch.setitem(commands._ACTS, acts.Stop, second_head)
    before = len(await bench.log())
    await refused(bench.command(STOP), StorageError, "constraint")
    (line,) = (await bench.log())[before:]
    assert isinstance(line, CommandRefused)
    assert (line.code, line.reason) == ("storage_failed", "constraint")


# --- Borrowers and enclaves --------------------------------------------------------------------------------------


async def test_a_revoked_borrowers_key_leaves_one_line_and_who_only_names_it_none(lent: Bench) -> None:
    """Anybody can write the identifier of a key into an envelope."""
    enclave = Enclave(lent)
    booting = enclave.sealed(enclave.request(enclave.claims(await enclave.challenge())))
    await lent.command(acts.RevokeParty(role=PartyRole.BORROWER, name=BORROWER))
    signed = enclave.challenge_request()
    forged = msgspec.structs.replace(signed, signatures=[msgspec.structs.replace(signed.signatures[0], sig=bytes(64))])
    async with traced(lent):
        await refused(boot.challenge(lent.custodian, forged), ForbiddenError, "not_enrolled")
    async with traced(lent, AttestationRefused(borrower=BORROWER, code="forbidden", reason="not_enrolled")):
        for _ in range(3):
            await refused(boot.challenge(lent.custodian, signed), ForbiddenError, "not_enrolled")
            await refused(enclave.admit(booting), ForbiddenError, "not_enrolled")


async def test_a_challenge_in_another_borrowers_name_is_in_the_log_of_who_signed(lent: Bench) -> None:
    """Not of whom it named."""
    enclave = Enclave(lent)
    asked = enclave.challenge_request(by=lent.enrolment[OTHER])
    async with traced(lent, AttestationRefused(borrower=OTHER, code="bad_signature", reason="wrong_sender")):
        await refused(boot.challenge(lent.custodian, asked), SignatureInvalidError, "wrong_sender")


async def test_a_key_that_cannot_be_unwrapped_is_a_refused_release(
    admitted: Enclave, lent: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deposit under another key, or damaged: no key leaves, and the log says so."""
    keys = dataclasses.replace(lent.custodian.keys, keystore=WrapKey.generate())
    monkeypatch.setattr(lent.custodian, "keys", keys)
    before = len(await lent.log())
    with pytest.raises(AIGovToolError) as caught:
        await admitted.release()
    (line,) = (await lent.log())[before:]
    assert line == ReleaseRefused(
        instance=admitted.instance, model=MODEL, code=caught.value.code, reason=caught.value.reason or ""
    )


async def test_an_enclave_that_contradicts_itself_is_in_the_log(admitted: Enclave, lent: Bench) -> None:
    """A request identifier with two contents, a checkpoint of no log of ours: nobody sound sends that."""
    await lent.grant(9)
    request_id = message_id()
    await renewal.renew(lent.custodian, admitted.renewal(want(), request_id=request_id))
    changed = Refused(
        role=Refusable.ENCLAVE, name=admitted.instance, act=messages.RENEW, code="conflict", reason="request_changed"
    )
    async with traced(lent, changed):
        for wants in (2, 3):
            again = admitted.renewal(*[want()] * wants, request_id=request_id)
            await refused(renewal.renew(lent.custodian, again), ConflictError, "request_changed")
    foreign = Enclave(lent)
    speaks_for_another = seal(
        messages.LISTEN,
        messages.Listen(instance=foreign.instance, nonce=message_id(), at_ms=lent.now_ms),
        admitted.identity,
    )
    line = msgspec.structs.replace(changed, act=messages.LISTEN, code="bad_signature", reason="wrong_sender")
    async with traced(lent, line):
        await refused(renewal.listener(lent.custodian, speaks_for_another), SignatureInvalidError, "wrong_sender")


async def test_an_older_renewal_that_comes_late_is_no_line(admitted: Enclave, lent: Bench) -> None:
    """Networks deliver twice and out of order: that says nothing about anybody."""
    early = admitted.renewal()
    await admitted.renew()
    await admitted.renew()
    async with traced(lent):
        with pytest.raises(ConflictError) as caught:
            for _ in range(20):
                await renewal.renew(lent.custodian, early)
                await admitted.renew()
        assert caught.value.reason == "request_superseded"


async def test_units_that_are_wanted_for_another_borrowers_consumer_are_in_the_log(
    admitted: Enclave, lent: Bench
) -> None:
    """A sound enclave serves its own borrower's consumers only. Of one that nobody enrolled it may not know."""
    await lent.grant(9)
    line = Refused(
        role=Refusable.ENCLAVE,
        name=admitted.instance,
        act=messages.RENEW,
        code="no_budget_row",
        reason="foreign_consumer",
    )
    async with traced(lent):
        await admitted.renew(want(consumer=ConsumerId("ghost")))
    async with traced(lent, line):
        for _ in range(3):
            await admitted.renew(want(consumer=STRANGER))
