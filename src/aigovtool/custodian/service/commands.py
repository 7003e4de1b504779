"""Operator commands: signed, fresh, applied once, and named in the audit log by their digest."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from aigovtool.attestation.policy import mark_of, policy_digest, require_successor
from aigovtool.crypto.identity import Identity
from aigovtool.crypto.sign import Envelope, VerifyKey, open_envelope
from aigovtool.custodian.custodian import Custodian
from aigovtool.custodian.hub import Announcement
from aigovtool.custodian.service import asks as ask_service
from aigovtool.custodian.service import lending, recovery, witnesses
from aigovtool.custodian.service.acting import Acting
from aigovtool.custodian.service.announcements import announce
from aigovtool.custodian.service.asks import party_of
from aigovtool.custodian.service.continuity import EVERYBODY, names_present
from aigovtool.custodian.service.credentials import certificate_for
from aigovtool.custodian.service.lending import require_next
from aigovtool.custodian.service.reexamination import reexamine
from aigovtool.custodian.service.refusals import is_refusal, note, reason_of
from aigovtool.custodian.store import asks, budgets, facts, instances, models, parties, stops
from aigovtool.custodian.store.records import Party
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import (
    AIGovToolError,
    ConflictError,
    InvalidValueError,
    NotFoundError,
    SignatureInvalidError,
)
from aigovtool.ids import OperatorId, digest_of, key_id_of, parse_name
from aigovtool.ledger import entry
from aigovtool.ledger.budget import BudgetLimit, BudgetRow, RowKey, Scope, Window
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.limits import MAX_INTEGER
from aigovtool.protocol import commands
from aigovtool.protocol.commands import COMMAND, COMMAND_MAX_AGE_MS, COSIGNED_MAX_AGE_MS, Command, CommandResult
from aigovtool.protocol.cosigning import needs_two

_MAX_VALIDITY_MS: Final = 10 * 365 * 86_400_000
#: Acts without an epoch of their own that enclaves are told of.
_RAISING: Final = (commands.GrantBudget, commands.SetBudget, commands.DecideAsk)


async def execute(custodian: Custodian, identity: Identity, envelope: Envelope) -> CommandResult:
    """Carry out a command of the operator on this connection; the same command again answers the same.

    Raises:
        SignatureInvalidError: not signed by this operator, for another custodian, or too old.
        AIGovToolError: why the act was refused; nothing was changed, and the refusal is in the audit log.
    """
    command, mark = await custodian.database.run(
        lambda transaction: _opened(custodian, transaction, identity, envelope)
    )
    announced: list[Announcement] = []

    def act(transaction: Transaction) -> CommandResult:
        announced.clear()
        _signers(custodian, transaction, identity, envelope)  # any of them may have been revoked a moment ago
        before = asks.done(transaction, command.command_id, mark.digest)
        if before is not None:
            if before.epoch is not None or isinstance(command.act, _RAISING):
                announced.append(EVERYBODY)  # the reply to that COMMIT may have been lost, and the announcement with it
            return before
        # However old, a command gets its answer again.
        _require_fresh(custodian, command, custodian.now(transaction), cosigned=mark.second is not None)
        acting = Acting(custodian, transaction, command, mark, custodian.now(transaction), announced)
        if mark.second is None and _needs_two(transaction, command.act):
            raise ConflictError(
                "this needs a second operator",
                reason="needs_second",
                fix="save it with --save, and have another operator sign and send it with `aigovtool cosign`",
            )
        result = _ACTS[type(command.act)](acting, command.act)
        asks.remember(transaction, command.command_id, mark.digest, result)
        return result

    try:
        result = await custodian.database.run(act)
    except AIGovToolError as error:
        if is_refusal(error):
            await note(custodian, entry.CommandRefused(command=mark, code=error.code, reason=reason_of(error)))
            error.recorded = True
        raise
    for announcement in announced:
        await announce(custodian, announcement)
    if isinstance(command.act, commands.SetAppraisalPolicy):
        await reexamine(custodian)
    return result


def _needs_two(transaction: Transaction, act: commands.Act) -> bool:
    model = models.find(transaction, act.model) if isinstance(act, commands.SetModelTerms) else None
    present = None if model is None else model.policy
    return needs_two(act, operators=len(_operators(transaction)), present=present)


def _opened(
    custodian: Custodian, transaction: Transaction, identity: Identity, envelope: Envelope
) -> tuple[Command, entry.Command]:
    """Return a command that the operator on this connection signed, alone or with another, and its mark in the log."""
    signers = _signers(custodian, transaction, identity, envelope)
    command = open_envelope(envelope, COMMAND, Command, [VerifyKey(signer.key) for signer in signers])
    names = [signer.name for signer in signers]
    if command.operator not in names or command.custodian != custodian.keys.custodian:
        raise SignatureInvalidError("the command is not by this operator for this custodian", reason="wrong_command")
    second = next((OperatorId(name) for name in names if name != command.operator), None)
    digest = digest_of(envelope.payload)
    return command, entry.Command(
        operator=command.operator, command_id=command.command_id, digest=digest, second=second
    )


def _signers(custodian: Custodian, transaction: Transaction, identity: Identity, envelope: Envelope) -> list[Party]:
    caller, now_ms = party_of(transaction, identity), custodian.now(transaction)
    alone = len(envelope.signatures) == 1
    keys = [signature.keyid for signature in envelope.signatures]
    found = [caller] if alone else [parties.by_key(transaction, PartyRole.OPERATOR, key) for key in keys]
    signers = {party.name: party for party in found if party is not None and _can_act(party, now_ms)}
    if not len(signers) == len(found) == (1 if alone else 2) or caller.name not in signers:
        raise SignatureInvalidError(
            "a command is signed by the operator who sends it, and by one other at most, while their credentials last",
            reason="wrong_key",
        )
    return list(signers.values())


def _can_act(party: Party, now_ms: int) -> bool:
    """Return whether a party's credential is good; a signature comes without its certificate, which says until when."""
    return not party.revoked and party.not_after_ms > now_ms


def _require_fresh(custodian: Custodian, command: Command, now_ms: int, *, cosigned: bool) -> None:
    if isinstance(command.act, commands.Stop):
        return  # Whoever's clock is wrong, a stop takes effect. Only its own operator can send it, and once only.
    # By the host's clock, as the ledger's never goes back; while that is not believed, by what is believed.
    age_ms = (now_ms if custodian.clock.leapt_ms else custodian.time_ms()) - command.issued_at_ms
    if not -COMMAND_MAX_AGE_MS <= age_ms <= (COSIGNED_MAX_AGE_MS if cosigned else COMMAND_MAX_AGE_MS):
        raise SignatureInvalidError("the command is too old", reason="stale_command", fix="check the clocks")


def _add_party(acting: Acting, act: commands.AddParty) -> CommandResult:
    parse_name(act.name, act.role.value)
    if (act.role is PartyRole.CONSUMER) != (act.borrower is not None):
        raise InvalidValueError("a consumer, and only a consumer, belongs to a borrower", reason="bad_party")
    if act.borrower is not None:
        parties.require(acting.transaction, PartyRole.BORROWER, act.borrower)
    if not 0 < act.valid_for_ms <= _MAX_VALIDITY_MS:
        raise InvalidValueError("a credential is valid for up to ten years", reason="bad_validity")
    not_after_ms = acting.now_ms + act.valid_for_ms
    added = Party(role=act.role, name=act.name, borrower=act.borrower, key=act.key, not_after_ms=not_after_ms)
    parties.add(acting.transaction, added)
    index = acting.record(
        entry.PartyAdded(
            role=act.role,
            name=act.name,
            key=key_id_of(act.key),
            borrower=act.borrower,
            not_after_ms=not_after_ms,
            command=acting.mark,
        )
    )
    return acting.result(index, certificate=certificate_for(acting.custodian.keys, added, now_ms=acting.now_ms))


def _revoke_party(acting: Acting, act: commands.RevokeParty) -> CommandResult:
    party = parties.require(acting.transaction, act.role, act.name)
    if act.role is PartyRole.OPERATOR:
        _require_another_operator(acting, act.name)
    parties.replace(acting.transaction, msgspec.structs.replace(party, revoked=True))
    # Whoever serves or is served under this credential is stopped too, also while it has not yet expired.
    if act.role is PartyRole.OPERATOR:
        epoch = facts.next_epoch(acting.transaction)
    else:
        epoch = acting.stop(StopTarget(act.role.value), act.name, active=True)
    index = acting.record(entry.PartyRevoked(role=act.role, name=act.name, epoch=epoch, command=acting.mark))
    return acting.result(index, epoch=epoch)


def _operators(transaction: Transaction) -> list[Party]:
    """Return every operator that was ever enrolled, revoked or not."""
    return parties.of_role(transaction, PartyRole.OPERATOR)


def _require_another_operator(acting: Acting, name: str) -> None:
    """Refuse to revoke the last operator who could still act: nobody could stop anything any more."""
    others = [
        party for party in _operators(acting.transaction) if party.name != name and _can_act(party, acting.now_ms)
    ]
    if not others:
        raise ConflictError(
            f"{name} is the last operator who can act",
            reason="last_operator",
            fix="enrol another one first: `aigovtool operator add`, or `custodian add-operator` at the custodian",
        )


def _set_appraisal_policy(acting: Acting, act: commands.SetAppraisalPolicy) -> CommandResult:
    before = facts.get(acting.transaction, facts.APPRAISAL_POLICY, type(act.policy))
    if before is not None:
        require_successor(act.policy, mark_of(before))
        require_next(acting, act.policy.version, before.version)
    facts.put(acting.transaction, facts.APPRAISAL_POLICY, act.policy)
    facts.next_epoch(acting.transaction)
    index = acting.record(
        entry.AppraisalPolicySet(version=act.policy.version, digest=policy_digest(act.policy), command=acting.mark)
    )
    return acting.result(index)


def _grant_budget(acting: Acting, act: commands.GrantBudget) -> CommandResult:
    like = BudgetLimit(scope=act.scope, dimension=act.dimension, window=act.window, limit=0)
    before = budgets.limit_at(acting.transaction, like) or like
    if before.limit is None:
        raise ConflictError("this budget has no limit already", reason="unlimited")
    if before.not_after_ms is not None and before.not_after_ms <= acting.now_ms:
        raise ConflictError(
            "this budget has ended: nobody could use what is added to it",
            reason="budget_ended",
            fix="set it, with another end or with none: `aigovtool budget set --until`",
        )
    return acting.result(_set_limit(acting, before, before.limit + act.units))


def _set_budget(acting: Acting, act: commands.SetBudget) -> CommandResult:
    if act.limit.not_after_ms is not None and act.limit.not_after_ms <= acting.now_ms:
        raise InvalidValueError("a budget cannot end in the past", reason="bad_end")
    return acting.result(_set_limit(acting, act.limit, act.limit.limit))


def _set_limit(acting: Acting, like: BudgetLimit, units: int | None) -> int:
    """Set the limit that is, or will be, where `like` stands; its end is that of `like`."""
    models.require(acting.transaction, like.scope.model)
    if like.scope.borrower is not None:
        parties.require(acting.transaction, PartyRole.BORROWER, like.scope.borrower)
    if like.scope.consumer is not None:
        consumer = parties.require(acting.transaction, PartyRole.CONSUMER, like.scope.consumer)
        if consumer.borrower != like.scope.borrower:
            raise InvalidValueError("this consumer belongs to another borrower", reason="bad_scope")
    if units is not None and units > MAX_INTEGER:
        raise InvalidValueError("a budget is at most 2**53 - 1 units", reason="budget_too_large")
    limit = msgspec.structs.replace(like, limit=units)
    budgets.set_limit(acting.transaction, limit, acting.now_ms)
    acting.announce(Announcement(granted=limit.scope.model))
    return acting.record(entry.BudgetSet(limit=limit, command=acting.mark))


def _decide_ask(acting: Acting, act: commands.DecideAsk) -> CommandResult:
    ask = asks.require(acting.transaction, act.ask_id)
    if ask.state != "open":
        raise ConflictError(f"this request was {ask.state} before", reason="already_decided")
    units = (ask.units if act.units is None else act.units) if act.approve else 0
    if act.approve:
        _approve(acting, ask, units)
    by = acting.command.operator
    decided = ask_service.decided(ask, approved=act.approve, units=units, operator=by, reason=act.reason)
    asks.replace(acting.transaction, decided)
    index = acting.record(entry.AskDecided(ask_id=ask.ask_id, approved=act.approve, command=acting.mark))
    return acting.result(index)


def _approve(acting: Acting, ask: commands.AskState, units: int) -> None:
    """Raise the lifetime limits on the path so that together they leave exactly `units` more than before.

    One that leaves so much anyway stays: others share it, and it would grow with each approval for one of them. Ends
    stay, too, also one that has passed.

    Raises:
        InvalidValueError: not even one unit (`no_units`).
        NotFoundError: there is no budget of this dimension on the path (`no_budget_row`).
        ConflictError: a window leaves less than `units`, and less than the lifetime does, so that more of that helps
            nobody (`window_exhausted`).
    """
    if units == 0:
        raise InvalidValueError("an approval is of one unit at least", reason="no_units", fix="deny the request")
    limited = [row for row in _rows_for(acting, ask) if row.limit is not None]
    tightest = min(limited, key=lambda row: (row.room(), row.key.window is not Window.LIFETIME), default=None)
    if tightest is None:
        return  # there is no limit: so many can be granted already
    room, window = tightest.room() or 0, tightest.key.window
    if window is not Window.LIFETIME:
        if room < units:
            raise _window_exhausted(tightest.key, room)
        return
    for row in limited:
        if row.key.window is window and (row.room() or 0) < room + units:
            like = BudgetLimit(
                scope=row.key.scope,
                dimension=row.key.dimension,
                window=window,
                limit=row.limit,
                not_after_ms=row.not_after_ms,
            )
            _set_limit(acting, like, row.posted + row.pending + room + units)


def _rows_for(acting: Acting, ask: commands.AskState) -> list[BudgetRow]:
    scope = ask.scope
    scopes = dict.fromkeys((Scope(model=scope.model), Scope(model=scope.model, borrower=scope.borrower), scope))
    rows = budgets.rows_on(acting.transaction, tuple(scopes), acting.now_ms)
    found = [row for row in rows if row.key.dimension is ask.dimension]
    if not found:
        raise NotFoundError(
            "there is no budget on this path to raise", reason="no_budget_row", fix="use `aigovtool budget grant`"
        )
    return found


def _window_exhausted(key: RowKey, room: int) -> ConflictError:
    scope = " / ".join(part for part in (key.scope.model, key.scope.borrower, key.scope.consumer) if part is not None)
    return ConflictError(
        f"an approval raises lifetime budgets, but it is the {key.window} budget of {scope} that leaves {room} only",
        reason="window_exhausted",
        fix=f"raise that one first, with `aigovtool budget set --window {key.window}`; or wait, or deny the request",
    )


def _stop(acting: Acting, act: commands.Stop) -> CommandResult:
    _check_target(acting, act.target, act.value)
    epoch = acting.stop(act.target, act.value, active=True)
    index = acting.record(entry.Stopped(target=act.target, value=act.value, epoch=epoch, command=acting.mark))
    return acting.result(index, epoch=epoch)


def _resume(acting: Acting, act: commands.Resume) -> CommandResult:
    present = stops.epoch_of(acting.transaction, act.target, act.value)
    if present is None:
        raise ConflictError("this is not stopped", reason="not_stopped")
    if act.epoch is None and acting.mark.second is not None:
        raise InvalidValueError(
            "an order of two names the stop that it lifts", reason="stop_not_named", fix="save it anew"
        )
    if act.epoch is not None and not names_present(acting.transaction, act.target, act.value, act.epoch, present):
        raise ConflictError(
            "it was stopped again since this was ordered, perhaps for another reason",
            reason="stop_changed",
            fix="find out why; then order it anew",
        )
    if act.target in {StopTarget.BORROWER, StopTarget.CONSUMER}:
        parties.require(acting.transaction, PartyRole(act.target.value), act.value)
    elif act.target is StopTarget.MODEL:
        models.require(acting.transaction, parse_model(act.value))
    epoch = acting.stop(act.target, act.value, active=False)
    index = acting.record(entry.Resumed(target=act.target, value=act.value, epoch=epoch, command=acting.mark))
    return acting.result(index, epoch=epoch)


def parse_model(value: str) -> Any:  # noqa: ANN401 - a NewType over the checked string
    """Return a model's name."""
    return parse_name(value, "model")


def _check_target(acting: Acting, target: StopTarget, value: str) -> None:
    """Refuse a stop that would stop nothing because of a misspelt name.

    Raises:
        NotFoundError: there is no such model, party or enclave.
    """
    known = {
        StopTarget.ALL: lambda: value == "",
        StopTarget.MODEL: lambda: models.find(acting.transaction, parse_model(value)) is not None,
        StopTarget.BORROWER: lambda: parties.find(acting.transaction, PartyRole.BORROWER, value) is not None,
        StopTarget.CONSUMER: lambda: parties.find(acting.transaction, PartyRole.CONSUMER, value) is not None,
        StopTarget.ENCLAVE: lambda: instances.find(acting.transaction, _instance(value)) is not None,
    }
    if not known[target]():
        raise NotFoundError(f"there is no {target} {value!r} to stop", reason="no_such_target")


def _instance(value: str) -> Any:  # noqa: ANN401 - a NewType over the string
    return value


_Act = Callable[[Acting, Any], CommandResult]
_ACTS: Final[dict[type, _Act]] = {
    commands.AddParty: _add_party,
    commands.RevokeParty: _revoke_party,
    commands.AddModel: lending.add_model,
    commands.SetModelTerms: lending.set_model_terms,
    commands.WithdrawModel: lending.withdraw_model,
    commands.SetAppraisalPolicy: _set_appraisal_policy,
    commands.GrantBudget: _grant_budget,
    commands.SetBudget: _set_budget,
    commands.DecideAsk: _decide_ask,
    commands.Stop: _stop,
    commands.Resume: _resume,
    commands.EnrolWitness: witnesses.enrol,
    commands.RetireWitness: witnesses.retire,
    commands.SettleGap: recovery.settle_gap,
    commands.WriteOff: recovery.write_off,
}
