"""Renewal: one transaction per heartbeat (spec: leases section 4), answered only after COMMIT.

Order: signature -> the same answer for the same request -> overdue leases charged -> reports -> wants.
The current stop state is beside the answer each time, also beside a repeated one.
"""

import secrets
from types import MappingProxyType
from typing import Final

import msgspec
from sqlalchemy import Connection

from aigovtool.codec import decode_signed, encode
from aigovtool.crypto.sign import Envelope, VerifyKey, open_envelope, seal
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.service import asks
from aigovtool.custodian.store import budgets, facts, instances, leases, log, models, parties, stops
from aigovtool.custodian.store.records import Instance
from aigovtool.ids import InstanceId, LeaseId, digest_of
from aigovtool.ledger import book
from aigovtool.ledger.book import Book, Draw, Effects, Expire, Outcome, ReportUsage
from aigovtool.ledger.budget import BudgetRow, path
from aigovtool.ledger.entry import Forked, LeaseClosed, LeaseExpired, LeaseGranted, PartyRole, StopTarget, Wiped
from aigovtool.ledger.lease import Lease, LeaseState
from aigovtool.ledger.policy import GRACE_MS
from aigovtool.ledger.units import vector
from aigovtool.protocol import messages
from aigovtool.protocol.messages import Ack, Answer, Deny, DenyCode, Grant, Push, Renew, RenewReply, Report, Want
from aigovtool.protocol.stop import STOP_STATE

#: Overdue leases charged per renewal: a bounded share of work for whoever comes first.
_SWEEP: Final = 100
_DENIALS: Final = {
    Outcome.EXHAUSTED: DenyCode.EXHAUSTED,
    Outcome.RESERVED: DenyCode.RESERVED,
    Outcome.CAPPED: DenyCode.CAPPED,
    Outcome.INSUFFICIENT: DenyCode.INSUFFICIENT,
    Outcome.NO_BUDGET_ROW: DenyCode.NO_BUDGET_ROW,
}


async def renew(custodian: Custodian, envelope: Envelope) -> RenewReply:
    """Take reports and grant leases."""

    def job(connection: Connection) -> tuple[RenewReply, bool, bool]:
        request, instance = _opened(connection, envelope)
        stop_state = custodian.stop_state(connection, instance)
        digest = digest_of(envelope.payload)
        before = instances.answered(connection, instance.instance, request.request_id, digest)
        if before is not None:
            return RenewReply(answer=before.answer, stop_state=stop_state), False, False
        now_ms = custodian.now(connection)
        instances.touch(connection, instance.instance, now_ms)
        sweep(custodian, connection, now_ms)
        forked = _take_reports(custodian, connection, instance, request.reports)
        instance = instances.require(connection, instance.instance)
        results = [_grant(custodian, connection, instance, want) for want in request.wants]
        answer = _answer(custodian, connection, instance, request, results)
        reply = RenewReply(
            answer=seal(messages.ANSWER, answer, custodian.keys.commands),
            stop_state=custodian.stop_state(connection, instance),
        )
        instances.remember(connection, instance.instance, request.request_id, digest, reply)
        short = any(isinstance(result, Deny) and result.code is DenyCode.RESERVED for result in results)
        return reply, forked, short

    reply, forked, short = await custodian.database.run(job)
    if short:
        custodian.hub.recall()
    if forked:
        custodian.hub.push_all(Push(granted=True))
    return reply


def _opened(connection: Connection, envelope: Envelope) -> tuple[Renew, Instance]:
    instance = instances.require(connection, decode_signed(envelope.payload, Renew).instance)
    return open_envelope(envelope, messages.RENEW, Renew, [VerifyKey(instance.identity_key)]), instance


def _answer(
    custodian: Custodian, connection: Connection, instance: Instance, request: Renew, results: list[Grant | Deny]
) -> Answer:
    now_ms = custodian.now(connection)
    ttls = [found.policy.ttl_ms for m in instance.models if (found := models.find(connection, m)) is not None]
    left_ms = max(0, instance.valid_until_ms - now_ms)
    stopped = instance.state != "live" or stops.state_for(connection, instance).is_wide()
    return Answer(
        custodian=custodian.keys.custodian,
        instance=instance.instance,
        request_id=request.request_id,
        generation=facts.get_int(connection, facts.GENERATION),
        epoch=facts.get_int(connection, facts.EPOCH),
        server_time_ms=now_ms,
        head=log.head(connection).size,
        ttl_ms=0 if stopped else min([left_ms, *ttls]),
        results=results,
        acks=[Ack(lease_id=report.lease_id, seq=report.seq) for report in request.reports],
    )


def sweep(custodian: Custodian, connection: Connection, now_ms: int) -> None:
    """Charge overdue leases in full."""
    for lease in leases.overdue(connection, now_ms, _SWEEP):
        held = _book(budgets.rows_of(connection, lease.rows), lease)
        effects = book.apply(held, Expire(lease_id=lease.lease_id, now_ms=now_ms))
        if effects.outcome is Outcome.EXPIRED:
            _write(connection, lease, effects)
            custodian.record(connection, LeaseExpired(lease_id=lease.lease_id))


def _book(rows: list[BudgetRow], *held: Lease) -> Book:
    return Book(
        rows=MappingProxyType({row.key: row for row in rows}),
        leases=MappingProxyType({lease.lease_id: lease for lease in held}),
    )


def _write(connection: Connection, before: Lease, effects: Effects) -> None:
    budgets.write(connection, effects.rows)
    for after in effects.leases:
        dimension = before.rows[0].dimension
        charged = _charge(after) - _charge(before)
        leases.change(connection, before, after, dimension, charged=charged)


def _charge(lease: Lease) -> int:
    """What the ledger holds against a lease: all of it until it is closed, then what was used."""
    dimension = lease.rows[0].dimension
    counted = lease.units if lease.unclosed() or not lease.refundable else lease.seen
    return counted.get(dimension)


def _take_reports(custodian: Custodian, connection: Connection, instance: Instance, reports: list[Report]) -> bool:
    forked = False
    for report in reports:
        lease = leases.find(connection, report.lease_id)
        if lease is None:
            continue
        event = ReportUsage(
            instance=instance.instance,
            lease_id=report.lease_id,
            seq=report.seq,
            used=report.used,
            ok=report.ok,
            err=report.err,
            final=report.final,
            digest=digest_of(encode(report)),
        )
        effects = book.apply(_book(budgets.rows_of(connection, lease.rows), lease), event)
        _write(connection, lease, effects)
        if effects.outcome is Outcome.CLOSED:
            _record_close(custodian, connection, effects.leases[0], report)
        elif effects.outcome is Outcome.FORKED:
            forked = True
            _stop_fork(custodian, connection, instance, report.lease_id)
    return forked


def _record_close(custodian: Custodian, connection: Connection, lease: Lease, report: Report) -> None:
    dimension = lease.rows[0].dimension
    custodian.record(
        connection,
        LeaseClosed(
            lease_id=lease.lease_id,
            late=lease.state is LeaseState.CLOSED_LATE,
            used=lease.seen,
            charged=vector({dimension: _charge(lease)}),
            ok=lease.ok,
            err=lease.err,
            receipts=report.receipts,
        ),
    )


def _stop_fork(custodian: Custodian, connection: Connection, instance: Instance, lease_id: LeaseId) -> None:
    epoch = facts.next_epoch(connection)
    stops.put(connection, StopTarget.ENCLAVE, instance.instance, epoch, active=True)
    instances.replace(connection, msgspec.structs.replace(instance, state="forked"))
    custodian.record(connection, Forked(instance=instance.instance, lease_id=lease_id, epoch=epoch))


def _grant(custodian: Custodian, connection: Connection, instance: Instance, want: Want) -> Grant | Deny:
    now_ms = custodian.now(connection)
    refusal = _refusal(connection, instance, want, now_ms)
    model = models.find(connection, want.model)
    if refusal is not None or model is None:
        return Deny(model=want.model, consumer=want.consumer, code=refusal or DenyCode.NO_BUDGET_ROW)
    scopes = path(want.model, instance.borrower, want.consumer)
    lease_id = LeaseId(secrets.token_hex(16))
    event = Draw(
        lease_id=lease_id,
        instance=instance.instance,
        borrower=instance.borrower,
        model=want.model,
        manifest=model.manifest_digest,
        consumer=want.consumer,
        minimum=want.minimum,
        target=want.target,
        policy=model.policy,
        refundable=instance.refundable,
        held_by_instance=leases.held_by_instance(connection, instance.instance, want.model),
        held_by_borrower=leases.held_by_borrower(connection, instance.borrower, want.model),
        ttl_ms=min(model.policy.ttl_ms, instance.valid_until_ms - now_ms),
        grace_ms=GRACE_MS,
        now_ms=now_ms,
    )
    effects = book.apply(_book(budgets.rows_on(connection, scopes, now_ms)), event)
    if effects.outcome is not Outcome.GRANTED:
        return _denied(custodian, connection, instance, want, effects)
    return _granted(custodian, connection, effects)


def _refusal(connection: Connection, instance: Instance, want: Want, now_ms: int) -> DenyCode | None:
    state = stops.state_for(connection, instance)
    if instance.state != "live" or state.is_wide() or state.stops_consumer(want.consumer):
        return DenyCode.STOPPED
    if now_ms >= instance.valid_until_ms:
        return DenyCode.REATTEST
    consumer = parties.find(connection, PartyRole.CONSUMER, want.consumer)
    borrower = parties.find(connection, PartyRole.BORROWER, instance.borrower)
    if consumer is None or consumer.revoked or consumer.borrower != instance.borrower:
        return DenyCode.NO_BUDGET_ROW
    if borrower is None or borrower.revoked:
        return DenyCode.STOPPED
    model = models.find(connection, want.model)
    if model is None or model.withdrawn or want.model not in instance.models:
        return DenyCode.STOPPED
    return None


def _denied(custodian: Custodian, connection: Connection, instance: Instance, want: Want, effects: Effects) -> Deny:
    code = _DENIALS[effects.outcome]
    if code is DenyCode.EXHAUSTED and want.ask:
        asks.file_by_enclave(custodian, connection, instance, want)
    return Deny(
        model=want.model,
        consumer=want.consumer,
        code=code,
        available=effects.available,
        retry_after_ms=0 if code is DenyCode.EXHAUSTED else 2_000,
    )


def _granted(custodian: Custodian, connection: Connection, effects: Effects) -> Grant:
    (lease,) = effects.leases
    budgets.write(connection, effects.rows)
    leases.add(connection, lease, lease.rows[0].dimension)
    custodian.record(
        connection,
        LeaseGranted(
            lease_id=lease.lease_id,
            instance=lease.instance,
            borrower=lease.borrower,
            model=lease.model,
            consumer=lease.consumer,
            units=lease.units,
            rows=lease.rows,
        ),
    )
    return Grant(
        lease_id=lease.lease_id,
        model=lease.model,
        consumer=lease.consumer,
        units=lease.units,
        ttl_ms=lease.ttl_ms,
        policy=lease.policy,
        path_remaining=effects.available,
    )


async def wiped(custodian: Custodian, envelope: Envelope) -> Envelope:
    """Take an instance's statement that everything is gone, with its final reports."""

    def job(connection: Connection) -> Envelope:
        instance = instances.require(connection, decode_signed(envelope.payload, messages.Wiped).instance)
        statement = open_envelope(envelope, messages.WIPED, messages.Wiped, [VerifyKey(instance.identity_key)])
        instances.touch(connection, instance.instance, custodian.now(connection))
        _take_reports(custodian, connection, instance, statement.reports)
        instance = instances.require(connection, instance.instance)
        if instance.state == "live":
            instance = msgspec.structs.replace(instance, state="wiped", wiped_epoch=statement.epoch)
            instances.replace(connection, instance)
            custodian.record(connection, Wiped(instance=instance.instance, epoch=statement.epoch))
        return seal(STOP_STATE, stops.state_for(connection, instance), custodian.keys.commands)

    return await custodian.database.run(job)


async def listener(custodian: Custodian, envelope: Envelope) -> tuple[Instance, Envelope]:
    """Authenticate an instance that opens its push stream; return it with its stop state."""

    def job(connection: Connection) -> tuple[Instance, Envelope]:
        instance = instances.require(connection, decode_signed(envelope.payload, messages.Listen).instance)
        open_envelope(envelope, messages.LISTEN, messages.Listen, [VerifyKey(instance.identity_key)])
        return instance, custodian.stop_state(connection, instance)

    return await custodian.database.run(job)


async def stop_state_of(custodian: Custodian, instance: InstanceId) -> Envelope:
    """Return the signed stop state of an admitted instance, as of now."""
    return await custodian.database.run(
        lambda connection: custodian.stop_state(connection, instances.require(connection, instance))
    )
