"""Stops in force, and the stop state that they mean for one instance."""

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import ColumnElement, CompoundSelect, and_, bindparam, func, or_, select, union_all, update

from aigovtool.custodian.store import facts, name_lists, parties
from aigovtool.custodian.store.records import Instance, Party
from aigovtool.custodian.store.schema import ACTIVE, stops
from aigovtool.custodian.store.transaction import Transaction
from aigovtool.errors import ConflictError
from aigovtool.ledger.entry import PartyRole, StopTarget
from aigovtool.protocol.stop import ActiveStop, StopState

#: Consumers of one borrower that are listed as stopped at a time. The list is in the reply to every renewal, beside the
#: answer: with names of 63 characters and a thousand grants in bound mode, enclaves can still read it (1 MiB).
MAX_STOPPED_CONSUMERS: Final = 1_200


def _aimed(target: StopTarget, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return and_(stops.c.target == target.value, condition)


# A consumer's stop alone names a borrower. Of a borrower's revoked consumers, thousands in time, are read those whose
# credentials have not ended, and the newest of all.
_OF_CONSUMERS: Final = select(stops).where(stops.c.borrower == bindparam("of_borrower"))
_IS_LISTED: Final = and_(ACTIVE, stops.c.until_ms >= bindparam("now_ms"))
_LISTED: Final = _OF_CONSUMERS.where(_IS_LISTED)
_OTHERS: Final = (
    select(func.count())
    .select_from(stops)
    .where(stops.c.borrower == bindparam("of_borrower"), _IS_LISTED, stops.c.value != bindparam("but"))
)
_NEWEST: Final = _OF_CONSUMERS.order_by(stops.c.epoch.desc()).limit(1).subquery()
_RENEW_WIDE: Final = (
    update(stops).where(ACTIVE, stops.c.target != StopTarget.CONSUMER.value).values(epoch=bindparam("new_epoch"))
)


@lru_cache
def _concerning(models: int) -> CompoundSelect[Any]:
    """Return the statement that finds what concerns an instance of so many models."""
    wide = select(stops).where(
        or_(
            stops.c.target == StopTarget.ALL.value,
            _aimed(StopTarget.MODEL, name_lists.is_one_of(stops.c.value, "model", models)),
            _aimed(StopTarget.BORROWER, stops.c.value == bindparam("of_borrower")),
            _aimed(StopTarget.ENCLAVE, stops.c.value == bindparam("of_instance")),
        )
    )
    return union_all(wide, _LISTED, select(_NEWEST))


def put(transaction: Transaction, target: StopTarget, value: str, epoch: int, *, active: bool) -> None:
    """Set or lift a stop at an epoch.

    Raises:
        ConflictError: so many consumers of one borrower are stopped that no enclave could read their list any more
            (`too_many_stopped`).
    """
    consumer = parties.find(transaction, PartyRole.CONSUMER, value) if target is StopTarget.CONSUMER else None
    if active and consumer is not None:
        _require_readable(transaction, consumer)
    values = {
        "borrower": None if consumer is None else consumer.borrower,
        "until_ms": None if consumer is None else consumer.not_after_ms,
        "epoch": epoch,
        "active": active,
    }
    transaction.upsert(stops, {"target": target.value, "value": value}, values)


def renew_wide(transaction: Transaction, epoch: int) -> None:
    """Give each stop in force that is wider than a consumer this epoch."""
    transaction.execute(_RENEW_WIDE, {"new_epoch": epoch})


def _require_readable(transaction: Transaction, consumer: Party) -> None:
    now_ms = transaction.head.clock_ms
    values = {"of_borrower": consumer.borrower, "now_ms": now_ms, "but": consumer.name}
    others = int(transaction.execute(_OTHERS, values).scalar_one())
    if others >= MAX_STOPPED_CONSUMERS and consumer.not_after_ms >= now_ms:
        raise ConflictError(
            f"{others:,} consumers of {consumer.borrower} are stopped, and no enclave could read a longer list",
            reason="too_many_stopped",
            fix=f"stop the borrower {consumer.borrower}; a consumer is listed until its credential ends",
        )


def epoch_of(transaction: Transaction, target: StopTarget, value: str) -> int | None:
    """Return the epoch of this very stop, or None where it is not in force."""
    condition = (stops.c.target == target.value) & (stops.c.value == value) & stops.c.active
    found = transaction.execute(select(stops.c.epoch).where(condition)).scalar_one_or_none()
    return None if found is None else int(found)


def active(transaction: Transaction) -> list[ActiveStop]:
    """Return the stops in force."""
    statement = select(stops).where(stops.c.active).order_by(stops.c.target, stops.c.value)
    return [
        ActiveStop(target=StopTarget(found.target), value=found.value, epoch=found.epoch)
        for found in transaction.execute(statement)
    ]


def state_for(transaction: Transaction, instance: Instance) -> StopState:
    """Return the stop state of an instance, lifted stops counting towards its scope epoch.

    A consumer's stop concerns the enclaves of its borrower only (nobody else may serve it), and is listed until its
    credential ends: after that nobody can present it. It counts towards the scope epoch for ever, which never falls.
    """
    now_ms = transaction.head.clock_ms
    read = transaction.execute(_concerning(len(instance.models)), {**_places(instance), "now_ms": now_ms})
    found = sorted({(stop.target, stop.value): stop for stop in read}.values(), key=lambda stop: stop[:2])
    return StopState(
        instance=instance.instance,
        epoch=facts.epoch(transaction),
        scope_epoch=max((stop.epoch for stop in found), default=0),
        stops=[
            ActiveStop(target=StopTarget(stop.target), value=stop.value, epoch=stop.epoch)
            for stop in found
            if stop.active and (stop.until_ms is None or now_ms <= stop.until_ms)
        ],
    )


def _places(instance: Instance) -> dict[str, object]:
    models = name_lists.names("model", instance.models)
    return {**models, "of_borrower": instance.borrower, "of_instance": instance.instance}
