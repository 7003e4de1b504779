"""What operators see: parties, models, budgets, usage, enclaves, stops, requests, the log."""

import asyncio
from typing import Literal, get_args

from aigovtool.attestation.model import TeeType
from aigovtool.attestation.policy import AppraisalPolicy
from aigovtool.custodian.custodian import Custodian, rolled_back
from aigovtool.custodian.service import authority, witnesses
from aigovtool.custodian.service.announcements import announce
from aigovtool.custodian.service.continuity import EVERYBODY, note_gap, remembers
from aigovtool.custodian.service.reports import sweep
from aigovtool.custodian.service.standing import policy_in_force
from aigovtool.custodian.store import asks, budgets, facts, instances, leases, log, models, parties, stops
from aigovtool.custodian.store.records import Instance
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.custodian.store.turns import STRANGERS, in_line_of
from aigovtool.errors import InvalidValueError
from aigovtool.ids import key_id_of
from aigovtool.ledger.budget import BudgetRow
from aigovtool.ledger.checkpoint import open_checkpoint, parse_checkpoint
from aigovtool.ledger.entry import EntryBody
from aigovtool.ledger.policy import ServingPolicy, consequences
from aigovtool.package.charge import charged_per, of_any_size
from aigovtool.package.manifest import TensorSpec
from aigovtool.protocol import views
from aigovtool.protocol.release import NotServed

#: Instances shown, of each borrower those heard of lately and those that hold leases: older ones are in the audit log.
_SHOWN = 200
#: With so many bytes a page of the log is full, however few entries that are: its readers take 32 MiB of text.
_PAGE_BYTES = 8 << 20
_LOOKED_UP = {log.kind_of(body) for body in get_args(EntryBody) if body not in log.EVERYDAY}


async def show_parties(custodian: Custodian) -> views.Parties:
    """Return all parties."""
    found = await custodian.database.run(parties.everyone)
    return views.Parties(
        parties=[
            views.PartyView(
                role=party.role,
                name=party.name,
                borrower=party.borrower,
                key=key_id_of(party.key),
                not_after_ms=party.not_after_ms,
                revoked=party.revoked,
            )
            for party in found
        ]
    )


def _tensor(spec: TensorSpec) -> str:
    shape = "?" if spec.shape is None else ",".join(str(axis) for axis in spec.shape)
    return f"{spec.name} {spec.datatype.value}[{shape}]"


async def show_models(custodian: Custodian) -> views.Models:
    """Return all models."""
    found = await custodian.database.run(models.everything)
    return views.Models(
        models=[
            views.ModelView(
                model=model.model,
                manifest=model.manifest_digest,
                package=model.package,
                package_bytes=model.package_bytes,
                sealer=key_id_of(model.sealer),
                policy=model.policy,
                borrowers=model.borrowers,
                inputs=[_tensor(spec) for spec in model.manifest.inputs],
                outputs=[_tensor(spec) for spec in model.manifest.outputs],
                charged_per=charged_per(model.manifest.inputs),
                of_any_size=of_any_size(model.manifest.inputs),
                withdrawn=model.withdrawn,
            )
            for model in found
        ]
    )


async def show_budgets(custodian: Custodian) -> views.Budgets:
    """Return the rows of the current windows, with what the dial means for them."""

    def job(transaction: Transaction) -> views.Budgets:
        now_ms = custodian.now(transaction)
        sweep(custodian, transaction, now_ms)
        return views.Budgets(
            budgets=[_budget(transaction, row, now_ms) for row in budgets.current_rows(transaction, now_ms)]
        )

    return await custodian.database.run(job)


def _budget(transaction: Transaction, row: BudgetRow, now_ms: int) -> views.BudgetView:
    room = 0 if row.ended(now_ms) else row.room()
    model = models.find(transaction, row.key.scope.model)
    meaning = None
    if model is not None and room is not None and row.limit is not None:
        meaning = consequences(model.policy, row.key.dimension, room, row.limit)
    return views.BudgetView(
        key=row.key,
        limit=row.limit,
        posted=row.posted,
        pending=row.pending,
        room=room,
        consequences=meaning,
        earlier=row.earlier,
        not_after_ms=row.not_after_ms,
    )


async def show_usage(custodian: Custodian) -> views.Usage:
    """Return usage by model and consumer."""

    def job(transaction: Transaction) -> views.Usage:
        sweep(custodian, transaction, custodian.now(transaction))
        return views.Usage(usage=leases.totals(transaction))

    return await custodian.database.run(job)


async def show_enclaves(custodian: Custodian) -> views.Enclaves:
    """Return instances, newest first, with what a stop could still cost on each.

    Whoever boots again and again hides no other borrower's; of its own it is said how many are not shown.
    """
    connected = custodian.hub.connected()

    def job(transaction: Transaction) -> views.Enclaves:
        now_ms = custodian.now(transaction)
        sweep(custodian, transaction, now_ms)
        shown, since, longer = [], authority.since(transaction, now_ms), authority.longer_ttls(transaction)
        for instance, contact_ms in instances.listed(transaction, since, _SHOWN):
            held = leases.outstanding(transaction, instance.instance)
            lent = models.among(transaction, instance.models)
            policies = [model.policy for model in lent]
            until_ms = 0 if instance.state == "wiped" else authority.authority_until(lent, longer, contact_ms)
            shown.append(
                views.EnclaveView(
                    instance=instance.instance,
                    borrower=instance.borrower,
                    tee=instance.tee,
                    simulated=instance.tee is TeeType.SIMULATED,
                    state=_state(instance.state, policies, now_ms - contact_ms),
                    models=instance.models,
                    attested_at_ms=instance.attested_at_ms,
                    valid_until_ms=instance.valid_until_ms,
                    last_contact_ms=contact_ms,
                    outstanding=held,
                    authority_until_ms=until_ms,
                    wiped_epoch=instance.wiped_epoch,
                    connected=instance.instance in connected,
                    result=instance.result,
                    why=instance.why,
                    not_served=_not_served(instance),
                )
            )
        heard = instances.count_heard(transaction, since)
        unlisted = {borrower: number - _SHOWN for borrower, number in heard.items() if number > _SHOWN}
        return views.Enclaves(enclaves=shown, server_time_ms=now_ms, unlisted=unlisted)

    return await custodian.database.run(job)


def _not_served(instance: Instance) -> tuple[views.ModelNotServed, ...]:
    """Return what an instance was started for and does not serve: what was refused here, then what it found itself."""
    by: tuple[tuple[Literal["custodian", "enclave"], tuple[NotServed, ...]], ...] = (
        ("custodian", instance.refused),
        ("enclave", instance.set_aside),
    )
    return tuple(
        views.ModelNotServed(model=one.model, by=who, code=one.code, reason=one.reason)
        for who, models_ in by
        for one in models_
    )


def _state(state: str, policies: list[ServingPolicy], silent_ms: int) -> str:
    """Return the state, telling an instance that has wiped itself by now (or is off) from one that serves."""
    wipe_after_ms = min((policy.wipe_after_ms for policy in policies), default=0)
    return "silent" if state == "live" and silent_ms > wipe_after_ms else state


async def show_stops(custodian: Custodian) -> views.Stops:
    """Return the stops in force."""

    def job(transaction: Transaction) -> views.Stops:
        found = [
            views.StopView(target=stop.target, value=stop.value, epoch=stop.epoch) for stop in stops.active(transaction)
        ]
        return views.Stops(stops=found, epoch=facts.epoch(transaction))

    return await custodian.database.run(job)


async def show_asks(custodian: Custodian) -> views.Asks:
    """Return requests for more budget: the open ones, then those that were decided; of either the newest first."""
    return views.Asks(asks=await custodian.database.run(asks.everything))


async def show_policy(custodian: Custodian) -> AppraisalPolicy:
    """Return the appraisal policy in force."""
    return await custodian.database.run(policy_in_force)


async def show_log(custodian: Custodian, start: int, limit: int) -> views.LogPage:
    """Return entries of the audit log: fewer than asked for where they are long, and none beyond its end alone."""

    def job(transaction: Transaction) -> list[bytes]:
        return log.page(transaction, start, limit, enough_bytes=_PAGE_BYTES)

    entries = await custodian.database.run(job)
    return views.LogPage(start=start, entries=entries)


async def show_kind(custodian: Custodian, kind: str, before: int, limit: int) -> views.LogFound:
    """Return the newest entries of one kind; as many as `show_log`.

    Raises:
        InvalidValueError: there is no such kind, or it is so common that it is not looked up (`log_kind`).
    """
    if kind not in _LOOKED_UP:
        raise InvalidValueError("entries of this kind are not looked up; read the log's pages", reason="log_kind")

    def job(transaction: Transaction) -> list[bytes]:
        return log.newest_of(transaction, kind, before, limit, enough_bytes=_PAGE_BYTES)

    entries = await custodian.database.run(job)
    return views.LogFound(entries=entries)


async def show_head(custodian: Custodian) -> views.LogHead:
    """Return a checkpoint signed now, and the newest co-signatures of witnesses; to anybody who asks.

    Raises:
        OverloadedError: too many ask at this moment.
    """
    return await custodian.database.run_open(lambda transaction: witnesses.show_head(custodian, transaction))


async def compare(custodian: Custodian, seen: views.CheckpointSeen) -> views.LogHead:
    """Take somebody's checkpoint, and return the present one. A newer one than this ledger's ends all grants.

    It is looked at also while a crowd of strangers is kept waiting: whoever shows it may be the last who remembers.

    Raises:
        LogError: it is malformed, or not one of this log.
        LedgerRollbackError: this ledger does not remember it.
        OverloadedError: too many ask for the present one at this moment.
    """
    shown = parse_checkpoint(seen.checkpoint)

    def note(transaction: Transaction) -> tuple[bool, bool]:
        epoch = facts.epoch(transaction)
        return note_gap(custodian, transaction, seen.checkpoint), facts.epoch(transaction) > epoch

    with in_line_of(STRANGERS):
        noted = await custodian.database.run(lambda running: note(running) if remembers(running, shown) else None)
        if noted is None:
            # Whoever forges one must not cost the ledger's writer the time that it takes to see that.
            await asyncio.to_thread(open_checkpoint, seen.checkpoint, custodian.keys.key_set.log_keys())
            noted = await custodian.database.run(note)
    gap, leapt = noted
    if leapt:
        await announce(custodian, EVERYBODY)
    if gap:
        raise rolled_back()
    return await show_head(custodian)


async def show_gap(custodian: Custodian) -> views.GapView:
    """Return what is known to be lost, if anything."""
    head = await custodian.database.run(lambda transaction: transaction.head)
    gap = head.gap
    return views.GapView(
        generation=head.generation,
        size=(gap.remembered if gap is not None else 0) or head.frontier.size,
        quiet_until_ms=head.quiet_until_ms,
        checkpoint=None if gap is None else gap.checkpoint,
        lost_size=None if gap is None else gap.size,
        lost_generation=None if gap is None else gap.generation,
        found_at_ms=None if gap is None else gap.found_at_ms,
        shown_since=head.shown_since,
    )
