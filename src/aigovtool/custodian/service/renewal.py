"""Renewal: one transaction per heartbeat (spec: leases section 4), answered only after COMMIT.

Order: signature -> the same answer for the same request, none for an older one -> overdue leases charged -> reports ->
wants.
The current stop state is beside the answer each time, also beside a repeated one.
"""

from dataclasses import dataclass, field
from typing import Final

import msgspec

from aigovtool.codec import encode
from aigovtool.crypto.sign import Envelope, seal, seal_again
from aigovtool.custodian.custodian import Custodian, rolled_back
from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.service.announcements import announce
from aigovtool.custodian.service.continuity import EVERYBODY, note_epoch, note_gap, place_of
from aigovtool.custodian.service.grants import Granting
from aigovtool.custodian.service.hearing import heard
from aigovtool.custodian.service.refusals import note
from aigovtool.custodian.service.reports import find_fork, fork_of, sweep, take_reports
from aigovtool.custodian.service.standing import admits_more
from aigovtool.custodian.store import budgets, facts, instances, models, renewals, stops
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.renewals import Answered
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import AIGovToolError, ConflictError
from aigovtool.ids import ConsumerId, Digest, InstanceId, ModelId, digest_of
from aigovtool.ledger.book import rooms_on
from aigovtool.ledger.budget import path
from aigovtool.ledger.entry import Refused, Wiped
from aigovtool.ledger.policy import ServingPolicy
from aigovtool.ledger.units import Dimension
from aigovtool.limits import MAX_ROOMS_PER_ANSWER
from aigovtool.protocol import messages
from aigovtool.protocol.messages import Ack, Answer, Deny, DenyCode, ModelTerms, PathRoom, Renew, RenewReply, terms_of
from aigovtool.protocol.stop import STOP_STATE

_Path = tuple[ModelId, ConsumerId]
#: What an answer's rooms of one path take at least where names are as long as they may be: of each of two dimensions.
_PATH_BYTES: Final = 400


@dataclass(frozen=True, slots=True)
class _Renewed:
    """A reply or a refusal, and whom else it concerns: models of which somebody is short, and what is to be announced.

    What a refused renewal has shown (a gap of the ledger, two copies of an instance) is written all the same.
    """

    outcome: RenewReply | AIGovToolError
    short: frozenset[ModelId] = field(default_factory=frozenset)
    announced: tuple[Announcement, ...] = ()
    refused: tuple[Refused, ...] = ()


async def renew(custodian: Custodian, envelope: Envelope) -> RenewReply:
    """Take reports and grant leases.

    Raises:
        ForbiddenError, SignatureInvalidError: who sent this is not known, or did not sign it.
        ConflictError: the request id was used for another renewal (`request_changed`), or a newer one was answered
            since (`request_superseded`).
        LogError: the checkpoint that it returns is none of this log.
        LedgerRollbackError: that checkpoint is newer than this ledger, or another one was before.
    """
    async with heard(custodian, envelope, messages.RENEW, Renew) as request:
        renewed = await _answered(custodian, request, digest_of(envelope.payload))
        for announcement in (*(Announcement(recall=model) for model in renewed.short), *renewed.announced):
            await announce(custodian, announcement)
        for refusal in renewed.refused:
            await note(custodian, refusal)
        if isinstance(renewed.outcome, AIGovToolError):
            raise renewed.outcome
        return renewed.outcome


async def _answered(custodian: Custodian, request: Renew, digest: Digest) -> _Renewed:
    def job(transaction: Transaction) -> _Renewed:
        instance = instances.require(transaction, request.instance)
        epoch = facts.epoch(transaction)
        if note_gap(custodian, transaction, request.checkpoint_seen):
            return _Renewed(rolled_back(), announced=(EVERYBODY,) if facts.epoch(transaction) > epoch else ())
        note_epoch(custodian, transaction, request.epoch)
        newest, shown = renewals.newest_answer(transaction, instance.instance), place_of(request.checkpoint_seen)
        answered = Answered(request.request_id, shown)
        if newest is not None:
            if newest.answered.supersedes(request.request_id, shown):
                return _superseded(custodian, transaction, instance, request)
            if (before := newest.to(request.request_id, digest)) is not None:
                return _Renewed(_again(custodian, transaction, instance, before.answer))
            answered = newest.answered.then(request.request_id, shown)
        renewed, reply = _renew(custodian, transaction, instance, request)
        renewals.remember(transaction, instance.instance, answered, digest, reply)
        return renewed

    return await custodian.database.run(job)


def _again(custodian: Custodian, transaction: Transaction, instance: Instance, answer: Envelope) -> RenewReply:
    """Return an answer once more: the same bytes, under the key that is in use now."""
    key = custodian.keys.commands
    if [signature.keyid for signature in answer.signatures] != [key.public.key_id]:
        answer = seal_again(answer, key)
    state = custodian.stop_state(transaction, instance)
    return RenewReply(answer=answer, stop_state=state, key_set=custodian.keys.key_set.version)


def _superseded(custodian: Custodian, transaction: Transaction, instance: Instance, request: Renew) -> _Renewed:
    """Refuse a renewal that is older than one that was answered: nobody waits for it, unless there are two copies."""
    forked = find_fork(custodian, transaction, instance, request.reports)
    refusal = ConflictError("a newer renewal of this instance was answered since", reason="request_superseded")
    return _Renewed(refusal, announced=(fork_of(instance.instance),) if forked else ())


def _renew(
    custodian: Custodian, transaction: Transaction, instance: Instance, request: Renew
) -> tuple[_Renewed, RenewReply]:
    now_ms = custodian.now(transaction)
    instances.touch(transaction, instance.instance, now_ms)
    sweep(custodian, transaction, now_ms)
    taken = take_reports(custodian, transaction, instance, request.reports)
    if taken.forked:
        instance = instances.require(transaction, instance.instance)
    state = stops.state_for(transaction, instance)
    granting = Granting(custodian, transaction, instance, state=state, now_ms=now_ms, wants=request.wants)
    results = [granting.grant(want) for want in request.wants]
    policies = {model.model: model.policy for model in models.among(transaction, instance.models)}
    ttls = [policy.ttl_ms for policy in policies.values()]
    outdated = instance.generation < facts.generation(transaction)
    stopped = outdated or instance.state != "live" or state.is_wide()
    terms = tuple(terms_of(name, policy) for name, policy in policies.items())
    answer = Answer(
        custodian=custodian.keys.custodian,
        instance=instance.instance,
        request_id=request.request_id,
        generation=facts.generation(transaction),
        epoch=facts.epoch(transaction),
        server_time_ms=now_ms,
        checkpoint=custodian.checkpoint(transaction),
        ttl_ms=0 if stopped else min([max(0, instance.valid_until_ms - now_ms), *ttls]),
        results=results,
        acks=[Ack(lease_id=report.lease_id, seq=report.seq) for report in request.reports],
        rooms=_rooms(transaction, instance, policies, granting.rooms, taken.paths, most=_most_paths(terms)),
        terms=terms,
    )
    reply = RenewReply(
        answer=seal(messages.ANSWER, answer, custodian.keys.commands),
        stop_state=seal(STOP_STATE, state, custodian.keys.commands),
        key_set=custodian.keys.key_set.version,
        more=not stopped and admits_more(transaction, instance),
    )
    short = {one.model for one in results if isinstance(one, Deny) and one.code is DenyCode.RESERVED}
    for model in short:
        custodian.tell(transaction, Announcement(recall=model))
    forks = (fork_of(instance.instance),) if taken.forked else ()
    return _Renewed(reply, frozenset(short), forks, tuple(granting.refused)), reply


def _most_paths(terms: tuple[ModelTerms, ...]) -> int:
    """Return of how many paths an answer can tell beside these terms, so that the fullest one can be read."""
    taken = -(-len(encode(terms)) // _PATH_BYTES) if terms else 0
    return max(0, MAX_ROOMS_PER_ANSWER - taken)


def _rooms(
    transaction: Transaction,
    instance: Instance,
    policies: dict[ModelId, ServingPolicy],
    known: dict[_Path, dict[Dimension, int]],
    reported: set[_Path],
    *,
    most: int,
) -> list[PathRoom]:
    """Return what is left on each path after the whole renewal, nothing where a budget's time is over.

    What a single want left is known. Several share rows, and to a path that was only reported on units may come back.
    """
    now_ms = transaction.head.clock_ms
    found = dict(known) if len(known) == 1 else {}
    # Those that were wanted first; so many that the whole answer stays within what a message may have.
    others = [*sorted(known.keys() - found.keys()), *sorted(reported - known.keys())]
    for model, consumer in others[:most]:
        if (policy := policies.get(model)) is not None:
            rows = budgets.rows_on(transaction, path(model, instance.borrower, consumer), now_ms)
            found[model, consumer] = rooms_on(rows, policy, now_ms)
    return [
        PathRoom(model=model, consumer=consumer, dimension=dimension, units=units)
        for (model, consumer), limited in found.items()
        for dimension, units in limited.items()
    ]


async def wiped(custodian: Custodian, envelope: Envelope) -> Envelope:
    """Take an instance's statement that everything is gone, with (some of) its final reports."""
    async with heard(custodian, envelope, messages.WIPED, messages.Wiped) as statement:
        state, forked = await custodian.database.run(lambda transaction: _wiped(custodian, transaction, statement))
    if forked:
        await announce(custodian, fork_of(statement.instance))
    return state


def _wiped(custodian: Custodian, transaction: Transaction, statement: messages.Wiped) -> tuple[Envelope, bool]:
    instance = instances.require(transaction, statement.instance)
    instances.touch(transaction, instance.instance, custodian.now(transaction))
    taken = take_reports(custodian, transaction, instance, statement.reports)
    instance = instances.require(transaction, instance.instance)
    if instance.state == "live":
        instance = msgspec.structs.replace(instance, state="wiped", wiped_epoch=statement.epoch)
        instances.replace(transaction, instance)
        custodian.record(transaction, Wiped(instance=instance.instance, epoch=statement.epoch))
    return custodian.stop_state(transaction, instance), taken.forked


async def listener(custodian: Custodian, envelope: Envelope) -> tuple[Instance, int]:
    """Return who opens its push stream, and when it asked for that by its own time.

    Raises:
        ForbiddenError, SignatureInvalidError: who sent this is not known, or did not sign it.
        ConflictError: the stream that is open was asked for at that time, or later (`listen_superseded`): whoever sends
            a copy of an older message cuts no stream.
    """
    async with heard(custodian, envelope, messages.LISTEN, messages.Listen) as request:
        instance = await custodian.database.run(lambda transaction: instances.require(transaction, request.instance))
        if not custodian.hub.is_newest(request.instance, request.at_ms):
            raise ConflictError("a newer stream of this instance is open", reason="listen_superseded")
        return instance, request.at_ms


async def stop_state_of(custodian: Custodian, instance: InstanceId) -> Envelope:
    """Return the signed stop state of an admitted instance, as of now."""
    return await custodian.database.run(
        lambda transaction: custodian.stop_state(transaction, instances.require(transaction, instance))
    )
